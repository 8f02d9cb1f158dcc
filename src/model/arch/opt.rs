//! OPT (Zhang et al. 2022, arXiv 2205.01068): learned positions, layer norms, biases, ReLU; the 350M model has its norms
//! behind what blocks add, and embeddings of its own width.

use anyhow::{Result, ensure};

use super::draft::{Defaults, Draft, Sizes, activation, blocks, layer_norm, model};
use super::keys::Keys;
use super::{Architecture, TokenizerClass};
use crate::model::spec::{
    Activation, BlockSpec, FeedForwardSpec, Heads, Inputs, Name, NormKind, NormSpec, Norms, PositionsSpec, Residual,
    Spec,
};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "opt",
    class: "OPTForCausalLM",
    models: "OPT",
    gguf: None,
    tokenizer: TokenizerClass::Usually("GPT2Tokenizer"),
    spec,
};

/// PyTorch's, which no key says.
const EPSILON: f64 = 1e-5;

/// The row of position 0.
const FIRST: usize = 2;

fn spec(keys: &Keys) -> Result<Spec> {
    let keys = &keys.with_aliases(&[("intermediate_size", "ffn_dim")]);
    let defaults =
        Defaults { hidden: 768, feed_forward: 3072, blocks: 12, heads: 12, vocabulary: 50_272, ..Defaults::default() };
    let mut sizes = Sizes::read(keys, &defaults)?;
    // transformers takes no others.
    let query = sizes.heads.query;
    sizes.heads = Heads { query, key_value: query, dim: sizes.hidden / query };
    let (bias, affine) = (keys.flag("enable_bias", true)?, keys.flag("layer_norm_elementwise_affine", true)?);
    let before = keys.flag("do_layer_norm_before", true)?;
    let act = activation(keys, "activation_function", Activation::Relu)?;
    let norm = |name: (&str, &str)| -> Result<NormSpec> {
        let norm = layer_norm(name, EPSILON, affine)?;
        Ok(if affine { norm } else { NormSpec { kind: NormKind::Plain, ..norm } })
    };
    let blocks = blocks(sizes.blocks, |_| {
        let mut draft = Draft::new(&sizes);
        let inputs = Inputs::Separate(draft.queries_keys_values(bias));
        let mut attention = draft.attention(inputs, ("self_attn.out_proj", "attn_output"), bias);
        attention.rope = None;
        let feed = draft.plain(act, [("fc1", "ffn_up"), ("fc2", "ffn_down")], bias);
        let (first, second) = (Some(norm(("self_attn_layer_norm", ""))?), Some(norm(("final_layer_norm", ""))?));
        let norms = match before {
            true => Norms { before_attention: first, before_feed_forward: second, ..Norms::default() },
            false => Norms { after_attention: first, after_feed_forward: second, ..Norms::default() },
        };
        let block = draft.finish(attention, FeedForwardSpec::One(feed), norms);
        Ok(if before { block } else { BlockSpec { residual: Residual::PostNorm, ..block } })
    })?;
    let width = keys.optional_count("word_embed_proj_dim", None)?.unwrap_or(sizes.hidden);
    ensure!((1..=1 << 20).contains(&width), "`word_embed_proj_dim` is {width}");
    let last = norm(("model.decoder.final_layer_norm", "output_norm"))?;
    let mut model = model(keys, &sizes, vec![], blocks, last, true)?;
    model.layers = Name::new("model.decoder.layers", "blk");
    model.embedding.name = Name::new("model.decoder.embed_tokens", "token_embd");
    model.embedding.width = width;
    let name = Name::new("model.decoder.embed_positions", "position_embd");
    model.embedding.positions = Some(PositionsSpec { name, rows: sizes.context + FIRST, first: FIRST });
    if width != sizes.hidden {
        model.embedding.projection = Some(Name::new("model.decoder.project_in", ""));
        model.head.projection = Some(Name::new("model.decoder.project_out", ""));
    }
    if !before || keys.flag("_remove_final_layer_norm", false)? {
        model.head.norm = None;
    }
    Ok(model)
}
