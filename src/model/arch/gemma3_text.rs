//! Gemma 3 (Gemma Team 2025, arXiv 2503.19786): Gemma 2 without caps, with norms of the heads of q and k, and a rotary
//! embedding of its own in blocks with a window.

use anyhow::Result;

use super::draft::{Defaults, Draft, Sizes, activation, blocks, model, rms_epsilon, windows};
use super::gemma::{gemma_norm, refuse_both_directions};
use super::gemma2::{attention_scale, cap, norms};
use super::gguf::Gguf;
use super::keys::Keys;
use super::rope;
use super::{Architecture, TokenizerClass};
use crate::model::spec::{Activation, FeedForwardSpec, Inputs, NormSpec, Over, Spec};

pub const ARCHITECTURE: Architecture = Architecture {
    name: "gemma3_text",
    class: "Gemma3ForCausalLM",
    models: "Gemma 3",
    gguf: Some(Gguf {
        name: "gemma3",
        keys: &["final_logit_softcapping", "attention.sliding_window", "rope.freq_base_swa"],
        factors: &[],
    }),
    tokenizer: TokenizerClass::Usually("GemmaTokenizer"),
    spec,
};

pub fn spec(keys: &Keys) -> Result<Spec> {
    refuse_both_directions(keys)?;
    let sizes = Sizes::read(
        keys,
        &Defaults {
            hidden: 2304,
            feed_forward: 9216,
            blocks: 26,
            heads: 8,
            key_value_heads: Some(4),
            head_dim: Some(256),
            vocabulary: 262_208,
            context: 131_072,
        },
    )?;
    let epsilon = rms_epsilon(keys, 1e-6)?;
    let bias = keys.flag("attention_bias", false)?;
    let act = activation(keys, "hidden_activation", Activation::GeluTanh)?;
    let window = keys.optional_count("sliding_window", Some(4096))?;
    let every = keys.count("sliding_window_pattern", 6)?.max(1);
    let windows = windows(keys, window, sizes.blocks, |index| !(index + 1).is_multiple_of(every), "`sliding_window`")?;
    // `attn_logit_softcapping` is in the config, and transformers' code does not look at it.
    let scale = attention_scale(keys, &sizes, 62)?;
    let blocks = blocks(sizes.blocks, |index| {
        let mut draft = Draft::new(&sizes);
        let inputs = Inputs::Separate(draft.queries_keys_values(bias));
        let mut attention = draft.attention(inputs, ("self_attn.o_proj", "attn_output"), bias);
        (attention.scale, attention.window) = (scale, windows[index]);
        attention.rope = Some(usize::from(windows[index].is_some()));
        let of_head = |name: (&str, &str)| {
            Ok::<_, anyhow::Error>(NormSpec { over: Over::Head, ..gemma_norm(keys, name, epsilon)? })
        };
        attention.q_norm = Some(of_head(("self_attn.q_norm", "attn_q_norm"))?);
        attention.k_norm = Some(of_head(("self_attn.k_norm", "attn_k_norm"))?);
        let feed = draft.gated(act, false);
        Ok(draft.finish(attention, FeedForwardSpec::One(feed), norms(keys, epsilon)?))
    })?;
    let at = (sizes.context, sizes.heads);
    let ropes = rope::read_two(keys, at, (1e6, 10_000.0), "rope_local_base_freq")?;
    let norm = gemma_norm(keys, ("model.norm", "output_norm"), epsilon)?;
    let mut model = model(keys, &sizes, ropes.to_vec(), blocks, norm, true)?;
    model.embedding.scale = Some((sizes.hidden as f32).sqrt());
    model.head.cap = cap(keys, "final_logit_softcapping", None)?;
    Ok(model)
}
