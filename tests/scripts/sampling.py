"""Makes tests/fixtures/sampling.json: what transformers' processors leave of logits, and with which probabilities.

    pip install transformers==5.24.0 torch
    python tests/scripts/sampling.py

The processors are those that `generate` puts together of a generation config. Which of equal tokens at the edge of top p stays,
torch leaves open (its sort need not be stable); here the sort is a stable one.
"""

import json, pathlib, random
from unittest import mock

import torch
from transformers import GenerationConfig, GenerationMixin

torch.manual_seed(7)
draw = random.Random(7)
stable = torch.sort
sort = lambda scores, **how: stable(scores, stable=True, **how)


class Model(GenerationMixin):
    """As much of a model as `_get_logits_processor` asks for."""
    config = type("Config", (), {"is_encoder_decoder": False})()


def left(logits, seen, **settings):
    config = GenerationConfig(do_sample=True, **{"top_k": 0, **settings})
    config._eos_token_tensor = None
    processors = Model()._get_logits_processor(config, input_ids_seq_length=len(seen))
    with mock.patch.object(torch, "sort", sort):
        scores = processors(torch.tensor([seen], dtype=torch.long), torch.tensor([logits], dtype=torch.float32))
    probabilities = scores.softmax(-1)[0]
    kept = [i for i, score in enumerate(scores[0].tolist()) if score > -float("inf")]
    return kept, [probabilities[i].item() for i in kept]


def logits_of(kind, size):
    values = torch.randn(size) * {"flat": 0.5, "usual": 3.0, "steep": 9.0, "ties": 2.0, "equal": 0.0}[kind]
    if kind == "ties":
        values = values.round() / 2
    return [round(value, 4) for value in values.tolist()]


cases = []
for i in range(400):
    kind = ("usual", "flat", "steep", "ties", "equal")[i % 5]
    size = draw.choice([1, 2, 5, 20, 60, 100])
    logits = logits_of(kind, size)
    settings = {}
    if draw.random() < 0.5:
        settings["repetition_penalty"] = draw.choice([0.5, 0.9, 1.05, 1.2, 1.3, 2.0])
    if draw.random() < 0.7:
        settings["temperature"] = draw.choice([0.1, 0.3, 0.6, 0.7, 1.0, 1.5, 4.0])
    if draw.random() < 0.6:
        settings["top_k"] = draw.choice([1, 2, 3, 5, 10, 50, size, size + 1, 1000])
    if draw.random() < 0.6:
        settings["top_p"] = draw.choice([1e-9, 1e-3, 0.1, 0.3, 0.5, 0.8, 0.9, 0.95, 0.99, 0.9999, 1.0])
    seen = [draw.randrange(size) for _ in range(draw.choice([1, 3, 10, 40]))]
    kept, probabilities = left(logits, seen, **settings)
    keys = ("repetition_penalty", "temperature", "top_k", "top_p")
    cases.append({"logits": logits, "seen": sorted(set(seen)), **{key: settings.get(key) for key in keys}, "kept": kept, "probabilities": probabilities})
path = pathlib.Path(__file__).parent.parent / "fixtures" / "sampling.json"
path.write_text("[" + ",\n".join(json.dumps(case) for case in cases) + "]\n")
print(sum(len(case["kept"]) < len(case["logits"]) for case in cases), "of", len(cases), "cases leave tokens out")
