//! Data sets: files of rows, what a row says, and the token windows and prompts that are made of them.

mod answer;
mod check;
mod content;
mod dataset;
mod divide;
mod files;
mod glance;
mod json;
mod library;
mod parquet;
mod part;
mod passage;
mod prompts;
mod row;
mod rows;
mod shape;
mod shots;
mod value;
mod whole;
mod windows;

pub use check::{are_enough, check};
pub use content::Content;
pub use dataset::Dataset;
pub use files::{Format, Row};
pub use glance::{BYTES_A_TOKEN, Glance, Kind, fields_read};
pub use json::Shape;
pub use library::{Defined, Library};
pub use part::Part;
pub use passage::{Passage, Target};
pub use prompts::{Asked, Has, Prompt, Prompting, asked, contents, prompts};
pub use row::{LITERAL_BREAK, Templates, has_literal_break};
pub use rows::Rows;
pub use shape::is_usual;
pub use whole::{Examples, Whole, solved_examples};
pub use windows::{Order, Packing, Windows, cut, tokens, within};
