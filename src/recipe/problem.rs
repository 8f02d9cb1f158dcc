//! What is wrong with a recipe, and where.

use std::fmt;

/// Where a value of a recipe comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// A line of the recipe file.
    Line { file: String, line: usize, column: usize, text: String },
    /// The file as a whole: something is missing from it.
    File(String),
    /// An environment variable.
    Variable(String),
    /// A `--set` argument.
    Argument(String),
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    pub place: Place,
    /// What is wrong and what was expected.
    pub message: String,
    /// What was probably meant.
    pub hint: Option<String>,
}

/// Everything that is wrong with a recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct Problems(pub Vec<Problem>);

impl Problem {
    /// Without a secret that stands where the problem is.
    pub fn without(mut self, secret: &str) -> Self {
        if let Place::Line { text, .. } | Place::Argument(text) = &mut self.place {
            *text = text.replace(secret, "…");
        }
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.place {
            Place::Line { file, line, column, .. } => write!(f, "{file}:{line}:{column}: ")?,
            Place::File(file) => write!(f, "{file}: ")?,
            Place::Variable(name) => write!(f, "environment variable {name}: ")?,
            Place::Argument(text) => write!(f, "--set {text}: ")?,
        }
        f.write_str(&self.message)?;
        if let Place::Line { line, text, .. } = &self.place {
            write!(f, "\n  {line:>4} | {text}")?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n       = {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if i > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
