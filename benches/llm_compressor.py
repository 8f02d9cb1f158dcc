"""One cell pruned by llm-compressor, to compare calipr with; called by compare.py. Prints a JSON line with seconds.

    pip install llmcompressor gguf
    python3 benches/llm_compressor.py MODEL.gguf tests/fixtures sparsegpt --threads 2
"""

import argparse
import json
import os
import tempfile
import time

import torch
import transformers
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning.sparsegpt import SparseGPTModifier
from llmcompressor.modifiers.pruning.wanda import WandaPruningModifier


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .gguf file")
    parser.add_argument("windows", help="a folder of windows")
    parser.add_argument("method", choices=["wanda", "sparsegpt"])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    folder, file = os.path.split(os.path.abspath(options.model))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    with tempfile.TemporaryDirectory() as saved:  # it wants a model with a config.json
        config = transformers.LlamaConfig(**{**model.config.to_dict(), "quantization_config": None})
        plain = transformers.LlamaForCausalLM(config).to(torch.float32)
        plain.load_state_dict(model.state_dict())
        plain.save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        del model, plain
        prune(transformers.AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32).eval(), tokenizer, options)


def prune(model, tokenizer, options):
    with open(f"{options.windows}/general_calibration.jsonl") as lines:
        ids = [json.loads(line)["input_ids"] for line in lines]
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(window) for window in ids]})
    modifier = WandaPruningModifier if options.method == "wanda" else SparseGPTModifier
    recipe = modifier(sparsity=0.5, mask_structure="0:0", targets="__ALL__", ignore=["re:.*lm_head"])
    started = time.time()
    oneshot(
        model=model,
        tokenizer=tokenizer,
        dataset=data,
        recipe=recipe,
        num_calibration_samples=len(ids),
        max_seq_length=len(ids[0]),
        shuffle_calibration_samples=False,
    )
    print(json.dumps({"method": options.method, "seconds": round(time.time() - started, 2)}), flush=True)


if __name__ == "__main__":
    main()
