//! What blocks are made of beside linears and attention.

pub mod elementwise;
mod norm;

pub use norm::Norm;
