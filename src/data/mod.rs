//! Data sets: files of rows, what a row says, and the token windows and prompts that are made of them.

mod answer;
mod check;
mod dataset;
mod files;
mod json;
mod parquet;
mod part;
mod passage;
mod prompts;
mod row;
mod shape;
mod value;
mod windows;

pub use check::{are_enough, check};
pub use dataset::{Dataset, Library};
pub use files::{Format, Row};
pub use json::Shape;
pub use part::{Part, Rows};
pub use passage::{Passage, Target};
pub use prompts::{Asked, Choice, Has, Prompt, Prompting, asked, prompts};
pub use row::{Content, Templates};
pub use windows::{Order, Packing, Windows, cut};
