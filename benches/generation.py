"""Sets the decoder beside transformers' batched `generate`: same weights, beginnings, settings and cores.

    pip install torch transformers gguf
    cargo bench --no-run --bench generation
    python3 benches/generation.py MODEL.gguf --threads 2

MODEL is a GGUF file, or a folder of Hugging Face's. Texts of eight tokens are continued at temperature 0.6 with top k 50, top p
0.95 and repetition penalty 1.2, all to the same length: nothing ends a text, so that both make as many tokens. transformers
takes them in batches of each size that is named, calipr all at once; the two take turns, and the medians of the rounds are
compared. With --cpu-time seconds are those of the processor, with one thread: what a machine that others use can tell.
"""

import argparse
import glob
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import transformers


def beginnings(texts, prefix, vocabulary):
    draw = torch.Generator().manual_seed(0)
    return torch.randint(1000, vocabulary, (texts, prefix), generator=draw)


def of_transformers(model, ids, new_tokens, batch, clock):
    """Tokens a second, batch after batch."""
    started, tokens = clock(), 0
    for rows in ids.split(batch):
        made = model.generate(
            input_ids=rows, attention_mask=torch.ones_like(rows), do_sample=True, temperature=0.6, top_k=50, top_p=0.95,
            repetition_penalty=1.2, min_new_tokens=new_tokens, max_new_tokens=new_tokens, pad_token_id=0,
        )
        tokens += made[:, rows.shape[1] :].numel()
    return tokens / (clock() - started)


def of_calipr(binary, model, dtype, ids, new_tokens, threads):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("".join(json.dumps(row) + "\n" for row in ids.tolist()))
        file.flush()
        command = [binary, model, dtype, str(new_tokens), file.name]
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    return json.loads(done.stdout)


def of_calipr_by_cpu_time(*arguments):
    """Tokens a second of the processor: of all tokens but the first of each text, so that reading the model is left out."""
    binary, model, dtype, ids, new_tokens, threads = arguments
    spent = []
    for tokens in (1, new_tokens):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        of_calipr(binary, model, dtype, ids, tokens, threads)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return len(ids) * (new_tokens - 1) / (spent[1] - spent[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", nargs="+", default=["f32", "bf16"])
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    if options.cpu_time:
        options.threads = 1
    torch.set_num_threads(options.threads)
    binaries = [path for path in glob.glob("target/release/deps/generation-*") if os.access(path, os.X_OK) and "." not in os.path.basename(path)]
    # A test of the same name lies beside it; only the benchmark says what it expects.
    says = lambda path: subprocess.run([path], capture_output=True, text=True).stdout
    found = [path for path in sorted(binaries, key=os.path.getmtime) if says(path).startswith("generation: expected")]
    if not found:
        sys.exit("cargo bench --no-run --bench generation")
    folder, name = os.path.split(options.model)
    source = {"pretrained_model_name_or_path": folder, "gguf_file": name} if name.endswith(".gguf") else {"pretrained_model_name_or_path": options.model}
    for dtype in options.dtype:
        precision = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
        model = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=precision).eval()
        ids = beginnings(options.texts, 8, model.config.vocab_size)
        theirs, ours = {batch: [] for batch in options.batch}, []
        for _ in range(options.rounds):
            run = (found[-1], options.model, dtype, ids, options.new_tokens, options.threads)
            ours.append(of_calipr_by_cpu_time(*run) if options.cpu_time else of_calipr(*run)["tokens_per_second"])
            for batch, rates in theirs.items():
                rates.append(of_transformers(model, ids, options.new_tokens, batch, time.process_time if options.cpu_time else time.time))
        ours = statistics.median(ours)
        theirs = {batch: statistics.median(rates) for batch, rates in theirs.items()}
        best = max(theirs, key=theirs.get)
        line = {"dtype": dtype, "calipr": round(ours, 1), "transformers": {b: round(r, 1) for b, r in theirs.items()}}
        print(json.dumps({**line, "best_batch": best, "ratio": round(ours / theirs[best], 2)}), flush=True)


if __name__ == "__main__":
    main()
