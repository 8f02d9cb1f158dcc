//! What blocks are made of beside linears and attention.

mod activation;
#[cfg(feature = "cuda")]
mod cuda;
pub mod elementwise;
mod experts;
mod norm;

pub use experts::{Experts, Routed, Routing};
pub use norm::Norm;
