//! Tensors that are to be written, and how each is made.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;

use crate::model::spec::{
    AttentionSpec, BlockSpec, FeedForwardSpec, Heads, Inputs, LinearSpec, Name, NormKind, NormSpec, Over, Spec, Stored,
};
use crate::model::weights::{Form, Weights};
use crate::tensors;

/// A tensor that is to be written.
pub struct Planned {
    pub name: String,
    pub shape: Vec<usize>,
    pub precision: Precision,
    /// One after the other.
    pub parts: Vec<Part>,
}

/// What numbers are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Of(DType),
    /// As they are: such as tables of integers.
    AsStored(Dtype),
}

/// What a tensor is made of.
pub enum Part {
    /// A tensor of the source's files as it is, byte by byte.
    Copy(String),
    /// A tensor of the source.
    Read(Name),
    /// The weight of a linear, which may be changed, as this spec of it is stored.
    Weight { block: usize, linear: usize, stored: Stored, order: Option<Vec<usize>> },
    /// The bias of a linear.
    Bias { block: usize, linear: usize, stored: Stored, order: Option<Vec<usize>> },
    /// These.
    Values(Vec<f32>),
    /// Values of a norm, which the source has in these tensors; `plus` is added, and those of one head of so many taken.
    Norm { tensors: Vec<Name>, plus: f32, head: Option<(usize, usize)> },
}

impl Planned {
    /// A vector of these, in f32.
    pub fn of_values(name: &str, values: Vec<f32>) -> Self {
        let shape = vec![values.len()];
        Self { name: name.to_owned(), shape, precision: Precision::Of(DType::F32), parts: vec![Part::Values(values)] }
    }

    pub fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.size()) as u64
    }

    fn size(&self) -> usize {
        match self.precision {
            Precision::Of(dtype) => dtype.size_in_bytes(),
            Precision::AsStored(dtype) => dtype.bitsize() / 8,
        }
    }

    /// As files call it.
    pub fn precision(&self) -> String {
        match self.precision {
            Precision::Of(dtype) => dtype.as_str().to_uppercase(),
            Precision::AsStored(dtype) => format!("{dtype:?}"),
        }
    }

    /// The precision of a linear's weight; None of all else.
    pub fn linear_dtype(&self) -> Option<DType> {
        match (self.precision, self.parts.first()) {
            (Precision::Of(dtype), Some(Part::Weight { .. })) => Some(dtype),
            _ => None,
        }
    }
}

/// The bytes of a planned tensor.
pub fn made(tensor: &Planned, spec: &Spec, source: &dyn Weights, change: &mut super::Change) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(tensor.bytes() as usize);
    for part in &tensor.parts {
        let made = match part {
            Part::Copy(name) => {
                bytes.extend_from_slice(copied(source, name)?);
                continue;
            }
            Part::Read(name) => source.tensor(name)?,
            Part::Values(values) => Tensor::new(values.as_slice(), &Device::Cpu)?,
            Part::Weight { block, linear, stored, order } => {
                let own = &spec.blocks[*block].linears[*linear];
                let name = spec.name_of_block(*block).under(&own.part).of("weight");
                let dense = weight(source, &name, own)?;
                let weight = change(*block, *linear, dense.clone())?;
                ensure!(weight.shape() == dense.shape(), "`{name}` became {:?}", weight.shape());
                as_stored(in_rows(weight, order.as_deref())?, *stored)?
            }
            Part::Bias { block, linear, stored, order } => {
                let own = &spec.blocks[*block].linears[*linear];
                let name = spec.name_of_block(*block).under(&own.part).of("bias");
                let bias = source.in_order(source.tensor(&name)?, own)?;
                let bias = in_rows(bias.reshape((own.rows, 1))?, order.as_deref())?;
                // A bias is not held transposed.
                let stored = if *stored == Stored::Transposed { Stored::Plain } else { *stored };
                as_stored(bias, stored)?
            }
            Part::Norm { tensors, plus, head } => {
                let of = |name: &Name| Ok(source.tensor(name)?.to_dtype(DType::F32)?.flatten_all()?);
                let all = Tensor::cat(&tensors.iter().map(of).collect::<Result<Vec<_>>>()?, 0)?;
                let own = match head {
                    None => all,
                    Some((head, heads)) => {
                        let width = all.elem_count() / heads;
                        all.narrow(0, head * width, width)?
                    }
                };
                if *plus == 0.0 { own } else { (own + f64::from(*plus))? }
            }
        };
        let Precision::Of(dtype) = tensor.precision else { bail!("`{}` is made in no precision", tensor.name) };
        let rounded = tensors::to_dtype(&made, dtype)?;
        if made.dtype() != dtype && dtype != DType::F32 {
            tensors::finite(&rounded, &format!("tensor `{}` in {}", tensor.name, dtype.as_str()))
                .context("the model holds larger values than the precision; --dtype bf16 or f32 hold them")?;
        }
        tensors::write_bytes(&rounded, &mut bytes)?;
    }
    Ok(bytes)
}

