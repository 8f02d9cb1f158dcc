//! Mixtures of experts: which tokens go through which expert, and with what weight.

use std::ops::Range;

use candle_core::{D, Result, Tensor};

use crate::model::linear::Linear;
use crate::model::spec::ExpertsSpec;
use crate::tensors;

/// What routes tokens to experts; never pruned.
#[derive(Clone)]
pub struct Experts {
    /// (count, hidden)
    pub router: Linear,
    /// (1, hidden): how much of the expert that all tokens go through is added; None adds all.
    pub shared: Option<Linear>,
}

/// The tokens of each expert.
#[derive(Debug, Clone)]
pub struct Routing {
    of_experts: Vec<Routed>,
}

/// The tokens that are routed to an expert, in their order, and their weights.
#[derive(Debug, Clone, Default)]
pub struct Routed {
    pub rows: Vec<u32>,
    pub weights: Vec<f32>,
}

impl Experts {
    /// Routes tokens x (tokens × hidden): the softmax over all experts, of which the largest are taken. The first of equals
    /// goes first.
    pub fn route(&self, spec: &ExpertsSpec, x: &Tensor) -> Result<Routing> {
        let logits = self.router.forward_in_f32(x)?;
        let mut of_experts = vec![Routed::default(); spec.count];
        tensors::with_values(&logits, |logits| {
            for (token, logits) in logits.chunks_exact(spec.count).enumerate() {
                let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let exponentials: Vec<f32> = logits.iter().map(|z| (z - most).exp()).collect();
                let sum: f32 = exponentials.iter().sum();
                let mut order: Vec<usize> = (0..spec.count).collect();
                order.sort_by(|&a, &b| exponentials[b].total_cmp(&exponentials[a]).then(a.cmp(&b)));
                order.truncate(spec.used);
                let share: f32 = order.iter().map(|&expert| exponentials[expert] / sum).sum();
                for expert in order {
                    let weight = exponentials[expert] / sum;
                    let routed = &mut of_experts[expert];
                    routed.rows.push(token as u32);
                    routed.weights.push(if spec.normalised { weight / share } else { weight });
                }
            }
        })?;
        Ok(Routing { of_experts })
    }

    /// What the expert that all tokens go through adds to each: its outputs y, times what its router finds of x.
    pub fn shared(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        let Some(router) = &self.shared else { return Ok(y.clone()) };
        let gate = candle_nn::ops::sigmoid(&router.forward_in_f32(x)?)?.to_dtype(y.dtype())?;
        y.broadcast_mul(&gate)
    }
}

impl Routing {
    pub fn of(&self, expert: usize) -> &Routed {
        &self.of_experts[expert]
    }

    /// Of the tokens of a range, counted from its start.
    pub fn part(&self, tokens: &Range<usize>) -> Self {
        let of = |routed: &Routed| {
            let at = |end: usize| routed.rows.partition_point(|&row| (row as usize) < end);
            let here = at(tokens.start)..at(tokens.end);
            let rows = routed.rows[here.clone()].iter().map(|row| row - tokens.start as u32).collect();
            Routed { rows, weights: routed.weights[here].to_vec() }
        };
        Self { of_experts: self.of_experts.iter().map(of).collect() }
    }
}

impl Routed {
    /// Those of the rows of x (tokens × columns).
    pub fn select(&self, x: &Tensor) -> Result<Tensor> {
        x.index_select(&Tensor::new(self.rows.as_slice(), x.device())?, 0)
    }

    /// Adds its outputs y (rows × columns), weighted, to the sum over all experts (tokens × columns).
    pub fn add(&self, sum: &Tensor, y: &Tensor) -> Result<Tensor> {
        if self.rows.is_empty() {
            return Ok(sum.clone());
        }
        let weights = Tensor::new(self.weights.as_slice(), y.device())?.to_dtype(y.dtype())?;
        let rows = Tensor::new(self.rows.as_slice(), y.device())?;
        sum.index_add(&rows, &y.broadcast_mul(&weights.unsqueeze(D::Minus1)?)?, 0)
    }

    /// Which of its rows each of some ranges of tokens has.
    pub fn within(&self, tokens: &[Range<usize>]) -> Vec<Range<usize>> {
        let at = |end: usize| self.rows.partition_point(|&row| (row as usize) < end);
        tokens.iter().map(|range| at(range.start)..at(range.end)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::elementwise::tests::random;
    use super::*;
    use crate::model::spec::{ExpertsSpec, Name};

    fn spec(normalised: bool) -> ExpertsSpec {
        ExpertsSpec {
            count: 5,
            used: 2,
            normalised,
            router: Name::new("gate", "ffn_gate_inp"),
            experts: vec![],
            shared: None,
            in_gguf: false,
        }
    }

    #[test]
    fn each_token_goes_to_the_experts_that_the_softmax_finds_most_likely() {
        let (router, x) = (Linear::new(random((5, 8), 0.3), None), random((20, 8), 0.7));
        let logits = router.forward(&x).unwrap().to_vec2::<f32>().unwrap();
        for normalised in [true, false] {
            let routing = Experts { router: router.clone(), shared: None }.route(&spec(normalised), &x).unwrap();
            for (token, logits) in logits.iter().enumerate() {
                let sum: f64 = logits.iter().map(|&z| f64::from(z).exp()).sum();
                let mut shares: Vec<(f64, usize)> = logits.iter().map(|&z| f64::from(z).exp() / sum).zip(0..).collect();
                shares.sort_by(|a, b| b.0.total_cmp(&a.0));
                let taken = shares[0].0 + shares[1].0;
                for (rank, &(share, expert)) in shares.iter().enumerate() {
                    let place = routing.of(expert).rows.iter().position(|&row| row as usize == token);
                    assert_eq!(place.is_some(), rank < 2);
                    let expected = if normalised { share / taken } else { share };
                    place.into_iter().for_each(|place| {
                        assert!((f64::from(routing.of(expert).weights[place]) - expected).abs() < 1e-6);
                    });
                }
            }
            let part = routing.part(&(5..12));
            let whole = routing.of(0).within(&[0..5, 5..12]);
            assert_eq!(part.of(0).rows.len(), whole[1].len());
            assert_eq!(part.of(0).weights, routing.of(0).weights[whole[1].clone()]);
        }
    }
}
