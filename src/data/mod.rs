//! Data sets: files of rows, what a row says, and the token windows and prompts that are made of them.

mod dataset;
mod files;
mod passage;
mod prompts;
mod row;
mod windows;

pub use dataset::{Dataset, Library, Part};
pub use files::{Format, Row};
pub use passage::{Passage, Target};
pub use prompts::{Choice, Prompt, Prompting, prompts};
pub use row::{Content, Templates};
pub use windows::{Order, Packing, Windows, cut};
