//! Attention in pieces: some rows of all heads at a time, so that no more scores exist than a part of them, and none are
//! computed that causality hides from all of these rows.

use std::ops::Range;

use super::Span;
use crate::model::spec::Heads;

/// Rows of queries whose scores exist at once.
const QUERY_ROWS: usize = 256;

/// Where heads lie: q and k with `dim` values a row and head, out with rows of its own width. Steps lead from what one
/// key-value head has to what the next has.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    pub dim: usize,
    pub query_step: usize,
    pub key_step: usize,
    pub out_stride: usize,
    pub out_step: usize,
}

/// Consecutive positions that queries see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where the first one's key is, and its value, in those of the first head.
    pub at: usize,
    pub positions: usize,
    /// The column of scores that it has.
    pub column: usize,
}

/// Some rows of one query head of each group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub rows: usize,
    /// Positions before the first row, which it sees besides itself.
    pub past: usize,
    pub query: usize,
    pub out: usize,
    /// What is seen, in the order of positions: a prefix, and what came before in the span itself.
    pub seen: Vec<Seen>,
}

impl Piece {
    /// Positions that the last row sees.
    pub fn columns(&self) -> usize {
        self.past + self.rows
    }

    /// From one row of scores to the next: a multiple of what cuBLAS reads at once.
    #[cfg(feature = "cuda")]
    pub fn stride(&self) -> usize {
        self.columns().next_multiple_of(8)
    }
}

/// The pieces of a span whose rows are `own`, behind the rows `prefix` (which may be empty) or behind `before` positions
/// that lie right in front of its own keys. Query heads are in groups of `group`; a head's queries are `query_head`
/// values apart, and its outputs `out_head`.
fn pieces(
    (prefix, own): (&Range<usize>, &Range<usize>),
    before: usize,
    group: usize,
    places: Places,
    (query_head, out_head): (usize, usize),
) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for head in 0..group {
        for start in (0..own.len()).step_by(QUERY_ROWS) {
            let rows = QUERY_ROWS.min(own.len() - start);
            let of_prefix = Seen { at: prefix.start * places.dim, positions: prefix.len(), column: 0 };
            let of_own = Seen { at: own.start * places.dim, positions: before + start + rows, column: prefix.len() };
            pieces.push(Piece {
                rows,
                past: prefix.len() + before + start,
                query: head * query_head + (own.start + start) * places.dim,
                out: head * out_head + (own.start + start) * places.out_stride,
                seen: [of_prefix, of_own].into_iter().filter(|seen| seen.positions > 0).collect(),
            });
        }
    }
    pieces
}

/// The places of queries (heads × tokens × dim) and keys alike, and outputs of all heads side by side; the pieces of all
/// spans of such a batch.
pub fn span_pieces(spans: &[Span], tokens: usize, Heads { query, key_value, dim }: Heads) -> (Places, Vec<Piece>) {
    let group = query / key_value;
    let places = Places {
        dim,
        query_step: group * tokens * dim,
        key_step: tokens * dim,
        out_stride: query * dim,
        out_step: group * dim,
    };
    let of_span = |Span { prefix, own }: &Span| pieces((prefix, own), 0, group, places, (tokens * dim, dim));
    (places, spans.iter().flat_map(of_span).collect())
}

