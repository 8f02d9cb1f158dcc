//! How the files of a model hold its weights.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How the files of a model hold its weights, which are read in floating point whatever it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stored {
    /// Parameters by the format that they are stored in, as the files call it: `Q4_1`, `BF16`, `F8_E4M3`.
    pub formats: BTreeMap<String, u64>,
    /// The format of most parameters that are quantised; None where none is.
    pub quantised: Option<String>,
}

impl Stored {
    /// Adds a tensor of so many parameters.
    pub fn add(&mut self, format: String, parameters: u64) {
        *self.formats.entry(format).or_default() += parameters;
        let quantised = self.formats.iter().filter(|(format, _)| is_quantised(format));
        self.quantised = quantised.max_by_key(|(_, parameters)| **parameters).map(|(format, _)| format.clone());
    }

    /// All parameters.
    pub fn parameters(&self) -> u64 {
        self.formats.values().sum()
    }
}

/// Whether a format has fewer than 16 bits a weight.
fn is_quantised(format: &str) -> bool {
    !["F64", "F32", "F16", "BF16"].contains(&format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_quantised_as_most_of_its_quantised_weights_are() {
        let mut stored = Stored::default();
        stored.add("F32".into(), 1000);
        assert_eq!(stored.quantised, None);
        stored.add("Q4_1".into(), 300);
        stored.add("Q8_0".into(), 200);
        stored.add("Q8_0".into(), 200);
        assert_eq!(stored.quantised.as_deref(), Some("Q8_0"));
        assert_eq!(stored.parameters(), 1700);
    }
}
