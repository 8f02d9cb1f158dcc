//! calipr: pruning studies of language models, from a TOML recipe to Parquet tables.
//!
//! From the ground up, each module importing only from those before it: [`memory`], [`disk`], [`guard`], [`fault`], [`warnings`], [`pace`], `table`, [`digest`], [`size`],
//! [`lock`], [`bundled`], [`templates`], `gpu`, [`linalg`], [`statistics`], [`tensors`] and [`source`]; [`model`], [`data`], [`prune`], [`judge`] and [`metrics`];
//! [`recipe`], which is made of their names and options; [`pipeline`] with `calibration`, whose sources it calls and which work
//! with its cache and its model; [`results`], [`study`], [`report`], [`cluster`] and [`cli`].

pub mod bundled;
mod calibration;
pub mod cli;
pub mod cluster;
pub mod data;
pub mod digest;
pub mod disk;
pub mod fault;
#[cfg(any(feature = "cuda", test))]
mod gpu;
pub mod guard;
pub mod judge;
pub mod linalg;
pub mod lock;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod pace;
pub mod pipeline;
pub mod prune;
pub mod recipe;
pub mod report;
pub mod results;
pub mod size;
pub mod source;
pub mod statistics;
pub mod study;
mod table;
pub mod templates;
pub mod tensors;
pub mod warnings;
mod words;

/// How the names of files begin that are not yet whole.
const UNFINISHED: &str = ".calipr-unfinished-";
