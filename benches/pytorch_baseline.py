"""The published pruning code's arithmetic in PyTorch, to compare calipr with.

Magnitude, Wanda (arXiv 2306.11695) and SparseGPT (arXiv 2301.00774) as their authors published them
(locuslab/wanda, which carries SparseGPT's solver): one statistic a linear, H summed window by window in
float32, U by Cholesky, inverse and Cholesky, blocks of 128 columns, and each block of the model passed
twice. Prints a JSON line: scores on each evaluation, and seconds.

    pip install torch transformers accelerate gguf
    python3 benches/pytorch_baseline.py MODEL.gguf tests/fixtures sparsegpt 2:4 task --threads 2
    python3 benches/pytorch_baseline.py MODEL_FOLDER windows wanda 0.5 general --device cuda --precision bfloat16

WINDOWS is a folder with NAME_calibration.jsonl and NAME_evaluation.jsonl, an `input_ids` a row.
"""

import argparse
import json
import math
import os
import time

import torch
import transformers


def windows(path, device):
    with open(path) as lines:
        return [torch.tensor([json.loads(line)["input_ids"]], device=device) for line in lines]


def now(device):
    if device != "cpu":
        torch.cuda.synchronize()
    return time.time()


class ColumnNorms:
    """The running mean over windows of |x_j|^2."""

    def __init__(self, weight):
        self.mean, self.count = torch.zeros(weight.shape[1], device=weight.device), 0

    def add(self, x):  # (1, tokens, columns)
        self.mean *= self.count / (self.count + 1)
        self.count += 1
        self.mean += torch.norm(x[0].t().float(), p=2, dim=1) ** 2 / self.count


class Gram:
    """The running 2/n X X^T over windows."""

    def __init__(self, weight, dtype):
        columns = weight.shape[1]
        self.h, self.count = torch.zeros(columns, columns, dtype=dtype, device=weight.device), 0

    def add(self, x):
        self.h *= self.count / (self.count + 1)
        self.count += 1
        x = math.sqrt(2 / self.count) * x[0].t().to(self.h.dtype)
        self.h += x.matmul(x.t())


def smallest_of_groups(scores, kept, of, mask, first=0):
    """Marks the `of - kept` smallest scores of every `of` columns."""
    for j in range(0, scores.shape[1], of):
        gone = torch.topk(scores[:, j : j + of], of - kept, dim=1, largest=False)[1]
        mask.scatter_(1, first + j + gone, True)


def magnitude(weight, ratio, pattern):
    scores, mask = weight.abs(), torch.zeros_like(weight, dtype=torch.bool)
    if pattern:
        smallest_of_groups(scores, *pattern, mask)
    else:
        mask = scores <= torch.sort(scores.flatten())[0][int(weight.numel() * ratio)]
    return weight.masked_fill(mask, 0)


def wanda(weight, norms, ratio, pattern):
    scores, mask = weight.abs() * torch.sqrt(norms.mean), torch.zeros_like(weight, dtype=torch.bool)
    if pattern:
        smallest_of_groups(scores, *pattern, mask)
    else:
        order = torch.sort(scores, dim=-1, stable=True)[1]
        mask.scatter_(1, order[:, : int(weight.shape[1] * ratio)], True)
    return weight.masked_fill(mask, 0)


def sparsegpt(weight, gram, ratio, pattern, width=128, damping=0.01):
    w, h = weight.float().clone(), gram.h
    dead = torch.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    diagonal = torch.arange(h.shape[0], device=h.device)
    h[diagonal, diagonal] += damping * torch.mean(torch.diag(h))
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True).float()
    for start in range(0, w.shape[1], width):
        end = min(start + width, w.shape[1])
        block, local = w[:, start:end].clone(), u[start:end, start:end]
        scores = lambda a, b: block[:, a:b] ** 2 / torch.diag(local)[a:b] ** 2
        mask, errors = torch.zeros_like(block, dtype=torch.bool), torch.zeros_like(block)
        if not pattern:
            all_scores = scores(0, end - start)
            mask = all_scores <= torch.sort(all_scores.flatten())[0][int(all_scores.numel() * ratio)]
        for j in range(end - start):
            if pattern and j % pattern[1] == 0:
                smallest_of_groups(scores(j, j + pattern[1]), *pattern, mask, j)
            kept = block[:, j].masked_fill(mask[:, j], 0)
            error = (block[:, j] - kept) / local[j, j]
            block[:, j:] -= error.unsqueeze(1).matmul(local[j, j:].unsqueeze(0))
            block[:, j], errors[:, j] = kept, error
        w[:, start:end] = block
        w[:, end:] -= errors.matmul(u[start:end, end:])
    return w.to(weight.dtype)