fn copied<'a>(source: &'a dyn Weights, name: &str) -> Result<&'a [u8]> {
    let found = source.stored()?.into_iter().find(|tensor| tensor.name == name);
    match found.map(|tensor| tensor.form) {
        Some(Form::Numbers(_, bytes)) => Ok(bytes),
        _ => bail!("there is no tensor `{name}` to copy"),
    }
}

/// The weight of a linear, (rows, columns), rows in Hugging Face's order.
fn weight(source: &dyn Weights, name: &Name, linear: &LinearSpec) -> Result<Tensor> {
    Ok(match linear.stored {
        Stored::Transposed => source.tensor(name)?.t()?.contiguous()?,
        Stored::Expert { index, count } => source.part(name, index, count)?,
        _ => source.in_order(source.tensor(name)?, linear)?,
    })
}

/// Rows in another order: row i is what was row `order[i]`.
fn in_rows(weight: Tensor, order: Option<&[usize]>) -> Result<Tensor> {
    let Some(order) = order else { return Ok(weight) };
    let order: Vec<u32> = order.iter().map(|&row| row as u32).collect();
    Ok(weight.index_select(&Tensor::new(order, &Device::Cpu)?, 0)?)
}

/// A weight (rows, columns) as files of this kind hold it.
fn as_stored(weight: Tensor, stored: Stored) -> Result<Tensor> {
    Ok(match stored {
        Stored::Plain | Stored::Expert { .. } => weight,
        Stored::Transposed => weight.t()?.contiguous()?,
        Stored::Paired(heads) => {
            // (heads, 2, dim/2, …) → (heads, dim/2, 2, …)
            let (rows, columns) = weight.dims2()?;
            let split = weight.reshape((heads, 2, rows / heads / 2, columns))?;
            split.transpose(1, 2)?.contiguous()?.reshape((rows, columns))?
        }
    })
}

/// The tensors of a model whose files are of another kind than the source's: what `target` has, made of what `source` has.
/// Both compute the same. `name` picks what a tensor is called there, and `precision` is by its name and shape.
pub fn between(
    source: &Spec,
    target: &Spec,
    name: impl Fn(&Name) -> String,
    precision: impl Fn(&str, &[usize]) -> DType,
) -> Result<Vec<Planned>> {
    let mut all: Vec<Planned> = Vec::new();
    let mut add = |of: &Name, shape: Vec<usize>, part: Part| {
        let name = name(of);
        // Those of several experts lie in one.
        match all.iter_mut().rev().find(|planned| planned.name == name) {
            Some(planned) => planned.parts.push(part),
            None => {
                let precision = Precision::Of(precision(&name, &shape));
                all.push(Planned { name, shape, precision, parts: vec![part] });
            }
        }
    };
    let matrices = around(source).into_iter().zip(around(target));
    for ((from, _), (to, shape)) in matrices {
        add(&to, shape, Part::Read(from));
    }
    let hidden = source.hidden;
    let top = Name::default();
    for ((from, width), (to, _)) in norms_around(source).into_iter().zip(norms_around(target)) {
        norm(&mut add, (from, &top), (to, &top), width);
    }
    for (index, (from, to)) in source.blocks.iter().zip(&target.blocks).enumerate() {
        let (outer, own) = (source.name_of_block(index), target.name_of_block(index));
        for ((a, width), (b, _)) in from.norms(hidden).zip(to.norms(hidden)) {
            norm(&mut add, (a, &outer), (b, &own), width);
        }
        for ((a, _), (b, shape)) in routers(from, hidden).into_iter().zip(routers(to, hidden)) {
            add(&own.under(&b).of("weight"), shape, Part::Read(outer.under(&a).of("weight")));
        }
        let orders = order(from, to)?;
        for (linear, spec) in to.linears.iter().enumerate() {
            let order = orders.as_ref().filter(|(fused, _)| *fused == linear).map(|(_, order)| order.clone());
            let (name, stored) = (own.under(&spec.part), spec.stored);
            let part = Part::Weight { block: index, linear, stored, order: order.clone() };
            add(&name.of("weight"), spec.stored_shape(), part);
            if spec.bias {
                add(&name.of("bias"), vec![spec.rows], Part::Bias { block: index, linear, stored, order });
            }
        }
    }
    Ok(all)
}

