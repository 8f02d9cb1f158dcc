"""Times calipr and the published PyTorch code on a GPU, on the same model and windows; called by gpu.sh.

The model has random weights: what is timed does not depend on them. Both run in bf16. A pruned cell's seconds are
those of calibration and pruning; an evaluation's those of the windows' way through the pruned model, and of loss and
divergence, the dense model being known. Perplexities of the same cell should agree but for rounding, and the peak of
memory is that of the whole cell.
"""

import argparse
import json
import os
import random
import subprocess
import sys

METHODS = ["wanda", "sparsegpt"]
SPARSITIES = ["0.5", "2:4"]
# What a shape is called, its config.json, and its windows: how many to calibrate on, to evaluate on, and how long.
SHAPES = {
    "llama-2-7b": ({"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
                    "num_key_value_heads": 32, "vocab_size": 32000}, (128, 40, 2048)),
    "tiny": ({"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 3, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": 512}, (6, 4, 64)),
}  # fmt: skip


def make_model(folder, shape, device):
    """A Hugging Face folder with random weights in bf16, and a tokenizer that knows bytes."""
    import torch
    from safetensors.torch import save_file

    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1,
        "eos_token_id": 2, **shape,
    }  # fmt: skip
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(0)
    hidden, wide = shape["hidden_size"], shape["intermediate_size"]
    of_keys = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    weight = lambda rows, columns: (torch.randn(rows, columns, device=device) * 0.02).bfloat16().cpu()
    ones = lambda: torch.ones(hidden, dtype=torch.bfloat16)
    files, blocks = {}, shape["num_hidden_layers"]
    for index in range(blocks + 1):
        if index == blocks:
            part = {"model.embed_tokens.weight": weight(shape["vocab_size"], hidden), "model.norm.weight": ones(),
                    "lm_head.weight": weight(shape["vocab_size"], hidden)}  # fmt: skip
        else:
            at = f"model.layers.{index}"
            part = {f"{at}.self_attn.{name}_proj.weight": weight(rows, hidden)
                    for name, rows in (("q", hidden), ("k", of_keys), ("v", of_keys), ("o", hidden))}  # fmt: skip
            part |= {f"{at}.mlp.gate_proj.weight": weight(wide, hidden), f"{at}.mlp.up_proj.weight": weight(wide, hidden),
                     f"{at}.mlp.down_proj.weight": weight(hidden, wide),
                     f"{at}.input_layernorm.weight": ones(), f"{at}.post_attention_layernorm.weight": ones()}  # fmt: skip
        file = f"model-{index + 1:05}-of-{blocks + 1:05}.safetensors"
        save_file(part, os.path.join(folder, file), metadata={"format": "pt"})
        files |= {name: file for name in part}
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = {byte: chr(byte) for byte in plain}
    characters |= {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in plain)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocabulary = {characters[byte]: byte for byte in range(256)}
    tokenizer = {"version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None, "pre_tokenizer": level,
                 "decoder": level, "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}  # fmt: skip
    written = {"config.json": config, "tokenizer.json": tokenizer, "tokenizer_config.json": {},
               "model.safetensors.index.json": {"metadata": {}, "weight_map": files}}  # fmt: skip
    for name, content in written.items():
        with open(os.path.join(folder, name), "w") as file:
            json.dump(content, file)


def make_windows(folder, vocabulary, calibration, evaluation, length):
    os.makedirs(folder, exist_ok=True)
    numbers = random.Random(0)
    for name, count in (("calibration", calibration), ("evaluation", evaluation)):
        with open(os.path.join(folder, f"general_{name}.jsonl"), "w") as file:
            for _ in range(count):
                ids = [numbers.randrange(3, vocabulary) for _ in range(length)]
                file.write(json.dumps({"input_ids": ids}) + "\n")


def write_recipe(path, work, device, calibration, length):
    sparsities = ", ".join(s if ":" not in s else f'"{s}"' for s in SPARSITIES)
    with open(path, "w") as file:
        file.write(f'''name = "gpu"

[model]
source = "path:{work}/model"
dtype = "bf16"
device = "{device}"

[calibration.general]
dataset = "path:{work}/windows/general_calibration.jsonl"
windows = {calibration}
length = {length}
packing = "single"

[grid]
method = {json.dumps(METHODS)}
sparsity = [{sparsities}]

[suite.general]
dataset = "path:{work}/windows/general_evaluation.jsonl"
length = {length}
packing = "single"
''')


def read_table(path):
    try:
        import polars

        return polars.read_parquet(path).to_dicts()
    except ImportError:
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()


def work_of(shape, calibration, evaluation, length):
    """Floating-point operations of one pass over each set of windows, and of an evaluation's two models' logits."""
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    of_keys = hidden // heads * shape["num_key_value_heads"]
    linears = 2 * hidden * hidden + 2 * hidden * of_keys + 3 * hidden * shape["intermediate_size"]
    a_token = shape["num_hidden_layers"] * (2 * linears + 2 * hidden * length)
    logits = 2 * 2 * hidden * shape["vocab_size"]
    return calibration * length * a_token, evaluation * length * (a_token + logits)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calipr", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--parts", nargs="+", choices=["model", "bench", "calipr", "pytorch", "table"], required=True)
    options = parser.parse_args()
    shape, (calibration, evaluation, length) = SHAPES[options.shape]
    work = os.path.abspath(os.path.join(options.work, f"{options.shape}-{options.device}"))
    os.makedirs(work, exist_ok=True)
    recipe, done = os.path.join(work, "gpu.toml"), lambda name: os.path.join(work, name)

    if "model" in options.parts and not os.path.exists(done("model-made")):
        if options.parts != ["model"]:
            # In a process of its own, which leaves nothing on the device.
            same = ["--calipr", options.calipr, "--work", options.work, "--shape", options.shape, "--device", options.device]
            subprocess.run([sys.executable, __file__, *same, "--parts", "model"], check=True)
        else:
            print("making the model and the windows", file=sys.stderr, flush=True)
            make_model(done("model"), shape, options.device)
            make_windows(done("windows"), shape["vocab_size"], calibration, evaluation, length)
            open(done("model-made"), "w").close()
    write_recipe(recipe, work, options.device, calibration, length)

    cache = ["--cache", done("cache")]
    if "bench" in options.parts and not os.path.exists(done("bench.txt")):
        print("calipr bench", file=sys.stderr, flush=True)
        said = subprocess.run([options.calipr, "bench", recipe, *cache, "-q"], stdout=subprocess.PIPE, check=True).stdout
        with open(done("bench.txt"), "wb") as file:
            file.write(said)
    if "calipr" in options.parts:
        print("calipr run", file=sys.stderr, flush=True)
        command = [options.calipr, "run", recipe, *cache, "--out", done("results")]
        # 3: some cells failed, which the table's end says.
        code = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
        if code not in (0, 3):
            sys.exit(code)
    theirs = {}
    for sparsity in SPARSITIES:
        for method in METHODS:
            file = done(f"pytorch-{method}-{sparsity.replace(':', 'of')}.json")
            if "pytorch" in options.parts and not os.path.exists(file):
                print(f"PyTorch: {method} {sparsity}", file=sys.stderr, flush=True)
                script = os.path.join(os.path.dirname(__file__), "pytorch_baseline.py")
                command = [sys.executable, script, done("model"), done("windows"), method, sparsity, "general"]
                command += ["--evaluation", "general", "--js", "--device", options.device, "--precision", "bfloat16"]
                said = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
                with open(file + ".part", "wb") as part:
                    part.write(said)
                os.replace(file + ".part", file)
            if os.path.exists(file):
                with open(file) as said:
                    theirs[method, sparsity] = json.loads(said.read().splitlines()[-1])
    if "table" not in options.parts:
        return

    if os.path.exists(done("bench.txt")):
        print(open(done("bench.txt")).read())
    cells = {cell["cell"]: cell for cell in read_table(done("results/cells.parquet"))}
    failed = [f"{name}: {cell['error']}" for name, cell in cells.items() if cell["status"] != "done"]
    for said in failed:
        print(f"failed: {said}", file=sys.stderr)
    once, judged = work_of(shape, calibration, evaluation, length)
    gigabytes = lambda n: "" if n is None else f"{n / 1e9:.1f}"
    print(f"{options.shape}, bf16, {calibration} windows of {length} tokens to calibrate on, {evaluation} to evaluate on")
    print("| | PyTorch s | GB | perplexity | calipr s | GB | perplexity | | TFLOP/s |\n" + 9 * "| --- " + "|")
    metrics = read_table(done("results/metrics.parquet"))
    perplexities = {m["cell"]: m["value"] for m in metrics if m["metric"] == "perplexity"}
    rows = []
    for (method, sparsity), published in [((m, s), theirs.get((m, s))) for m in METHODS for s in SPARSITIES]:
        cell = cells.get(f"{method}-{sparsity}-general-s0")
        if cell is None or cell["status"] != "done":
            continue
        seconds = cell["seconds_calibrate"] + cell["seconds_prune"]
        rate = once / seconds if method == "wanda" else None
        rows.append((f"{method} {sparsity}, pruned", published, "prune", seconds, cell, rate))
    cell = cells["wanda-0.5-general-s0"]
    seconds = (cell["seconds_forward"] or 0) + (cell["seconds_score"] or 0)
    published = theirs.get(("wanda", "0.5"))
    rows.append((f"loss + JS on {evaluation} x {length}", published, "evaluate", seconds, cell, judged / max(seconds, 1e-9)))
    for name, published, stage, seconds, cell, rate in rows:
        other = published["seconds"][stage] if published else None
        columns = [
            name,
            f"{other:.3g}" if other else "",
            gigabytes(published.get("device_peak_bytes")) if published else "",
            f"{published['scores']['general']['perplexity']:.6g}" if published else "",
            f"{seconds:.3g}",
            gigabytes(cell["device_peak_bytes"]),
            f"{perplexities.get(cell['cell'], float('nan')):.6g}",
            f"{other / seconds:.1f}x" if other else "",
            f"{rate / 1e12:.3g}" if rate else "",
        ]
        print("| " + " | ".join(columns) + " |")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
