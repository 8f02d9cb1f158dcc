//! What there is to know of a metric, and the lists that all of them are declared in.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::LazyLock;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Family, Take};
use crate::statistics::Quantity;

/// A metric, as recipes and tables name it.
#[derive(Clone, Copy)]
pub struct Metric(pub(super) &'static Definition);

/// What a list of a family says of a metric.
pub(super) struct Definition {
    /// As recipes and tables spell it.
    pub name: &'static str,
    /// In the lines of its doc comment.
    pub description: &'static str,
    /// What is read off the scores of a sample; it tells the family, too.
    pub take: Take,
    pub traits: Traits,
}

/// What is to be made of a metric.
#[derive(Clone, Copy)]
pub(super) struct Traits {
    /// "" where it has none.
    pub unit: &'static str,
    pub higher_is_better: bool,
    /// Whether it is itself a comparison with the dense model, to which nothing is nearer than the dense model.
    pub is_of_dense: bool,
    /// What it makes of the mean over positions or rows.
    pub quantity: Quantity,
    pub kind: Kind,
    /// The metric whose shares it has: it says the same in other words, and has no column of its own among samples.
    pub made_of: Option<Metric>,
    /// Whether it stands for others of the model's where only some are shown.
    pub is_headline: bool,
    /// Whether it compares stems of words where the suite asks for that.
    pub compares_stems: bool,
    /// Of choices: whether it may be taken of a target, where a row has no choices.
    pub takes_targets: bool,
    /// Of choices: whether several may be right.
    pub takes_several: bool,
}

impl Traits {
    /// A score from 0 to 1, of which more is better.
    pub const SCORE: Self = Self {
        unit: "",
        higher_is_better: true,
        is_of_dense: false,
        quantity: Quantity::SHARE,
        kind: Kind::Score,
        made_of: None,
        is_headline: false,
        compares_stems: false,
        takes_targets: false,
        takes_several: true,
    };

    /// A loss in nats.
    pub const LOSS: Self = Self {
        unit: "nats",
        higher_is_better: false,
        quantity: Quantity::MEAN.within(0.0, f64::INFINITY),
        kind: Kind::Loss,
        ..Self::SCORE
    };

    /// A divergence from the dense model, in nats.
    pub const DIVERGENCE: Self = Self { is_of_dense: true, kind: Kind::Divergence, ..Self::LOSS };
}

/// The kind of a metric's differences: which margin they are held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Score,
    Loss,
    Divergence,
    /// A judge's score, from 1 to 10.
    Judge,
}

impl Metric {
    pub fn as_str(self) -> &'static str {
        self.0.name
    }

    /// What it is, in words.
    pub fn description(self) -> String {
        self.0.description.lines().map(str::trim).collect::<Vec<_>>().join("\n")
    }

    /// Its unit; "" where it has none.
    pub fn unit(self) -> &'static str {
        self.0.traits.unit
    }

    /// What is read off the scores of a sample.
    pub fn take(self) -> Take {
        self.0.take
    }

    pub fn family(self) -> Family {
        self.0.take.family()
    }

    /// Whether more is better: scores and agreement, not losses and divergences.
    pub fn higher_is_better(self) -> bool {
        self.0.traits.higher_is_better
    }

    /// Whether it is itself a comparison with the dense model, to which nothing is nearer than the dense model.
    pub fn is_of_dense(self) -> bool {
        self.0.traits.is_of_dense
    }

    /// What it makes of the mean over positions or rows.
    pub fn quantity(self) -> Quantity {
        self.0.traits.quantity
    }

    pub fn kind(self) -> Kind {
        self.0.traits.kind
    }

    /// The metric that says what this one says: itself, or the one whose shares it has.
    pub fn finding(self) -> Self {
        self.0.traits.made_of.unwrap_or(self)
    }

    /// Whether it stands for others of the model's where only some are shown.
    pub fn is_headline(self) -> bool {
        self.0.traits.is_headline
    }

    /// Whether it compares stems of words where the suite asks for that.
    pub fn compares_stems(self) -> bool {
        self.0.traits.compares_stems
    }

    /// Whether a metric of choices may be taken of a target, where a row has no choices.
    pub fn takes_targets(self) -> bool {
        self.0.traits.takes_targets
    }

    /// Whether a metric of choices takes several that are right.
    pub fn takes_several(self) -> bool {
        self.0.traits.takes_several
    }
}

/// A metric is its name.
impl PartialEq for Metric {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Metric {}

impl Hash for Metric {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl PartialOrd for Metric {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Metric {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name.cmp(other.0.name)
    }
}

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.name)
    }
}

/// What serde says that it expected.
static NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| Metric::all().map(Metric::as_str).collect());

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = Self::all().find(|metric| metric.as_str() == name);
        known.ok_or_else(|| D::Error::unknown_variant(&name, &NAMES))
    }
}

impl JsonSchema for Metric {
    fn schema_name() -> Cow<'static, str> {
        "Metric".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = |metric: Self| json_schema!({ "description": metric.description(), "type": "string", "const": metric.as_str() });
        let all: Vec<Schema> = Self::all().map(one).collect();
        json_schema!({ "description": "A metric, as recipes and tables name it.", "oneOf": all })
    }
}

/// Declares the metrics of a family: what each is, its name, what is read off the scores of a sample, and what is to be made
/// of that.
macro_rules! metrics {
    ($family:ident: $($(#[doc = $line:literal])+ $metric:ident = $name:literal, $take:expr, $traits:expr;)+) => {
        impl crate::metrics::Metric {
            $(
                $(#[doc = $line])+
                pub const $metric: Self = Self(&crate::metrics::registry::Definition {
                    name: $name,
                    description: concat!($($line, "\n"),+),
                    take: crate::metrics::Take::$family($take),
                    traits: $traits,
                });
            )+
        }

        /// In the order of their columns.
        pub(super) const METRICS: &[crate::metrics::Metric] = &[$(crate::metrics::Metric::$metric),+];
    };
}

/// Declares the families of metrics.
macro_rules! families {
    ($($(#[$doc:meta])+ $family:ident => $module:ident::$scores:ident),+ $(,)?) => {
        /// What a metric is made of.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Family {
            $($(#[$doc])+ $family),+
        }

        impl Family {
            /// As tables spell it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$family => stringify!($module)),+
                }
            }
        }

        /// What a metric reads off the scores of a sample, by family.
        #[derive(Clone, Copy)]
        pub enum Take {
            $($(#[$doc])+ $family(fn(&$module::$scores) -> f64)),+
        }

        impl Take {
            pub fn family(self) -> Family {
                match self {
                    $(Self::$family(_) => Family::$family),+
                }
            }
        }

        impl Metric {
            /// All metrics, in the order of their columns.
            pub fn all() -> impl Iterator<Item = Self> {
                [$($module::METRICS),+].into_iter().flatten().copied()
            }
        }
    };
}

pub(super) use {families, metrics};