/// The matrices, and the head's bias, before the first block and after the last.
fn around(spec: &Spec) -> Vec<(Name, Vec<usize>)> {
    let is_norm = |name: &Name| {
        norms_around(spec)
            .iter()
            .any(|(norm, width)| norm.tensors(&Name::default(), *width).iter().any(|(n, _)| n == name))
    };
    let blocks = spec.layers.clone();
    let is_inner = |name: &Name| name.hub.starts_with(&format!("{}.", blocks.hub));
    spec.tensors().into_iter().filter(|(name, _)| !is_norm(name) && !is_inner(name)).collect()
}

fn norms_around(spec: &Spec) -> Vec<(&NormSpec, usize)> {
    let of_embedding = spec.embedding.norm.iter().map(|norm| (norm, spec.embedding.width));
    of_embedding.chain(spec.head.norm.iter().map(|norm| (norm, spec.hidden))).collect()
}

fn routers(block: &BlockSpec, hidden: usize) -> Vec<(Name, Vec<usize>)> {
    let FeedForwardSpec::Experts(experts) = &block.feed_forward else { return vec![] };
    let shared = experts.shared.iter().filter_map(|shared| shared.router.clone());
    let shared = shared.map(|name| (name, experts.shared_router_shape(hidden)));
    [(experts.router.clone(), vec![experts.count, hidden])].into_iter().chain(shared).collect()
}

/// The tensors of a norm, made of those that it has in the source.
fn norm(
    add: &mut impl FnMut(&Name, Vec<usize>, Part),
    (from, outer): (&NormSpec, &Name),
    (to, own): (&NormSpec, &Name),
    width: usize,
) {
    let one = |norm: &NormSpec| f32::from(norm.kind == NormKind::RmsPlusOne);
    let targets = to.tensors(own, width);
    for kind in [".weight", ".bias"] {
        let of_kind = |tensors: Vec<(Name, Vec<usize>)>| {
            tensors.into_iter().filter(|(name, _)| name.hub.ends_with(kind)).collect::<Vec<_>>()
        };
        let sources: Vec<Name> = of_kind(from.tensors(outer, width)).into_iter().map(|(name, _)| name).collect();
        let plus = if kind == ".weight" { one(from) - one(to) } else { 0.0 };
        let targets = of_kind(targets.clone());
        let heads = match to.over {
            Over::HeadsApart(heads) => Some(heads),
            _ => None,
        };
        for (head, (name, shape)) in targets.into_iter().enumerate() {
            add(&name, shape, Part::Norm { tensors: sources.clone(), plus, head: heads.map(|heads| (head, heads)) });
        }
    }
}

/// How the rows of a block's fused q, k and v have to be put, where the two kinds of files divide them into other groups.
fn order(from: &BlockSpec, to: &BlockSpec) -> Result<Option<(usize, Vec<usize>)>> {
    let AttentionSpec { heads, inputs, .. } = &from.attention;
    let (Inputs::Fused { linear, groups }, Inputs::Fused { groups: other, .. }) = (*inputs, to.attention.inputs) else {
        return Ok(None);
    };
    if groups == other {
        return Ok(None);
    }
    // Where each row of q, k and v, one after the other, stands.
    let mut places = vec![0; (heads.query + 2 * heads.key_value) * heads.dim];
    in_groups(*heads, groups).into_iter().enumerate().for_each(|(at, row)| places[row] = at);
    Ok(Some((linear, in_groups(*heads, other).into_iter().map(|row| places[row]).collect())))
}

/// The rows of q, k and v (numbered one after the other), in so many groups: of each its queries, its keys, its values.
fn in_groups(heads: Heads, groups: usize) -> Vec<usize> {
    let Heads { query, key_value, dim } = heads;
    let rows = |first: usize, count: usize, group: usize| {
        let each = count / groups * dim;
        first * dim + group * each..first * dim + (group + 1) * each
    };
    let group = |group: usize| {
        let (q, k, v) =
            (rows(0, query, group), rows(query, key_value, group), rows(query + key_value, key_value, group));
        q.chain(k).chain(v)
    };
    (0..groups).flat_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_groups_are_each_there_once() {
        let heads = Heads { query: 4, key_value: 2, dim: 2 };
        assert_eq!(in_groups(heads, 1), (0..16).collect::<Vec<_>>());
        // Of each group two queries' heads, one of keys, one of values.
        assert_eq!(in_groups(heads, 2), [0, 1, 2, 3, 8, 9, 12, 13, 4, 5, 6, 7, 10, 11, 14, 15]);
    }

    #[test]
    fn pairs_come_apart_and_together_again() {
        let weight = Tensor::arange(0f32, 24.0, &Device::Cpu).unwrap().reshape((8, 3)).unwrap();
        let paired = as_stored(weight.clone(), Stored::Paired(2)).unwrap();
        let firsts: Vec<f32> = paired.to_vec2::<f32>().unwrap().iter().map(|row| row[0] / 3.0).collect();
        assert_eq!(firsts, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    }
}
