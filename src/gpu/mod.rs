//! What runs on CUDA devices beyond candle's operations: kernels of our own, and products that candle does not offer.
//!
//! The kernels are the text `kernels.cu`, compiled by NVRTC at run time for the device at hand. Their callers are candle
//! operations beside the code for the CPU that they agree with ([`crate::prune`], [`crate::model`]).

#[cfg(any(feature = "cuda", test))]
pub mod views;

#[cfg(feature = "cuda")]
mod elementwise;
#[cfg(feature = "cuda")]
pub mod kernels;
#[cfg(feature = "cuda")]
pub mod memory;
#[cfg(feature = "cuda")]
mod packing;
#[cfg(feature = "cuda")]
pub mod products;
#[cfg(feature = "cuda")]
mod pruning;
#[cfg(feature = "cuda")]
mod scores;
#[cfg(feature = "cuda")]
mod statistics;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub use {
    elementwise::Swiglu,
    kernels::{copied, view},
    packing::pack_left,
    products::ProductInF32,
    pruning::{Removal, prune_groups, prune_rows, prune_up_to, solve},
    scores::{CompareLogits, LogLikelihoods},
    statistics::{AddGram, AddSquares},
};

/// The kernels' text.
const KERNELS: &str = include_str!("kernels.cu");