/// The places of queries (heads × len × dim), keys (heads × all × dim) and outputs as the queries; the pieces, where the
/// queries are the last of all positions.
pub fn causal_pieces(len: usize, all: usize, Heads { query, key_value, dim }: Heads) -> (Places, Vec<Piece>) {
    let group = query / key_value;
    let places = Places {
        dim,
        query_step: group * len * dim,
        key_step: all * dim,
        out_stride: dim,
        out_step: group * len * dim,
    };
    (places, pieces((&(0..0), &(0..len)), all - len, group, places, (len * dim, len * dim)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attention::{Attention, Precision};
    use crate::model::rope::Rope;
    use candle_core::{Device, Tensor};

    fn random(rows: usize, columns: usize, seed: f32) -> Tensor {
        let values: Vec<f32> = (0..rows * columns).map(|i| ((i as f32 + seed) * 12.9898).sin()).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    fn flat(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// (rows × heads·dim) → (heads × rows × dim), as the kernel does that splits heads.
    fn split(x: &Tensor, heads: usize) -> Tensor {
        let (rows, columns) = x.dims2().unwrap();
        x.reshape((rows, heads, columns / heads)).unwrap().transpose(0, 1).unwrap().contiguous().unwrap()
    }

    /// What the products and softmaxes of a plan come to, on the host.
    fn carry_out((places, pieces): &(Places, Vec<Piece>), [q, k, v]: [&[f32]; 3], out: &mut [f32], key_values: usize) {
        let dim = places.dim;
        let row = |values: &[f32], at: usize| values[at..at + dim].to_vec();
        for (piece, head) in pieces.iter().flat_map(|piece| (0..key_values).map(move |head| (piece, head))) {
            for i in 0..piece.rows {
                let query = row(q, piece.query + head * places.query_step + i * dim);
                let mut seen = Vec::new();
                for part in &piece.seen {
                    assert_eq!(part.column, seen.len(), "positions are seen in their order");
                    seen.extend((0..part.positions).map(|p| part.at + head * places.key_step + p * dim));
                }
                assert_eq!(seen.len(), piece.columns());
                seen.truncate(piece.past + i + 1);
                let dot =
                    |at: &usize| query.iter().zip(row(k, *at)).map(|(a, b)| a * b).sum::<f32>() / (dim as f32).sqrt();
                let weights: Vec<f32> = seen.iter().map(|at| dot(at).exp()).collect();
                let sum: f32 = weights.iter().sum();
                let to = piece.out + head * places.out_step + i * places.out_stride;
                for (at, weight) in seen.iter().zip(weights) {
                    out[to..to + dim].iter_mut().zip(row(v, *at)).for_each(|(o, v)| *o += weight / sum * v);
                }
            }
        }
    }

    #[test]
    fn the_plan_of_spans_is_the_attention_of_the_cpu() {
        let (query, key_value, dim, tokens) = (6, 2, 8, 700);
        let heads = Heads { query, key_value, dim };
        let mut spans = [0..70, 70..71, 71..600].map(Span::window).to_vec();
        spans.extend([600..603, 603..700].map(|own| Span { prefix: 0..70, own }));
        let [q, k, v] = [(query, 0.1), (key_value, 0.2), (key_value, 0.3)].map(|(n, s)| random(tokens, n * dim, s));
        // The table of no rotation: what is rotated is tested with the kernel that does it.
        let table = |value: f32| Tensor::full(value, (tokens, dim / 2), &Device::Cpu).unwrap();
        let rope = Rope::of(table(1.0), table(0.0)).unwrap();
        let how = Attention::plain(heads, rope, Precision::F32);
        let expected = flat(&how.within(&q, &k, &v, &spans).unwrap());
        let plan = span_pieces(&spans, tokens, heads);
        let mut out = vec![0f32; expected.len()];
        let split = [flat(&split(&q, query)), flat(&split(&k, key_value)), flat(&split(&v, key_value))];
        carry_out(&plan, [&split[0], &split[1], &split[2]], &mut out, key_value);
        for (i, (a, b)) in out.iter().zip(&expected).enumerate() {
            assert!((a - b).abs() < 1e-5, "row {}: {a} {b}", i / (query * dim));
        }
        // The end of a window behind its beginning, as when a prompt goes on after a cache.
        let (window, len) = (71..600, 300);
        let rows = |x: &Tensor, n: usize| split_rows(x, n, &window);
        let (keys, values) = (rows(&k, key_value), rows(&v, key_value));
        let queries = split_rows(&q, query, &(window.end - len..window.end));
        let plan = causal_pieces(len, window.len(), heads);
        let mut out = vec![0f32; queries.len()];
        carry_out(&plan, [&queries, &keys, &values], &mut out, key_value);
        for head in 0..query {
            for i in 0..len {
                let row = &expected[((window.end - len + i) * query + head) * dim..][..dim];
                let own = &out[(head * len + i) * dim..][..dim];
                assert!(own.iter().zip(row).all(|(a, b)| (a - b).abs() < 1e-5), "head {head}, row {i}");
            }
        }
    }

    fn split_rows(x: &Tensor, heads: usize, rows: &Range<usize>) -> Vec<f32> {
        flat(&split(&x.narrow(0, rows.start, rows.len()).unwrap(), heads))
    }
}
