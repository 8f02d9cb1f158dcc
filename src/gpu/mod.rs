//! What CUDA devices need beyond candle's operations: kernels of our own, and products that candle does not offer.
//!
//! The kernels are the text `kernels.cu`, compiled by NVRTC at run time for the device at hand. Their callers stand beside
//! the code for the CPU that they agree with: [`crate::model`], [`crate::prune`], [`crate::metrics`], [`crate::pipeline`].

#[cfg(any(feature = "cuda", test))]
pub mod views;

#[cfg(feature = "cuda")]
pub mod kernels;
#[cfg(feature = "cuda")]
pub mod memory;
#[cfg(feature = "cuda")]
pub mod products;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub use kernels::{copied, view};
#[cfg(feature = "cuda")]
pub use products::ProductInF32;

/// The kernels' text.
const KERNELS: &str = include_str!("kernels.cu");
