"""Times calipr and the published PyTorch code on the same model, windows and machine; called by compare.sh.

PyTorch computes in float32, as published. calipr runs the sweep of tests/fixtures/published.toml (dense, three
methods at 0.5 and 2:4, two calibrations, two suites of 16 windows of 512 tokens) in float32 and in bf16, each with a
cache of its own; the single rows are cells of that sweep. PyTorch's sweep is the sum of its parts.
"""

import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile
import time

import polars as pl

RECIPE = "tests/fixtures/published.toml"
CELL = {"magnitude": "magnitude-0.5", "wanda": "wanda-0.5-general-s0", "sparsegpt": "sparsegpt-0.5-general-s0"}


def pytorch(model, method, threads):
    """One cell by the published code: its JSON line."""
    script = os.path.join(os.path.dirname(__file__), "pytorch_baseline.py")
    command = [sys.executable, script, model, "tests/fixtures", method, "0.5", "general", "--evaluation", "general", "--js"]
    print(f"PyTorch: {method}", file=sys.stderr, flush=True)
    done = subprocess.run(command + ["--threads", str(threads)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def llm_compressor(model, method, threads):
    script = os.path.join(os.path.dirname(__file__), "llm_compressor.py")
    print(f"llm-compressor: {method}", file=sys.stderr, flush=True)
    command = [sys.executable, script, model, "tests/fixtures", method, "--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return json.loads(done.stdout.splitlines()[-1])


class Calipr:
    """The sweep in one precision."""

    def __init__(self, folder, dtype, threads):
        print(f"calipr: the sweep in {dtype}", file=sys.stderr, flush=True)
        cache, out = os.path.join(folder, dtype), os.path.join(folder, f"{dtype}-results")
        sources = os.path.join(folder, "cache", "sources")
        os.makedirs(cache)
        os.symlink(sources, os.path.join(cache, "sources"))
        sets = ["--set", f"model.dtype={dtype}", "--set", "prune.schedule=linear"]
        started = time.time()
        command = ["target/release/calipr", "run", RECIPE, *sets, "--cache", cache, "--out", out, "-q"]
        subprocess.run([*command, "--threads", str(threads)], stdout=subprocess.DEVNULL, check=True)
        self.seconds = time.time() - started
        self.cells = {row["cell"]: row for row in pl.read_parquet(f"{out}/cells.parquet").to_dicts()}
        metrics = pl.read_parquet(f"{out}/metrics.parquet")
        self.metrics = {(m["cell"], m["suite"], m["metric"]): m["value"] for m in metrics.to_dicts()}

    def prune(self, method):
        cell = self.cells[CELL[method]]
        return cell["seconds_calibrate"] + cell["seconds_prune"]

    def evaluate(self):
        """One suite of a cell, of two."""
        cell = self.cells[CELL["wanda"]]
        return (cell["seconds_forward"] + cell["seconds_score"]) / 2

    def perplexity(self, method):
        return self.metrics[CELL[method], "general", "perplexity"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # A short run fetches the model.
        sets = ["grid.sparsity=[0.5]", 'grid.method=["magnitude"]', "suite.general.windows=1", "suite.task.windows=1"]
        short = ["target/release/calipr", "run", RECIPE, "-q", "--cache", f"{folder}/cache", "--out", f"{folder}/first"]
        short += [argument for value in sets for argument in ("--set", value)]
        subprocess.run(short, stdout=subprocess.DEVNULL, check=True)
        (model,) = glob.glob(f"{folder}/cache/sources/**/*.gguf", recursive=True)
        theirs = {method: pytorch(model, method, options.threads) for method in CELL}
        ours = [Calipr(folder, dtype, options.threads) for dtype in ("f32", "bf16")]
        tool = {}
        if os.environ.get("LLM_COMPRESSOR"):
            tool = {method: llm_compressor(model, method, options.threads) for method in ("wanda", "sparsegpt")}

    rows = []
    for method in ("wanda", "sparsegpt", "magnitude"):
        name = f"{method}, one cell pruned"
        rows.append((name, theirs[method]["seconds"]["prune"], tool.get(method, {}).get("seconds"), [c.prune(method) for c in ours]))
    evaluate = theirs["wanda"]["seconds"]["evaluate"]
    rows.append(("loss + JS on 16 x 512", evaluate, None, [c.evaluate() for c in ours]))
    seconds = {method: theirs[method]["seconds"]["prune"] for method in CELL}
    sweep = 2 * theirs["wanda"]["seconds"]["dense_logits"] + 2 * seconds["magnitude"] + 4 * seconds["wanda"]
    sweep += 4 * seconds["sparsegpt"] + 10 * 2 * evaluate
    rows.append(("sweep: dense and 10 cells, 2 suites", sweep, None, [c.seconds for c in ours]))

    has_tool = bool(tool)
    print(f"| seconds, {options.threads} threads | PyTorch f32 |" + (" llm-compressor f32 |" if has_tool else "") + " calipr f32 | | calipr bf16 | |")
    print("| --- " * (6 + has_tool) + "|")
    for name, published, other, mine in rows:
        cells = [name, f"{published:.1f}"] + ([f"{other:.1f}" if other else ""] if has_tool else [])
        for value in mine:
            cells += [f"{value:.1f}", f"{published / value:.1f}x"]
        print("| " + " | ".join(cells) + " |")
    print()
    print("Perplexity on general text, pruned to 0.5 on general text:")
    for method in CELL:
        published = theirs[method]["scores"]["general"]["perplexity"]
        values = ", ".join(f"calipr {c} {o.perplexity(method):.2f}" for c, o in zip(("f32", "bf16"), ours))
        print(f"  {method}: PyTorch {published:.2f}, {values}")
    cell = ours[1].cells[CELL["wanda"]]
    first, others = ours[1].prune("wanda"), (cell["seconds_forward"] + cell["seconds_score"])
    print(f"One more Wanda cell in bf16: {first:.1f} s to prune, {others:.1f} s on both suites.")


if __name__ == "__main__":
    main()
