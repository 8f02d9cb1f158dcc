//! Qwen3's mixtures of experts.

use anyhow::Result;

use super::draft::{Defaults, Draft, Mixture, Sizes, activation, blocks, llama_norms, model, norm, rms_epsilon};
use super::gguf::{EXPERTS, Gguf};
use super::keys::Keys;
use super::qwen2_moe::is_sparse;
use super::{Architecture, TokenizerClass};
use super::{qwen3, rope};
use crate::model::spec::{Activation, FeedForwardSpec, Inputs, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "qwen3_moe",
    class: "Qwen3MoeForCausalLM",
    models: "Qwen3 MoE",
    gguf: Some(Gguf { name: "qwen3moe", keys: &EXPERTS, factors: &[] }),
    tokenizer: TokenizerClass::Usually("Qwen2Tokenizer"),
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let keys = &keys.with_aliases(&[("num_experts", "num_local_experts")]);
    let sizes = Sizes::read(
        keys,
        &Defaults {
            hidden: 2048,
            feed_forward: 6144,
            blocks: 24,
            key_value_heads: Some(4),
            vocabulary: 151_936,
            context: 32_768,
            ..Defaults::default()
        },
    )?;
    let (epsilon, act) = (rms_epsilon(keys, 1e-6)?, activation(keys, "hidden_act", Activation::Silu)?);
    let bias = keys.flag("attention_bias", false)?;
    let window = keys.optional_count("sliding_window", Some(4096))?.filter(|&window| window > 0);
    let window = if keys.flag("use_sliding_window", false)? { window } else { None };
    let experts = Mixture {
        count: keys.count("num_experts", 128)?,
        used: keys.count("num_experts_per_tok", 8)?,
        // llama.cpp always does, as all published models.
        normalised: keys.flag("norm_topk_prob", keys.gguf.is_some())?,
        columns: keys.count("moe_intermediate_size", 768)?,
        activation: act,
        router: "mlp.gate",
        name: "mlp.experts",
        parts: ["gate_proj", "up_proj", "down_proj"],
        shared: None,
    }
    .checked()?;
    let blocks = blocks(sizes.blocks, |index| {
        let mut draft = Draft::new(&sizes);
        let inputs = Inputs::Separate(draft.queries_keys_values(bias));
        let mut attention = draft.attention(inputs, ("self_attn.o_proj", "attn_output"), bias);
        qwen3::norm_heads(&mut attention, epsilon)?;
        attention.window = window;
        let feed_forward = match is_sparse(keys, index)? {
            true => FeedForwardSpec::Experts(draft.experts(&experts, keys.gguf.is_some())),
            false => FeedForwardSpec::One(draft.gated(act, false)),
        };
        Ok(draft.finish(attention, feed_forward, llama_norms(epsilon)?))
    })?;
    let rope = rope::read(keys, sizes.context, sizes.heads, rope::WHOLE)?;
    model(keys, &sizes, vec![rope], blocks, norm(("model.norm", "output_norm"), epsilon)?, false)
}
