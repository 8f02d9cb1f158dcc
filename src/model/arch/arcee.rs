//! AFM (Arcee 2025): Llama without a gate, and the squared ReLU.

use anyhow::Result;

use super::draft::{Defaults, Draft, Sizes, activation, blocks, llama_norms, model, norm, rms_epsilon};
use super::gguf::{Gguf, ROPE_FACTORS};
use super::keys::Keys;
use super::{Architecture, TokenizerClass, rope};
use crate::model::spec::{Activation, FeedForwardSpec, Inputs, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "arcee",
    class: "ArceeForCausalLM",
    models: "AFM",
    gguf: Some(Gguf { name: "arcee", keys: &[], factors: &[ROPE_FACTORS] }),
    tokenizer: TokenizerClass::OfFolder,
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let sizes =
        Sizes::read(keys, &Defaults { hidden: 2560, feed_forward: 18_432, context: 4096, ..Defaults::default() })?;
    let epsilon = rms_epsilon(keys, 1e-5)?;
    let act = activation(keys, "hidden_act", Activation::Relu2)?;
    let (of_attention, of_feed_forward) = (keys.flag("attention_bias", false)?, keys.flag("mlp_bias", false)?);
    let blocks = blocks(sizes.blocks, |_| {
        let mut draft = Draft::new(&sizes);
        let inputs = draft.queries_keys_values(of_attention);
        if keys.gguf.is_some() {
            draft.paired(inputs);
        }
        let attention = draft.attention(Inputs::Separate(inputs), ("self_attn.o_proj", "attn_output"), of_attention);
        let names = [("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down")];
        let feed = draft.plain(act, names, of_feed_forward);
        Ok(draft.finish(attention, FeedForwardSpec::One(feed), llama_norms(epsilon)?))
    })?;
    let rope = rope::read(keys, sizes.context, sizes.heads, rope::WHOLE)?;
    model(keys, &sizes, vec![rope], blocks, norm(("model.norm", "output_norm"), epsilon)?, false)
}
