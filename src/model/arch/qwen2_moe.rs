//! Qwen2's mixtures of experts: many small ones, and one that all tokens go through.

use anyhow::Result;
use serde_json::Value;

use super::draft::{Defaults, Draft, Mixture, SharedExpert, Sizes, activation, blocks, llama_norms, model, norm};
use super::draft::{rms_epsilon, windows};
use super::gguf::{EXPERTS, Gguf};
use super::keys::Keys;
use super::{Architecture, TokenizerClass, rope};
use crate::model::spec::{Activation, FeedForwardSpec, Inputs, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "qwen2_moe",
    class: "Qwen2MoeForCausalLM",
    models: "Qwen1.5 and Qwen2 MoE",
    gguf: Some(Gguf { name: "qwen2moe", keys: &EXPERTS, factors: &[] }),
    tokenizer: TokenizerClass::Usually("Qwen2Tokenizer"),
    spec,
};

fn spec(keys: &Keys) -> Result<Spec> {
    let sizes = Sizes::read(
        keys,
        &Defaults {
            hidden: 2048,
            feed_forward: 5632,
            blocks: 24,
            heads: 16,
            key_value_heads: Some(16),
            vocabulary: 151_936,
            context: 32_768,
            ..Defaults::default()
        },
    )?;
    let (epsilon, act) = (rms_epsilon(keys, 1e-6)?, activation(keys, "hidden_act", Activation::Silu)?);
    let slides = keys.flag("use_sliding_window", false)?;
    let window = keys.optional_count("sliding_window", Some(4096))?.filter(|_| slides);
    let first = keys.count("max_window_layers", 28)?;
    let slides = |index: usize| index.is_multiple_of(2) && index < first;
    let windows = windows(keys, window, sizes.blocks, slides, "`use_sliding_window` and `sliding_window`")?;
    let experts = Mixture {
        count: keys.count("num_experts", 60)?,
        used: keys.count("num_experts_per_tok", 4)?,
        normalised: keys.flag("norm_topk_prob", false)?,
        columns: keys.count("moe_intermediate_size", 1408)?,
        activation: act,
        router: "mlp.gate",
        name: "mlp.experts",
        parts: ["gate_proj", "up_proj", "down_proj"],
        shared: Some(SharedExpert {
            columns: keys.count("shared_expert_intermediate_size", 5632)?,
            name: "mlp.shared_expert",
            router: "mlp.shared_expert_gate",
        }),
    }
    .checked()?;
    let bias = keys.flag("qkv_bias", true)?;
    let blocks = blocks(sizes.blocks, |index| {
        let mut draft = Draft::new(&sizes);
        let inputs = Inputs::Separate(draft.queries_keys_values(bias));
        let mut attention = draft.attention(inputs, ("self_attn.o_proj", "attn_output"), false);
        attention.window = windows[index];
        let feed_forward = match is_sparse(keys, index)? {
            true => FeedForwardSpec::Experts(draft.experts(&experts, keys.gguf.is_some())),
            false => FeedForwardSpec::One(draft.gated(act, false)),
        };
        Ok(draft.finish(attention, feed_forward, llama_norms(epsilon)?))
    })?;
    let rope = rope::read(keys, sizes.context, sizes.heads, rope::WHOLE)?;
    model(keys, &sizes, vec![rope], blocks, norm(("model.norm", "output_norm"), epsilon)?, false)
}

/// Whether a block has experts: every `decoder_sparse_step`-th, but for `mlp_only_layers`.
pub fn is_sparse(keys: &Keys, index: usize) -> Result<bool> {
    // In GGUF all have them.
    let step = keys.count("decoder_sparse_step", 1)?.max(1);
    let dense = match keys.get("mlp_only_layers") {
        None | Some(Value::Null) => false,
        Some(Value::Array(layers)) => layers.contains(&Value::from(index)),
        Some(_) => return Err(keys.wrong("mlp_only_layers", "a list of blocks' numbers")),
    };
    Ok(!dense && keys.count("num_experts", 1)? > 0 && (index + 1).is_multiple_of(step))
}
