//! Pruning methods: a weight, a statistic of its inputs and a sparsity go in; a pruned weight comes out.
//!
//! A method is one file with one struct, whose fields are its options in a recipe (`[method.NAME]`)
//! and which implements [`Method`]. To add one, write the file and add its line to `methods!` below;
//! the recipe, its schema and its error messages follow.

mod columns;
#[cfg(feature = "cuda")]
mod cuda;
mod factor;
mod magnitude;
pub mod mask;
mod packed;
mod select;
mod sparsegpt;
mod sparsity;
mod statistic;
#[cfg(feature = "cuda")]
mod sums;
mod wanda;

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use packed::Packed;
pub use sparsity::Sparsity;
pub use statistic::{Accumulator, Statistic, StatisticKind};

/// A pruning method with its options.
pub trait Method: Send + Sync {
    /// What the method wants to know of a linear's inputs.
    fn statistic(&self) -> StatisticKind;

    /// What prunes the weights whose inputs have this statistic (of the kind that the method asked for): whatever they
    /// share is computed here, once.
    ///
    /// # Errors
    /// Where the statistic has values that are not numbers, or the method's own algebra fails.
    fn pruner(&self, statistic: &Statistic, sparsity: Sparsity) -> anyhow::Result<Pruner<'_>>;

    /// Whether what is left of a weight has the values that it had.
    fn keeps_values(&self) -> bool;

    /// Prunes one weight, as [`Method::pruner`] does.
    fn prune(&self, weight: &Tensor, statistic: &Statistic, sparsity: Sparsity) -> anyhow::Result<Pruned> {
        self.pruner(statistic, sparsity)?(weight)
    }

    /// Whether the options make sense: if not, the option at fault and what is expected.
    fn check(&self) -> Result<(), (&'static str, String)> {
        Ok(())
    }
}

/// Prunes a weight (rows = outputs, columns = inputs); an error where it has values that are not numbers, or the
/// method's own algebra fails.
pub type Pruner<'a> = Box<dyn Fn(&Tensor) -> anyhow::Result<Pruned> + 'a>;

/// What a method made of a weight.
pub struct Pruned {
    /// The weight with its zeros, in the shape it had.
    pub weight: Tensor,
    /// The damping that the factorisation took, as a fraction of the Gram matrix's mean diagonal.
    pub damping: Option<f64>,
}

/// Declares the methods that recipes may name.
macro_rules! methods {
    ($($variant:ident => $module:ident::$method:ident),+ $(,)?) => {
        /// The name of a pruning method.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "lowercase")]
        pub enum MethodName {
            $($variant),+
        }

        impl MethodName {
            /// The name as recipes and tables spell it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($module)),+
                }
            }
        }

        /// The options of every method, `[method.NAME]` in a recipe.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct MethodOptions {
            $(pub $module: $module::$method),+
        }

        impl MethodOptions {
            /// The method of that name, with its options.
            pub fn get(&self, name: MethodName) -> &dyn Method {
                match name {
                    $(MethodName::$variant => &self.$module),+
                }
            }
        }
    };
}

methods! {
    Magnitude => magnitude::Magnitude,
    Wanda => wanda::Wanda,
    SparseGpt => sparsegpt::SparseGpt,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_has_one_name_everywhere() {
        for name in [MethodName::Magnitude, MethodName::Wanda, MethodName::SparseGpt] {
            assert_eq!(serde_json::to_value(name).unwrap(), name.as_str());
        }
    }
}
