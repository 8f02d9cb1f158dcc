"""Gemma 3 270M by transformers, on the weights that its GGUF file dequantises to: writes tests/fixtures/gemma.json.

    python tests/scripts/gemma.py FILE.gguf       # transformers 5.24, torch, gguf 0.18

Token ids of texts are those of transformers' GemmaTokenizer, made of the same file.
"""

import json
import os
import sys

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import numpy as np
import torch
from gguf import GGUFReader, dequantize
from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

HERE = os.path.dirname(os.path.abspath(__file__))
PARTS = {
    "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
TEXTS = [
    "Hello  world", "", " ", "   three   spaces ", "line\nline\n\n\nline\t\ttab", "12345 3.14159 1,000,000", "don't it's we'll I'M",
    "naïve café Zürich", "日本語のテキスト", "مرحبا بالعالم", "🙂🧑‍🚀🇨🇭", "ﬁ ① ½ \u00a0\u2003x", "<bos>a<eos> <unk> [multimodal]",
    "fn main() { println!(\"{}\", 1 << 3); }", "\u0000\u0007\u200b\ufeff", "ꙮ𐍈𒀀", "<start_of_turn>user\nHi<end_of_turn>\n",
]  # fmt: skip


def main(path):
    reader = GGUFReader(path)
    config = Gemma3TextConfig(
        vocab_size=262144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256, query_pre_attn_scalar=256, sliding_window=512, max_position_embeddings=32768,
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
    )  # fmt: skip
    weights = {}
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        value = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32).reshape(shape))
        value = value - 1 if tensor.name.endswith("norm.weight") else value
        outer = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
        name = outer.get(tensor.name)
        if name is None:
            _, block, part, _ = tensor.name.split(".")
            name = f"model.layers.{block}.{PARTS[part]}.weight"
        weights[name] = value
    model = Gemma3ForCausalLM(config).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected
    tokenizer = AutoTokenizer.from_pretrained(os.path.dirname(path), gguf_file=os.path.basename(path))
    with open(os.path.join(HERE, "..", "fixtures", "social_iqa.jsonl")) as file:
        text = " ".join(" ".join(str(value) for value in json.loads(line).values()) for line in file)
    ids = tokenizer(text)["input_ids"][:700]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    log = torch.log_softmax(logits[:-1], -1)
    loss = -log.gather(1, torch.tensor(ids)[1:, None]).mean().item()
    texts = [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in TEXTS]
    with open(os.path.join(HERE, "..", "fixtures", "gemma.json"), "w") as file:
        json.dump({"ids": ids, "loss": loss, "texts": texts}, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")
    print(loss, sum(len(text["ids"]) for text in texts))


main(sys.argv[1])
