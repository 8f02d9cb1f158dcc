//! calipr: pruning studies of language models, from a TOML recipe to Parquet tables.
//!
//! Modules import from left to right: [`recipe`] → [`data`] → [`model`] → [`prune`] → [`metrics`] →
//! [`pipeline`] → [`results`] → [`cli`], over the ground of [`digest`], [`linalg`], [`source`] and
//! [`tensors`].

pub mod cli;
pub mod data;
pub mod digest;
pub mod linalg;
pub mod metrics;
pub mod model;
pub mod pipeline;
pub mod prune;
pub mod recipe;
pub mod results;
pub mod source;
pub mod tensors;
mod words;
