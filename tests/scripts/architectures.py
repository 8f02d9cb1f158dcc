"""What transformers makes of a tiny model of each architecture: writes tests/fixtures/architectures/NAME.json.

    python tests/scripts/architectures.py [NAME ...]       # transformers 5.24, torch; without names all

The weights are given by a formula, which tests/architectures.rs has too. Of value i of the tensor NAME, as it is called in
the file: h = FNV-1a of the name, z = splitmix64 of h + i · 0x9E3779B97F4A7C15, u = the first 24 bits of z / 2^24 − 1/2.
Weights of norms (one dimension, named "weight") are 1 + u/2, everything else of one dimension u/2, all else 0.6 · u; in
float32. The window is ids[i] = (i · 7919 + 13 + i² mod 31) mod vocabulary, 300 tokens, longer than any sliding window
here. A file has the config, the names and shapes of the tensors as transformers saves them, the mean loss of the window,
logits at some positions, what greedy decoding writes after the first 20 tokens, and the loss after pruning.

Pruning is that of the published code (locuslab/wanda), block by block: inputs of all linears of the dense block, all of
its linears pruned, the windows taken through the pruned block to the next. An expert's linears are its own slices of the
tensors that transformers keeps of all experts, and their inputs the tokens that are routed to it, or all tokens where
those are fewer than 32.
"""

import json
import os
import sys
import tempfile

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

torch.set_num_threads(1)
HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "fixtures", "architectures")
POSITIONS = [0, 1, 17, 63, 150, 299]
LENGTH, VOCABULARY = 300, 64
FEWEST_ROUTED = 32

SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
WIDE = {**SMALL, "head_dim": 16}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512, "bos_token_id": None, "eos_token_id": None}  # fmt: skip
BLOOM = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 3, "n_head": 4, "bos_token_id": None, "eos_token_id": None}
FALCON = {k: v for k, v in SMALL.items() if k not in ("intermediate_size", "num_key_value_heads")}
OPT = {k: v for k, v in FALCON.items()} | {"ffn_dim": 48, "pad_token_id": 1}
NEOX = {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
ROPE = {"rope_theta": 10000.0}
LONG = {"rope_type": "longrope", **ROPE, "short_factor": [1 + i / 8 for i in range(4)], "long_factor": [2.0 + i for i in range(4)]}  # fmt: skip

CASES = {
    "llama": ("llama", WIDE),
    "llama_bias": ("llama", {**SMALL, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama_gelu": ("llama", {**SMALL, "hidden_act": "gelu"}),
    "llama_relu2": ("llama", {**SMALL, "hidden_act": "relu2"}),
    "llama_quick_gelu": ("llama", {**SMALL, "hidden_act": "quick_gelu"}),
    "rope_linear": ("llama", {**SMALL, "rope_parameters": {"rope_type": "linear", "factor": 3.0, **ROPE}}),
    "rope_dynamic": ("llama", {**SMALL, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, **ROPE}}),
    "rope_yarn": ("llama", {**SMALL, "rope_parameters": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, **ROPE}}),  # fmt: skip
    "rope_llama3": ("llama", {**SMALL, "rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64, **ROPE}}),  # fmt: skip
    "rope_longrope": ("llama", {**SMALL, "rope_parameters": {**LONG, "original_max_position_embeddings": 128}}),
    "rope_longrope_short": ("llama", {**SMALL, "rope_parameters": {**LONG, "original_max_position_embeddings": 400}}),
    "arcee": ("arcee", {**WIDE, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {**WIDE, "sliding_window": 24}),
    "mistral_full": ("mistral", {**SMALL, "sliding_window": None}),
    "ministral": ("ministral", {**WIDE, "sliding_window": 24, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),  # fmt: skip
    "qwen2": ("qwen2", SMALL),
    "qwen2_window": ("qwen2", {**SMALL, "use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}),
    "qwen3": ("qwen3", {**WIDE, "tie_word_embeddings": True}),
    "qwen3_window": ("qwen3", {**WIDE, "use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1, "attention_bias": True}),  # fmt: skip
    "qwen3_moe": ("qwen3_moe", {**WIDE, **EXPERTS, "norm_topk_prob": True}),
    "qwen3_moe_mixed": ("qwen3_moe", {**WIDE, **EXPERTS, "norm_topk_prob": False, "mlp_only_layers": [1]}),
    "qwen3_moe_window": ("qwen3_moe", {**WIDE, **EXPERTS, "use_sliding_window": True, "sliding_window": 24}),
    "mixtral": ("mixtral", {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "mixtral_window": ("mixtral", {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 1, "sliding_window": 24}),
    "qwen2_moe": ("qwen2_moe", {**SMALL, **EXPERTS, "shared_expert_intermediate_size": 40}),
    "qwen2_moe_mixed": ("qwen2_moe", {**SMALL, **EXPERTS, "shared_expert_intermediate_size": 40, "decoder_sparse_step": 2, "norm_topk_prob": True, "use_sliding_window": True, "sliding_window": 24, "max_window_layers": 4}),  # fmt: skip
    "gemma": ("gemma", WIDE),
    "gemma2": ("gemma2", {**WIDE, "query_pre_attn_scalar": 20, "sliding_window": 24, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),  # fmt: skip
    "gemma3_text": ("gemma3_text", {**WIDE, "query_pre_attn_scalar": 20, "sliding_window": 24, "num_hidden_layers": 4, "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]}),  # fmt: skip
    "gemma3_text_scaled": ("gemma3_text", {**WIDE, "sliding_window": 24, "num_hidden_layers": 7, "final_logit_softcapping": 4.0, "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500000.0}, "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0}}}),  # fmt: skip
    "gemma3": ("gemma3", {"text_config": {**WIDE, "query_pre_attn_scalar": 20, "sliding_window": 24}, "vision_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}, "mm_tokens_per_image": 4}),  # fmt: skip
    "gemma3_text_caps": ("gemma3_text", {**WIDE, "sliding_window": 24, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),  # fmt: skip
    "gemma3_caps": ("gemma3", {"text_config": {**WIDE, "sliding_window": 24, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}, "vision_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}, "mm_tokens_per_image": 4}),  # fmt: skip
    "gemma3_tied": ("gemma3", {"text_config": {**WIDE, "sliding_window": 24, "tie_word_embeddings": False}, "vision_config": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}, "mm_tokens_per_image": 4}),  # fmt: skip
    "phi": ("phi", {**SMALL, "num_key_value_heads": 4}),
    "phi_qk": ("phi", {**SMALL, "qk_layernorm": True, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25, **ROPE}}),  # fmt: skip
    "phi3": ("phi3", {**SMALL, "sliding_window": 24}),
    "phi3_longrope": ("phi3", {**SMALL, "original_max_position_embeddings": 128, "rope_parameters": {**LONG}}),
    "phi3_longrope_outgrown": ("phi3", {**SMALL, "original_max_position_embeddings": 32, "rope_parameters": {**LONG}}),
    "phi3_partial": ("phi3", {**SMALL, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75, **ROPE}}),
    "olmo": ("olmo", SMALL),
    "olmo_clip": ("olmo", {**SMALL, "clip_qkv": 0.5, "attention_bias": True}),
    "olmo2": ("olmo2", SMALL),
    "olmo3": ("olmo3", {**SMALL, "sliding_window": 24, "num_hidden_layers": 4}),
    "olmo3_yarn": ("olmo3", {**SMALL, "sliding_window": 24, "num_hidden_layers": 4, "rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, **ROPE}, "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}}),  # fmt: skip
    "smollm3": ("smollm3", {**SMALL, "num_hidden_layers": 4}),
    "smollm3_types": ("smollm3", {**SMALL, "use_sliding_window": False, "sliding_window": 24, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),  # fmt: skip
    "smollm3_window": ("smollm3", {**SMALL, "no_rope_layers": [1, 0, 1], "use_sliding_window": True, "sliding_window": 24}),
    "granite": ("granite", {**SMALL, "embedding_multiplier": 3.0, "logits_scaling": 2.5, "residual_multiplier": 0.4, "attention_multiplier": 0.2}),  # fmt: skip
    "stablelm": ("stablelm", {**SMALL, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5, **ROPE}}),
    "stablelm_parallel": ("stablelm", {**SMALL, "use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True}),
    "starcoder2": ("starcoder2", SMALL),
    "starcoder2_window": ("starcoder2", {**SMALL, "sliding_window": 24, "use_bias": False, "tie_word_embeddings": False}),
    "glm": ("glm", WIDE),
    "glm4": ("glm4", WIDE),
    "cohere": ("cohere", SMALL),
    "cohere_qk": ("cohere", {**SMALL, "use_qk_norm": True, "logit_scale": 0.3}),
    "cohere2": ("cohere2", {**SMALL, "sliding_window": 24, "num_hidden_layers": 4}),
    "cohere2_wide": ("cohere2", {**WIDE, "sliding_window": 24}),
    "gpt_neox": ("gpt_neox", {**NEOX, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5, **ROPE}}),
    "gpt_neox_sequential": ("gpt_neox", {**NEOX, "use_parallel_residual": False, "hidden_act": "gelu_new", "tie_word_embeddings": True}),  # fmt: skip
    "opt": ("opt", OPT),
    "opt_post": ("opt", {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "opt_plain": ("opt", {**OPT, "enable_bias": False, "layer_norm_elementwise_affine": False, "activation_function": "gelu"}),
    "gpt2": ("gpt2", GPT2),
    "gpt2_scaled": ("gpt2", {**GPT2, "scale_attn_by_inverse_layer_idx": True, "n_inner": 56, "activation_function": "relu"}),
    "falcon": ("falcon", FALCON),
    "falcon_new": ("falcon", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_one_norm": ("falcon", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1, "bias": True}),  # fmt: skip
    "falcon_alibi": ("falcon", {**FALCON, "alibi": True, "parallel_attn": False, "multi_query": False, "bias": True, "num_attention_heads": 8}),  # fmt: skip
    "bloom": ("bloom", BLOOM),
    "bloom_post": ("bloom", {**BLOOM, "apply_residual_connection_post_layernorm": True, "hidden_size": 48, "n_head": 6}),
}


def values(name, shape):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    count = int(np.prod(shape)) if len(shape) else 1
    with np.errstate(over="ignore"):
        z = np.uint64(h) + np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    u = (z >> np.uint64(40)).astype(np.float32) / np.float32(2**24) - np.float32(0.5)
    if len(shape) == 1:
        u = u / np.float32(2)
        u = np.float32(1) + u if name.endswith("weight") else u
    else:
        u = u * np.float32(0.6)
    return torch.from_numpy(u.reshape(shape))


def window(start=0, length=LENGTH):
    i = np.arange(start, start + length, dtype=np.int64)
    return torch.from_numpy((i * 7919 + 13 + i * i % 31) % VOCABULARY)[None]


def loss_of(model):
    with torch.no_grad():
        logits = model(window()).logits[0]
    log = torch.log_softmax(logits.double(), -1)
    return -log[:-1].gather(1, window()[0, 1:, None]).mean().item(), logits


def blocks_of(model):
    """The list of blocks."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and "vision" not in name:
            first = module[0] if len(module) else None
            if first is not None and type(first).__name__.endswith(("Layer", "Block")):
                return module


def is_experts(module):
    return hasattr(module, "gate_up_proj") and hasattr(module, "down_proj") and torch.is_tensor(getattr(module, "gate_up_proj"))


class Caught(Exception):
    pass


def prune(model, method, ratio=0.5):
    """The published code: block by block, from 4 windows of 64 tokens."""
    windows = [window(64 * w, 64) for w in range(4)]
    blocks, states = blocks_of(model), []

    def catch(module, args, kwargs):
        states.append((args, kwargs))
        raise Caught

    handle = blocks[0].register_forward_pre_hook(catch, with_kwargs=True)
    for ids in windows:
        try:
            with torch.no_grad():
                model(ids, use_cache=False)
        except Caught:
            pass
    handle.remove()
    # What differs from block to block of what they are called with: it is caught anew for each.
    for index, block in enumerate(blocks):
        inputs, handles = {}, []

        def see(name):
            def hook(module, args):
                inputs.setdefault(name, []).append(args[0].detach().reshape(-1, args[0].shape[-1]))
            return hook

        linears = {n: m for n, m in block.named_modules() if isinstance(m, (torch.nn.Linear, Conv1D)) and "gate" != n.split(".")[-1] and "shared_expert_gate" not in n}  # fmt: skip
        experts = {n: m for n, m in block.named_modules() if is_experts(m)}
        handles += [m.register_forward_pre_hook(see(n)) for n, m in linears.items()]
        routed = {}
        for name, module in experts.items():
            def hook(module, args, kwargs, name=name):
                hidden, chosen = args[0].detach(), args[1]
                for e in range(module.gate_up_proj.shape[0]):
                    rows = (chosen == e).any(-1).nonzero()[:, 0]
                    routed.setdefault((name, e), []).append((hidden[rows], hidden))
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        with torch.no_grad():
            for ids in windows:
                model(ids, use_cache=False)
        for handle in handles:
            handle.remove()

        def score(weight, batches):
            if method == "magnitude":
                return None
            norms = sum((x.float() ** 2).sum(0) for x in batches) / len(batches)
            return weight.abs() * norms.sqrt()

        def pruned(weight, batches):
            if method == "magnitude":
                threshold = weight.abs().flatten().sort()[0][int(weight.numel() * ratio)]
                return torch.where(weight.abs() <= threshold, 0.0, weight)
            order = score(weight, batches).sort(dim=-1, stable=True)[1][:, : int(weight.shape[1] * ratio)]
            return weight.scatter(1, order, 0.0)

        with torch.no_grad():
            for name, module in linears.items():
                weight = module.weight.t() if isinstance(module, Conv1D) else module.weight
                weight = pruned(weight.contiguous(), inputs[name])
                module.weight.copy_(weight.t() if isinstance(module, Conv1D) else weight)
            for name, module in experts.items():
                for e in range(module.gate_up_proj.shape[0]):
                    enough = sum(len(own) for own, _ in routed[(name, e)]) >= FEWEST_ROUTED
                    batches = [own if enough else all_tokens for own, all_tokens in routed[(name, e)]]
                    gate, up = module.gate_up_proj[e].chunk(2)
                    made = [module.act_fn(x @ gate.t()) * (x @ up.t()) for x in batches]
                    module.gate_up_proj[e] = torch.cat([pruned(gate, batches), pruned(up, batches)])
                    module.down_proj[e] = pruned(module.down_proj[e], made)


def fixture(name):
    kind, settings = CASES[name]
    settings = dict(settings)
    config = AutoConfig.for_model(kind, **settings)
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
        path = os.path.join(folder, "model.safetensors")
        with safe_open(path, "pt") as file:
            shapes = {key: list(file.get_slice(key).get_shape()) for key in sorted(file.keys())}
        save_file({key: values(key, shape) for key, shape in shapes.items()}, path, {"format": "pt"})

        def load():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True
            )
            assert not any(info.values()), info
            return model.eval()

        model = load()
        loss, logits = loss_of(model)
        prompt = window()[:, :20]
        with torch.no_grad():
            made = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=24, use_cache=True)  # fmt: skip
        written = made[0, 20:].tolist()
        with torch.no_grad():
            two = model(made[:, :-1]).logits[0, 19:].topk(2)[0]
        pruned = {}
        for method in ["magnitude", "wanda"]:
            model = load()
            prune(model, method)
            pruned[method] = loss_of(model)[0]
        with open(os.path.join(folder, "config.json")) as file:
            config = json.load(file)
    number = lambda x: float(np.format_float_positional(np.float32(x), unique=True))
    content = {
        "config": config,
        "tensors": shapes,
        "loss": loss,
        "positions": POSITIONS,
        "logits": [[number(x) for x in logits[at]] for at in POSITIONS],
        "greedy": written,
        "closest": (two[:, 0] - two[:, 1]).min().item(),
        "pruned": pruned,
    }
    os.makedirs(OUT, exist_ok=True)
    with open(os.path.join(OUT, f"{name}.json"), "w") as file:
        lines = [f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in content.items()]
        file.write("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{name:24} {loss:.6f} {pruned} closest {content['closest']:.2g}", flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        try:
            fixture(name)
        except Exception as error:  # noqa: BLE001: the others go on
            print(f"{name:24} FAILED {type(error).__name__}: {str(error)[:300]}", flush=True)
