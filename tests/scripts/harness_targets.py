"""Makes tests/fixtures/harness/targets.json: what lm-evaluation-harness makes of texts behind a prompt, where they follow it
without a space, where several choices are right, and where there are no choices.

    pip install lm_eval==0.4.13 torch transformers tokenizers
    python tests/scripts/harness_targets.py          # after harness.py, whose models and rows it takes

Of each tokenizer `glued`: rows and the log-likelihoods of their choices with `target_delimiter: ""`; `targets`: rows with a target, its
log-likelihood and whether it is greedy (`output_type: loglikelihood`), half of them what the model itself writes. `several`: of
each row labels of its choices, with what truthfulqa_mc2 and agieval make of harness.json's log-likelihoods (bos) and them.
"""

import json, pathlib, random, shutil, tempfile, warnings

warnings.filterwarnings("ignore")
import numpy
from lm_eval import evaluator
from lm_eval.api.metrics import brier_score
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks.agieval.utils import process_results_mcqa
from lm_eval.tasks.truthfulqa.utils import process_results_mc2
from lm_eval.utils import softmax

here = pathlib.Path(__file__).parent.parent / "fixtures" / "harness"
rows = [json.loads(line) for line in open(here / "rows.jsonl")]
# Of the others choices have no tokens, or too many for the context.
gluable = [row for row in rows[:-4] if all(row["choices"])]
before = json.load(open(here / "harness.json"))
out = {}
with tempfile.TemporaryDirectory() as d:
    def task(name, rows, **config):
        path = f"{d}/{name}.jsonl"
        open(path, "w").write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return ConfigurableTask(config={"task": name, "dataset_path": "json", "test_split": "test", "doc_to_text": "{{q}}", "num_fewshot": 0,
                                        "dataset_kwargs": {"data_files": {"test": path}, "cache_dir": d}, **config})

    for kind in ("bos", "eos"):
        shutil.copytree(here / kind, f"{d}/{kind}")
        shutil.copy(here / "bos" / "model.safetensors", f"{d}/{kind}")
        # Its cache of logits mixes up texts that are divided in two ways, such as ("", "salt") and ("sa", "lt").
        lm = HFLM(pretrained=f"{d}/{kind}", device="cpu", batch_size=1, dtype="float32", logits_cache=False)
        # Beginnings of what it writes, which mostly are tokens of their own.
        written = [row | {"target": theirs["answer"][: 1 + i % 4]} for i, (row, theirs) in enumerate(zip(rows, before[kind])) if theirs["answer"]]
        given = [row | {"target": " " + row["choices"][row["label"]]} for row in rows[::3]]
        targets = [{"q": row["q"], "target": row["target"]} for row in written[:120] + given]
        tasks = {
            "glued": task("glued", gluable, output_type="multiple_choice", doc_to_choice="choices", doc_to_target="{{label}}", target_delimiter="", metric_list=[{"metric": "acc"}]),
            "targets": task("targets", targets, output_type="loglikelihood", doc_to_target="{{target}}", metric_list=[{"metric": "acc"}, {"metric": "perplexity"}]),
        }
        found = evaluator.evaluate(lm=lm, task_dict=tasks, log_samples=True, bootstrap_iters=0)
        samples = {name: sorted(of, key=lambda sample: sample["doc_id"]) for name, of in found["samples"].items()}
        first = lambda response: response[0] if isinstance(response[0], (list, tuple)) else response
        glued = [[float(first(response)[0]) for response in sample["resps"]] for sample in samples["glued"]]
        scored = [first(sample["resps"][0]) for sample in samples["targets"]]
        out[kind] = {"glued": [{"row": rows.index(row), "log_likelihoods": likelihoods} for row, likelihoods in zip(gluable, glued)],
                     "targets": [{**target, "log_likelihood": float(l), "greedy": int(sample["acc"])} for target, (l, _), sample in zip(targets, scored, samples["targets"])],
                     "perplexity": found["results"]["targets"]["perplexity,none"]}

draw = random.Random(5)
several = []
for row, theirs in zip(rows, before["bos"]):
    labels = [draw.randrange(2) for _ in row["choices"]]
    labels[draw.randrange(len(labels))] = 1
    results = [(l, False) for l in theirs["loglikelihoods"]]
    gold = [i for i, label in enumerate(labels) if label]
    accuracy = process_results_mcqa({"choices": row["choices"], "gold": gold}, results)
    brier = brier_score([(row["label"], softmax(numpy.array(theirs["loglikelihoods"])))])
    several.append({"labels": labels, "mc2": float(process_results_mc2({"mc2_targets": {"labels": labels}}, results)["acc"]), **accuracy, "brier_score": float(brier)})
json.dump({**out, "several": several}, open(here / "targets.json", "w"), ensure_ascii=False, indent=0)
for kind in ("bos", "eos"):
    print(kind, len(out[kind]["targets"]), sum(row["greedy"] for row in out[kind]["targets"]), out[kind]["perplexity"])
