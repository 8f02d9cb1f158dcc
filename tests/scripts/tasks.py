"""Writes tests/fixtures/tasks.json: rows as the Hub has them, and what lm-evaluation-harness asks of each.

    pip install lm_eval==0.4.13
    python tests/scripts/tasks.py

Of each task: rows, the solved examples that it takes (where it takes some), and of each row the contexts with what is scored
behind them, and the number of the right one.
"""

import json
import tempfile
from pathlib import Path

from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

WINOGRANDE = [
    {"sentence": "Sarah was a much better surgeon than Maria so _ always got the easier cases.", "option1": "Sarah", "option2": "Maria", "answer": "2"},
    {"sentence": "_ had to hurry, for the ship of Ann sailed at noon.", "option1": "Ann", "option2": "Béa", "answer": "1"},
    {"sentence": "The key did not fit the lock because the _ was too large , he wrote in file_name.  ", "option1": "key", "option2": "lock", "answer": "1"},
    {"sentence": "He put the jar in the box, and the label on the _.", "option1": "jar", "option2": "box", "answer": "2"},
]
MMLU = [
    {"question": " Find all c in Z_3 such that Z_3[x]/(x^2 + c) is a field. ", "subject": "abstract_algebra", "choices": ["0", "1", "2", "3"], "answer": 1},
    {"question": "Which bone is\nthe longest?", "subject": "abstract_algebra", "choices": ["the femur", "the ulna", "a rib", ""], "answer": 0},
]
DEV = [{"question": f"Question {i}?", "subject": "abstract_algebra", "choices": [f"{i}", f"{i}{i}", "none", "all"], "answer": i % 4} for i in range(5)]
ANLI = [
    {"uid": "1", "premise": "A ship sails.", "hypothesis": "Something moves.", "label": 0, "reason": ""},
    {"uid": "2", "premise": "A ship sails.", "hypothesis": "The sea is calm.", "label": 1, "reason": ""},
    {"uid": "3", "premise": "A ship sails.", "hypothesis": "It lies at anchor.", "label": 2, "reason": ""},
]
SHOTS = 5
manager = TaskManager()


def asked(name, rows, shots=None, split="test"):
    with tempfile.TemporaryDirectory() as folder:
        files = {"test": rows, **({"dev": shots} if shots else {})}
        for part, own in files.items():
            Path(folder, part).write_text("".join(json.dumps(row) + "\n" for row in own))
        config = manager._factory._load_full_config(manager.task_index[name], None)
        for key in ("dataset_name", "training_split", "validation_split", "fewshot_split", "test_split", "tag", "group", "include"):
            config.pop(key, None)
        config.update(dataset_path="json", test_split="test", dataset_kwargs={"data_files": {part: str(Path(folder, part)) for part in files}, "cache_dir": folder})
        if shots:
            config["fewshot_split"] = "dev"
        task = ConfigurableTask(config=config)
        task.set_fewshot_seed(1234)
        found = []
        for row in task.test_docs():
            contexts = task.fewshot_context(row, SHOTS if shots else 0)
            requests = task.construct_requests(doc=row, ctx=contexts, metadata=(name, 0, 1), apply_chat_template=False, chat_template=None)
            requests = requests if isinstance(requests, list) else [requests]
            gold = task.doc_to_text(row) if task.multiple_input else task.doc_to_target(row)
            if not isinstance(gold, int):
                gold = task.doc_to_choice(row).index(gold)
            found.append({"requests": [list(request.args) for request in requests], "gold": gold})
        return {"task": name, "rows": rows, "shots": shots or [], "asked": found}


tasks = [
    asked("winogrande", WINOGRANDE),
    asked("mmlu_abstract_algebra", MMLU),
    asked("mmlu_abstract_algebra", MMLU, DEV),
    asked("anli_r2", ANLI),
    asked("anli_r3", ANLI),
]
path = Path(__file__).parent.parent / "fixtures/tasks.json"
path.write_text(json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")
