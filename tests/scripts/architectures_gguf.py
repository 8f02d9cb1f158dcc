"""What tiny models are in GGUF, by llama.cpp's converter: writes tests/fixtures/architectures_gguf/NAME.json.

    python tests/scripts/architectures_gguf.py LLAMA_CPP [NAME ...]    # LLAMA_CPP: llama.cpp's source; transformers 5.24

The models are those of architectures.py. The converter is shown weights that number their values, from which it can be read
where it puts each one; the weights that count are then given by the formula on the tensors of the GGUF file, and go back
through that into the model of transformers, whose loss and logits are the figures.
"""

import contextlib
import importlib.util
import io
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

LLAMA_CPP, NAMES = sys.argv[1], sys.argv[2:]
sys.path[:0] = [LLAMA_CPP, os.path.join(LLAMA_CPP, "gguf-py")]
HERE = os.path.dirname(os.path.abspath(__file__))
spec = importlib.util.spec_from_file_location("architectures", os.path.join(HERE, "architectures.py"))
architectures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(architectures)

import gguf
import numpy as np
import torch
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

logging.disable(logging.WARNING)
OUT = os.path.join(HERE, "..", "fixtures", "architectures_gguf")
CASES = """arcee llama llama_bias rope_linear rope_yarn rope_llama3 mistral_full qwen2 qwen3 qwen3_moe mixtral qwen2_moe gemma gemma2
gemma3_text gemma3_text_scaled phi phi3 phi3_longrope olmo olmo_clip olmo2 olmo3 smollm3 granite stablelm stablelm_parallel starcoder2 glm4 cohere
cohere_qk cohere2 gpt_neox gpt_neox_sequential gpt2 falcon falcon_new bloom""".split()

# What GGUF cannot say, or the converter cannot convert, of the cases.
OTHERWISE = {
    "arcee": {"attention_bias": False, "mlp_bias": False},
    "gemma2": {"query_pre_attn_scalar": 16},
    "gemma3_text": {"query_pre_attn_scalar": 16, "num_hidden_layers": 7, "layer_types": None},
    "gemma3_text_scaled": {"query_pre_attn_scalar": 16},
    "stablelm_parallel": {"qk_layernorm": False},
    "gpt_neox_sequential": {"hidden_act": "gelu"},
    "olmo_clip": {"attention_bias": False},
    "phi": {"intermediate_size": 128},
    "phi3": {"sliding_window": None},
    "falcon": {"num_kv_heads": 1},
}
# Keys of older config.json files, which the converter looks at.
OLDER = {"gpt_neox": {"rotary_pct": 0.5}, "gpt_neox_sequential": {"rotary_pct": 0.25}, "gpt2": {"n_ctx": 512}, "cohere2": {"rotary_pct": 1.0}}  # fmt: skip


def without_vocabulary(self):
    self.gguf_writer.add_tokenizer_model("none")
    self.gguf_writer.add_vocab_size(architectures.VOCABULARY)


def convert(folder, out, older):
    folder, load = Path(folder), ModelBase.load_hparams
    ModelBase.load_hparams = staticmethod(lambda *args, **kwargs: load(*args, **kwargs) | older)
    hparams = ModelBase.load_hparams(folder, False)
    kind = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    kind.set_vocab = without_vocabulary
    with torch.inference_mode(), contextlib.redirect_stderr(io.StringIO()):
        kind(folder, gguf.LlamaFileType.ALL_F32, Path(out)).write()
    ModelBase.load_hparams = load


def plain(value):
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (np.floating, float)):
        return float(value)
    if isinstance(value, (np.integer, int)):
        return int(value)
    return value


def fixture(name):
    kind, settings = architectures.CASES[name]
    config = AutoConfig.for_model(kind, **(settings | OTHERWISE.get(name, {})))
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
        path, out = os.path.join(folder, "model.safetensors"), os.path.join(folder, "model.gguf")
        with safe_open(path, "pt") as file:
            shapes = {key: list(file.get_slice(key).get_shape()) for key in sorted(file.keys())}
        # Eighths apart: a norm that the converter adds 1 to is told by what is left over.
        numbers, total = {}, 0
        for key, shape in shapes.items():
            count = int(np.prod(shape))
            numbers[key] = torch.arange(total, total + count, dtype=torch.float32).reshape(shape) * 4
            total += count
        assert total * 4 < 2**24
        save_file(numbers, path, {"format": "pt"})
        with open(os.path.join(folder, "tokenizer.json"), "w") as file:  # Gemma 3's vocabulary is counted in it
            json.dump({"model": {"vocab": {str(i): i for i in range(architectures.VOCABULARY)}}, "added_tokens": []}, file)
        convert(folder, out, OLDER.get(name, {}))
        os.remove(os.path.join(folder, "tokenizer.json"))
        reader = gguf.GGUFReader(out)
        flat, tensors = np.zeros(total, dtype=np.float32), {}
        for tensor in reader.tensors:
            where = np.array(tensor.data, dtype=np.float32)
            shape = [int(n) for n in reversed(tensor.shape)]
            tensors[tensor.name] = shape
            if tensor.name.startswith("rope_f"):
                continue  # made of the config
            added = where.reshape(-1)[0] % 4
            assert added in (0, 1), (tensor.name, added)
            values = architectures.values(tensor.name, shape).numpy().reshape(-1)
            flat[((where.reshape(-1) - added) / 4).astype(np.int64)] = values - added
        factors = {t.name: [float(x) for x in np.array(t.data).reshape(-1)] for t in reader.tensors if t.name.startswith("rope_f")}  # fmt: skip
        weights, at = {}, 0
        for key, shape in shapes.items():
            count = int(np.prod(shape))
            weights[key] = torch.from_numpy(flat[at : at + count].reshape(shape).copy())
            at += count
        save_file(weights, path, {"format": "pt"})
        model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        assert not any(info.values()), info
        loss, logits = architectures.loss_of(model.eval())
        metadata = {}
        for key, field in reader.fields.items():
            if key.startswith("GGUF."):
                continue
            value = field.contents()
            types = [t.name for t in field.types]
            metadata[key] = [types[0] if types[0] != "ARRAY" else types, [plain(v) for v in value] if isinstance(value, list) else plain(value)]  # fmt: skip
    number = lambda x: float(np.format_float_positional(np.float32(x), unique=True))
    content = {
        "metadata": metadata,
        "tensors": tensors,
        "factors": factors,
        "loss": loss,
        "positions": architectures.POSITIONS,
        "logits": [[number(x) for x in logits[at]] for at in architectures.POSITIONS],
    }
    os.makedirs(OUT, exist_ok=True)
    with open(os.path.join(OUT, f"{name}.json"), "w") as file:
        lines = [f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in content.items()]
        file.write("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{name:24} {loss:.6f} {len(tensors)} tensors", flush=True)


if __name__ == "__main__":
    for name in NAMES or CASES:
        try:
            fixture(name)
        except Exception as error:  # noqa: BLE001: the others go on
            print(f"{name:24} FAILED {type(error).__name__}: {str(error)[:300]}", flush=True)