@torch.no_grad()
def prune(model, calibration, method, ratio, pattern, dtype):
    core = model.model
    linears = lambda block: {n: m for n, m in block.named_modules() if isinstance(m, torch.nn.Linear)}
    if method == "magnitude":
        for block in core.layers:
            for linear in linears(block).values():
                linear.weight.data = magnitude(linear.weight.data, ratio, pattern)
        return
    hidden = [core.embed_tokens(window) for window in calibration]
    positions = torch.arange(calibration[0].shape[1], device=hidden[0].device).unsqueeze(0)
    rope = core.rotary_emb(hidden[0], positions)

    def through(block, x):
        out = block(x, attention_mask=None, position_ids=positions, position_embeddings=rope)
        return out[0] if isinstance(out, tuple) else out

    for block in core.layers:
        statistics, hooks = {}, []
        for name, linear in linears(block).items():
            statistics[name] = ColumnNorms(linear.weight) if method == "wanda" else Gram(linear.weight, dtype)
            add = lambda _, inputs, __, s=statistics[name]: s.add(inputs[0])
            hooks.append(linear.register_forward_hook(add))
        for x in hidden:
            through(block, x)
        for hook in hooks:
            hook.remove()
        for name, linear in linears(block).items():
            solve = wanda if method == "wanda" else sparsegpt
            linear.weight.data = solve(linear.weight.data, statistics[name], ratio, pattern)
        hidden = [through(block, x) for x in hidden]


@torch.no_grad()
def dense_logits(model, evaluation):
    return [model(ids).logits[0, :-1] for ids in evaluation]


def js_divergence(p_logits, q_logits):
    """Summed over positions, natural log."""
    p, q = torch.log_softmax(p_logits.float(), dim=-1), torch.log_softmax(q_logits.float(), dim=-1)
    m = torch.logaddexp(p, q) - math.log(2)
    return 0.5 * (p.exp() * (p - m) + q.exp() * (q - m)).sum().item()


@torch.no_grad()
def evaluate(model, evaluation, dense):
    """Perplexity, and the mean JS divergence from the dense model where its logits are given."""
    loss, divergence, count = 0.0, 0.0, 0
    for i, ids in enumerate(evaluation):
        logits = model(ids).logits[0, :-1]
        loss += torch.nn.functional.cross_entropy(logits.float(), ids[0, 1:], reduction="sum").item()
        if dense:
            divergence += js_divergence(dense[i], logits)
        count += ids.shape[1] - 1
    scores = {"perplexity": math.exp(loss / count)}
    return {**scores, "js_divergence": divergence / count} if dense else scores


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .gguf file, or a folder with config.json and safetensors")
    parser.add_argument("windows", help="a folder of windows")
    parser.add_argument("method", choices=["dense", "magnitude", "wanda", "sparsegpt"])
    parser.add_argument("sparsity", help="0.5 or 2:4")
    parser.add_argument("calibration", help="general or task")
    parser.add_argument("--evaluation", nargs="*", default=["general", "task"])
    parser.add_argument("--js", action="store_true", help="also the divergence from the dense model's logits")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", help="of SparseGPT's H and its factors")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", default="float32", help="of the model")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    device = options.device
    where, named = os.path.abspath(options.model), {}
    if os.path.isfile(where):
        where, file = os.path.split(where)
        named = {"gguf_file": file}
    precision = getattr(torch, options.precision)
    model = transformers.AutoModelForCausalLM.from_pretrained(where, dtype=precision, **named).to(device).eval()
    pattern = tuple(map(int, options.sparsity.split(":"))) if ":" in options.sparsity else None
    evaluations = {name: windows(f"{options.windows}/{name}_evaluation.jsonl", device) for name in options.evaluation}
    dense = {}
    started = now(device)
    if options.js:
        dense = {name: dense_logits(model, evaluation) for name, evaluation in evaluations.items()}
    taught = now(device)
    if options.method != "dense":
        calibration = windows(f"{options.windows}/{options.calibration}_calibration.jsonl", device)
        ratio = None if pattern else float(options.sparsity)
        prune(model, calibration, options.method, ratio, pattern, getattr(torch, options.dtype))
    pruned = now(device)
    scores = {name: evaluate(model, evaluation, dense.get(name)) for name, evaluation in evaluations.items()}
    evaluated = now(device)
    chosen = {name: getattr(options, name) for name in ("method", "sparsity", "calibration", "threads", "dtype")}
    seconds = {"dense_logits": taught - started, "prune": pruned - taught, "evaluate": evaluated - pruned}
    seconds = {name: round(value, 2) for name, value in seconds.items()}
    peak = {} if device == "cpu" else {"device_peak_bytes": torch.cuda.max_memory_allocated()}
    print(json.dumps({**chosen, "scores": scores, "seconds": seconds, **peak}), flush=True)


if __name__ == "__main__":
    main()
