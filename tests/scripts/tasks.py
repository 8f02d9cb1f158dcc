"""Writes tests/fixtures/tasks.json: rows as the Hub has them, and what lm-evaluation-harness asks of each.

    pip install lm_eval==0.4.13
    python tests/scripts/tasks.py

Of each task: rows, the solved examples that it takes (where it takes some), and of each row the contexts with what is scored
behind them, and the number of the right one, or a list of them. `template` is calipr's, of a task that does not come with it.
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
TRUTHFULQA = [
    {"question": "What is water?", "mc1_targets": {"choices": ["A liquid.", "A gas", "Iron."], "labels": [1, 0, 0]}, "mc2_targets": {"choices": ["A liquid.", "H2O", "A gas"], "labels": [1, 1, 0]}},
    {"question": "Is the moon\nof cheese? ", "mc1_targets": {"choices": ["No.", "Yes, it is."], "labels": [1, 0]}, "mc2_targets": {"choices": ["Yes, it is.", "No.", "Of rock."], "labels": [0, 1, 1]}},
]
COPA = [
    {"premise": "The man broke his toe.", "choice1": "He got a hole in his sock.", "choice2": "He dropped a hammer on his foot.", "question": "cause", "idx": 0, "label": 1},
    {"premise": " I tipped the bottle. ", "choice1": "Éclairs froze.", "choice2": "the liquid poured out", "question": "effect", "idx": 1, "label": 0},
]
BLIMP = [{"sen": "The cats sleep.", "wrong_sen": "The cats sleeps."}, {"sen": " Who sings?", "wrong_sen": "Who sing?"}]
NEQA = [{"prompt": "The sky is not\nA. blue\nB. green\nAnswer:", "classes": [" A", " B"], "answer_index": 1, "part": 1}, {"prompt": "Two and two are not ", "classes": ["four", "five"], "answer_index": 1, "part": 1}]
AGIEVAL = [
    {"query": "Q: x + 1 = 2? Answer Choices: (A)0 (B)1 (C)2\nA: Among A through C, the answer is", "choices": ["(A)0", "(B)1", "(C)2"], "gold": [1]},
    {"query": "Q: Which is odd?\nA:", "choices": ["(A)1", "(B)2", "(C)3"], "gold": [2, 0]},
]
LAMBADA = [{"text": "He took the bread and ate the bread"}, {"text": "She opened the old door, looked in,  and saw\nGabriel's"}, {"text": "hello"}]
SHOTS = 5
manager = TaskManager()


def asked(name, rows, shots=None, template=None):
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
            if task.OUTPUT_TYPE == "loglikelihood":
                gold = None
            elif isinstance(gold, str):
                gold = task.doc_to_choice(row).index(gold)
            if name == "truthfulqa_mc2":  # of which its process_results makes this
                gold = [i for i, label in enumerate(row["mc2_targets"]["labels"]) if label]
            found.append({"requests": [list(request.args) for request in requests], "gold": gold})
        return {"task": name, "rows": rows, "shots": shots or [], "asked": found, **({"template": template} if template else {})}


tasks = [
    asked("winogrande", WINOGRANDE),
    asked("mmlu_abstract_algebra", MMLU),
    asked("mmlu_abstract_algebra", MMLU, DEV),
    asked("anli_r2", ANLI),
    asked("anli_r3", ANLI),
    asked("truthfulqa_mc1", TRUTHFULQA),
    asked("truthfulqa_mc2", TRUTHFULQA),
    asked("copa", COPA),
    asked("lambada_openai", LAMBADA),
    asked("multiblimp_eng", BLIMP, template={"prompt": "", "choices": ["{{ sen }}", "{{ wrong_sen }}"], "answer": "0", "delimiter": ""}),
    asked("inverse_scaling_neqa", NEQA, template={"prompt": "{{ prompt }}", "choices": "classes", "answer": "{{ answer_index }}", "delimiter": ""}),
    asked("agieval_aqua_rat", AGIEVAL, template={"prompt": "{{ query }}", "choices": "choices", "answers": "gold"}),
]
path = Path(__file__).parent.parent / "fixtures/tasks.json"
path.write_text(json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")
