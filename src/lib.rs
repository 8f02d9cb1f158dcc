//! calipr: pruning studies of language models, from a TOML recipe to Parquet tables.

pub mod data;
pub mod digest;
pub mod linalg;
pub mod metrics;
pub mod model;
pub mod prune;
pub mod source;
pub mod tensors;
mod words;
