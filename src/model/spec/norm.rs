//! How values are normed.

use super::Name;

/// A norm over the values of a token, or of its heads.
#[derive(Debug, Clone, PartialEq)]
pub struct NormSpec {
    pub name: Name,
    pub kind: NormKind,
    pub epsilon: f64,
    pub bias: bool,
    pub over: Over,
}

/// How a norm is computed of values x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// x / √(mean(x²) + ε) · w
    Rms,
    /// x / √(mean(x²) + ε) · (1 + w), as Gemma stores it
    RmsPlusOne,
    /// (x − mean(x)) / √(var(x) + ε) · w + b
    Layer,
    /// The same without w and b.
    Plain,
}

/// Which values a norm is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// All of a row.
    Row,
    /// Those of each head, all of which have the same weights.
    Head,
    /// Those of each head, each of which has weights of its own: so many heads.
    EachHead(usize),
    /// The same in tensors of their own, which are numbered.
    HeadsApart(usize),
}

impl NormSpec {
    /// Its tensors in the files, for a norm of so many values whose name stands under `outer`.
    pub fn tensors(&self, outer: &Name, width: usize) -> Vec<(Name, Vec<usize>)> {
        let name = outer.under(&self.name);
        let (names, shape) = match self.over {
            Over::EachHead(heads) => (vec![name], vec![heads, width / heads]),
            Over::HeadsApart(heads) => {
                let of = |head: usize| name.under(&Name::new(head.to_string(), head.to_string()));
                ((0..heads).map(of).collect(), vec![width / heads])
            }
            Over::Row | Over::Head => (vec![name], vec![width]),
        };
        let of_kind = |kind: &str| names.iter().map(|name| (name.of(kind), shape.clone())).collect::<Vec<_>>();
        let weights = if self.kind == NormKind::Plain { vec![] } else { of_kind("weight") };
        let biases = if self.bias { of_kind("bias") } else { vec![] };
        [weights, biases].concat()
    }
}
