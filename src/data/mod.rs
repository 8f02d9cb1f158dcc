//! Data sets: files of rows, what a row says, and the token windows that are cut from them.

mod dataset;
mod files;
mod row;
mod windows;

pub use dataset::{Dataset, Library, Part};
pub use files::{Format, Row};
pub use row::{Content, Templates};
pub use windows::{Order, Packing, Windows, cut};
