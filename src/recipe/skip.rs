//! `[prune] skip`: which linears stay dense.

use crate::model::{BlockSpec, Spec};
use crate::words;

/// The linears of a model that are not pruned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// By block, and by linear.
    dense: Vec<Vec<bool>>,
}

impl Skip {
    /// Those that a pattern names.
    ///
    /// A linear is called `block.3.q`, as tables call it, and `block.3.self_attn.q_proj` or
    /// `model.layers.3.self_attn.q_proj`, as Hugging Face does. A pattern names what is called so, whole, or up to a dot;
    /// `*` stands for anything, `?` for any one character.
    ///
    /// # Errors
    /// The first pattern that names nothing, by its number, and what it may have meant; or none where they name everything.
    pub fn of(model: &Spec, patterns: &[String]) -> Result<Self, Unskippable> {
        let mut used = vec![false; patterns.len()];
        let dense = model.blocks.iter().enumerate().map(|(index, block)| {
            let own = |linear: usize| {
                let names = names(model, index, block, linear);
                let mut is_named = false;
                for (pattern, used) in patterns.iter().zip(&mut used) {
                    if names.iter().any(|name| is_meant(pattern, name)) {
                        (*used, is_named) = (true, true);
                    }
                }
                is_named
            };
            (0..block.linears.len()).map(own).collect()
        });
        let skip = Self { dense: dense.collect() };
        if let Some(number) = used.iter().position(|used| !used) {
            return Err(Unskippable::Nothing { number, meant: meant(model, &patterns[number]) });
        }
        if skip.dense.iter().flatten().all(|dense| *dense) {
            return Err(Unskippable::Everything);
        }
        Ok(skip)
    }

    /// Whether a linear of a block stays dense.
    pub fn has(&self, block: usize, linear: usize) -> bool {
        self.dense[block][linear]
    }

    /// The sites of a block that linears read which are pruned.
    pub fn sites<'a>(&'a self, index: usize, block: &'a BlockSpec) -> impl Iterator<Item = usize> + 'a {
        (0..block.sites.len()).filter(move |&site| self.is_pruned_at(index, block, site))
    }

    /// Whether a linear that reads this site is pruned.
    pub fn is_pruned_at(&self, index: usize, block: &BlockSpec, site: usize) -> bool {
        block.sites[site].linears.clone().any(|linear| !self.has(index, linear))
    }

    /// How many linears stay dense, of how many.
    pub fn count(&self) -> (usize, usize) {
        let all = self.dense.iter().flatten();
        (all.clone().filter(|dense| **dense).count(), all.count())
    }
}

/// Why a model's linears cannot be skipped so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unskippable {
    /// A pattern, by its number, names none; this one is like it.
    Nothing {
        number: usize,
        meant: Option<String>,
    },
    Everything,
}

/// What a linear is called.
fn names(model: &Spec, index: usize, block: &BlockSpec, linear: usize) -> [String; 3] {
    let linear = &block.linears[linear];
    let part = &linear.part.hub;
    [
        format!("block.{index}.{}", linear.name),
        format!("block.{index}.{part}"),
        format!("{}.{part}.weight", model.name_of_block(index).hub),
    ]
}

/// Whether a pattern is of this name, or of something that the name lies in.
fn is_meant(pattern: &str, name: &str) -> bool {
    let ends = name.match_indices('.').map(|(at, _)| at).chain([name.len()]);
    ends.into_iter().any(|end| is_like(pattern.as_bytes(), &name.as_bytes()[..end]))
}

/// Whether a name is as a pattern with `*` and `?` says.
fn is_like(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((b'*', rest)), _) => (0..=name.len()).any(|at| is_like(rest, &name[at..])),
        (Some((b'?', rest)), Some((_, left))) => is_like(rest, left),
        (Some((a, rest)), Some((b, left))) => a == b && is_like(rest, left),
        (Some(_), None) => false,
    }
}

/// The name that is most like a pattern which names nothing.
fn meant(model: &Spec, pattern: &str) -> Option<String> {
    let last = model.blocks.len() - 1;
    let all = [0, last].map(|index| {
        let block = &model.blocks[index];
        (0..block.linears.len()).flat_map(move |linear| names(model, index, block, linear)).collect::<Vec<_>>()
    });
    let names: Vec<String> = all.concat();
    words::nearest(pattern, names.iter().map(String::as_str)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn skipped(patterns: &[&str]) -> Result<Vec<String>, Unskippable> {
        let model = Spec::from_hub(&json!({"model_type": "llama", "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 12, "num_attention_heads": 4, "vocab_size": 64}))
        .unwrap();
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.into()).collect();
        let skip = Skip::of(&model, &patterns)?;
        let all = (0..12).flat_map(|block| (0..7).map(move |linear| (block, linear)));
        Ok(all
            .filter(|&(block, linear)| skip.has(block, linear))
            .map(|(block, linear)| format!("{block}.{}", model.blocks[block].linears[linear].name))
            .collect())
    }

    #[test]
    fn a_linear_is_named_by_tables_and_by_hugging_face_whole_or_up_to_a_dot() {
        assert_eq!(skipped(&[]).unwrap(), Vec::<String>::new());
        for pattern in ["block.1.down", "block.1.mlp.down_proj", "model.layers.1.mlp.down_proj"] {
            assert_eq!(skipped(&[pattern]).unwrap(), ["1.down"], "{pattern}");
        }
        assert_eq!(skipped(&["model.layers.1.mlp.down_proj.weight"]).unwrap(), ["1.down"]);
        assert_eq!(
            skipped(&["block.0"]).unwrap(),
            ["q", "k", "v", "o", "gate", "up", "down"].map(|n| format!("0.{n}"))
        );
        assert_eq!(skipped(&["*.down_proj"]).unwrap(), (0..12).map(|i| format!("{i}.down")).collect::<Vec<_>>());
        assert_eq!(skipped(&["*.down", "block.1.q"]).unwrap().len(), 13);
        assert_eq!(skipped(&["block.1?.self_attn"]).unwrap().len(), 8);
        assert_eq!(skipped(&["*.layers.11.*"]).unwrap().len(), 7);
    }

    #[test]
    fn a_pattern_that_names_nothing_or_all_is_refused() {
        let meant = Some("block.0.down".into());
        assert_eq!(skipped(&["block.1", "block.0.dwn"]), Err(Unskippable::Nothing { number: 1, meant }));
        assert!(matches!(skipped(&["block.12"]), Err(Unskippable::Nothing { number: 0, .. })));
        assert!(matches!(skipped(&["block"]), Err(Unskippable::Everything)));
        assert_eq!(skipped(&["*"]), Err(Unskippable::Everything));
    }
}
