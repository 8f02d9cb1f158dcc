//! Whether llama.cpp loads a file of an architecture (`load_arch_tensors` of its `src/models`): it is an error there where a
//! tensor is missing, and where one is left that its code does not look for.

use crate::model::rope::RopeScaling;
use crate::model::spec::Spec;

/// Whether it has a matrix of its own for the head.
enum Head {
    Never,
    Always,
    Either,
}

/// Whether what attention and the feed-forward end with have biases.
enum Biases {
    Never,
    Always,
    Either,
}

/// What llama.cpp's code for an architecture looks for, where architectures differ.
struct Looks {
    head: Head,
    biases: Biases,
    /// Norms of the heads of q and k, in models of so many blocks at least; None for none.
    norms_of_heads: Option<usize>,
    /// Heads are as large as their number makes them.
    heads_fill: bool,
    /// Factors of LongRoPE.
    longrope: bool,
}

/// Of an architecture as GGUF calls it.
fn looks(name: &str) -> Looks {
    Looks {
        head: match name {
            "command-r" | "cohere2" | "gemma" | "gemma2" => Head::Never,
            "gptneox" | "olmo2" | "phi2" | "qwen2moe" | "stablelm" => Head::Always,
            _ => Head::Either,
        },
        biases: match name {
            "bloom" | "gpt2" | "gptneox" | "phi2" | "starcoder2" => Biases::Always,
            "granite" | "llama" => Biases::Either,
            _ => Biases::Never,
        },
        norms_of_heads: match name {
            "gemma3" | "olmo2" | "qwen3" | "qwen3moe" | "stablelm" => Some(0),
            "command-r" => Some(64),
            _ => None,
        },
        heads_fill: !matches!(
            name,
            "arcee" | "gemma" | "gemma2" | "gemma3" | "glm4" | "granite" | "llama" | "qwen3" | "qwen3moe" | "smollm3"
        ),
        longrope: matches!(name, "granite" | "llama" | "phi3"),
    }
}

/// Whether llama.cpp loads a model that is written as a file of this architecture.
pub fn loads(name: &str, spec: &Spec) -> bool {
    let looks = looks(name);
    let head = match looks.head {
        Head::Never => spec.head.tied,
        Head::Always => !spec.head.tied,
        Head::Either => true,
    };
    let of_block = spec.blocks.iter().all(|block| {
        let biased = |names: &[&str]| {
            let mut linears = block.linears.iter().filter(|linear| names.contains(&linear.name.as_str()));
            (linears.clone().all(|linear| linear.bias), linears.any(|linear| linear.bias))
        };
        let (all, any) = biased(&["o", "up", "down", "gate"]);
        let biases = match looks.biases {
            Biases::Never => !any,
            Biases::Always => all,
            Biases::Either => true,
        };
        let heads = block.attention.heads;
        let norms = block.attention.q_norm.is_none() || looks.norms_of_heads.is_some_and(|n| spec.blocks.len() >= n);
        // Of one matrix for q, k and v; of several, biases are taken where they are.
        let fused = name != "falcon" || !biased(&["qkv"]).1;
        biases && norms && fused && (!looks.heads_fill || heads.query * heads.dim == spec.hidden)
    });
    let is_long = spec.ropes.iter().any(|rope| matches!(rope.scaling, RopeScaling::LongRope { .. }));
    head && of_block && (!is_long || looks.longrope)
}
