//! OLMo (Groeneveld et al. 2024, arXiv 2402.00838): Llama with layer norms without weights, and q, k and v held within
//! bounds where asked for.

use anyhow::Result;

use super::draft::{Defaults, Draft, Sizes, activation, blocks, model, norm};
use super::gguf::Gguf;
use super::keys::Keys;
use super::rope;
use super::{Architecture, TokenizerClass};
use crate::model::spec::{Activation, FeedForwardSpec, Inputs, NormKind, NormSpec, Norms, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "olmo",
    class: "OlmoForCausalLM",
    models: "OLMo",
    gguf: Some(Gguf { name: "olmo", keys: &["attention.clamp_kqv"], factors: &[] }),
    tokenizer: TokenizerClass::Usually("GPTNeoXTokenizer"),
    spec,
};

/// ε of its norms, which no key says.
const EPSILON: f64 = 1e-5;

fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(keys, &Defaults { vocabulary: 50_304, ..Defaults::default() })?;
    let bias = keys.flag("attention_bias", false)?;
    let act = activation(keys, "hidden_act", Activation::Silu)?;
    let clip = keys.optional_number("clip_qkv")?.map(|clip| clip as f32);
    let blocks = blocks(sizes.blocks, |_| {
        let mut draft = Draft::new(&sizes);
        let inputs = draft.queries_keys_values(bias);
        if keys.gguf.is_some() {
            draft.paired(inputs);
        }
        let inputs = Inputs::Separate(inputs);
        let mut attention = draft.attention(inputs, ("self_attn.o_proj", "attn_output"), bias);
        attention.clip = clip;
        let feed = draft.gated(act, false);
        let norms = Norms {
            before_attention: Some(plain_norm()?),
            before_feed_forward: Some(plain_norm()?),
            ..Norms::default()
        };
        Ok(draft.finish(attention, FeedForwardSpec::One(feed), norms))
    })?;
    let rope = rope::read(keys, sizes.context, sizes.heads, rope::WHOLE)?;
    model(keys, &sizes, vec![rope], blocks, plain_norm()?, false)
}

fn plain_norm() -> Result<NormSpec> {
    Ok(NormSpec { kind: NormKind::Plain, ..norm(("", ""), EPSILON)? })
}
