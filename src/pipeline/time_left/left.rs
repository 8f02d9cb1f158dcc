//! What a study is at, and the time that is left, as people say it.

use std::fmt;
use std::ops::Add;

/// What a cell is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    Read,
    Prune,
    Evaluate,
    Score,
    Generate,
    Judge,
}

impl Doing {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Prune => "prune",
            Self::Evaluate => "evaluate",
            Self::Score => "score",
            Self::Generate => "generate",
            Self::Judge => "judge",
        }
    }

    /// What is counted meanwhile.
    pub fn counts(self) -> &'static str {
        match self {
            Self::Read | Self::Prune | Self::Evaluate => "block",
            Self::Score => "suite",
            Self::Generate => "prompt",
            Self::Judge => "question",
        }
    }
}

/// Time that is left, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Left {
    pub seconds: f64,
    /// Whether it rests on something unlike what is to come, or on nothing.
    pub is_rough: bool,
}

impl Left {
    pub const NOTHING: Self = Self { seconds: 0.0, is_rough: false };
    pub(super) const UNKNOWN: Self = Self { seconds: 0.0, is_rough: true };

    pub(super) fn about(seconds: f64) -> Self {
        Self { seconds: seconds.max(0.0), is_rough: false }
    }
}

impl Add for Left {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { seconds: self.seconds + other.seconds, is_rough: self.is_rough || other.is_rough }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.is_rough && self.seconds < 1.0 {
            return f.write_str("?");
        }
        if self.is_rough {
            f.write_str("~")?;
        }
        let (seconds, minutes) = (self.seconds.ceil() as u64, (self.seconds / 60.0).round() as u64);
        match minutes {
            _ if seconds < 10 => write!(f, "{seconds} s"),
            _ if seconds <= 90 => write!(f, "{} s", seconds.next_multiple_of(5)),
            0..60 => write!(f, "{minutes} min"),
            60..1440 => write!(f, "{} h {} min", minutes / 60, minutes % 60),
            _ => write!(f, "{} d {} h", minutes / 1440, minutes % 1440 / 60),
        }
    }
}
