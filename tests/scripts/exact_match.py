"""Makes tests/fixtures/exact_match.json: answers and references, and whether lm-evaluation-harness finds them the same.

    pip install lm_eval==0.4.13
    python tests/scripts/exact_match.py

The options are those of its tasks (gsm8k, triviaqa, nq_open, bbh, mmlu_pro and others); of several references one has to match, as
api/task.py has it of multiple targets. Not among them are texts that are longer in lower case (İ): numpy cuts what it lowers.
"""

import itertools
import json
from pathlib import Path

from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import WhitespaceFilter

OPTIONS = [
    {},
    {"remove_whitespace": True},
    {"ignore_case": True},
    {"ignore_punctuation": True},
    {"ignore_numbers": True},
    {"ignore_case": True, "ignore_punctuation": True, "remove_whitespace": True},
    {"ignore_case": True, "ignore_punctuation": True, "remove_whitespace": True, "regexes_to_ignore": ["\\b(?:The |the |An |A |The |a |an )"]},
    {"ignore_case": True, "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"]},
    {"ignore_case": True, "regexes_to_ignore": ["\\.$", ",", "\\\\", "\n", '"']},
    {"ignore_case": True, "ignore_punctuation": True, "ignore_numbers": True, "remove_whitespace": True},
]
ANSWERS = ["", " ", "Ann", " ann", "the Ann ", "A\x1cnn", "\x1cAnn\n", "The answer", "answer", "Ann.", "ANN!", "1,000", "$1000.", "1000", "-5", "5", "1.5", "15",
           "so 3+4=7\n#### 7", "7", "7.", "Größe", "GRÖSSE", "größe", "ΣΑΣ", "σας", "(A)", "a", "A", "true\n", "True", "\"True\"", "日本。", "日本", "x_y", "xy", "no1", "no 2", "no"]
REFERENCES = [["Ann"], ["ann", "The Ann"], ["answer"], ["1000"], ["5"], ["15"], ["#### 7"], ["7"], ["größe"], ["σας"], ["A"], ["True"], ["日本"], ["xy"], ["no"], [""], ["the answer", "7."]]

cases = []
for how in OPTIONS:
    options = {key: value for key, value in how.items() if key != "remove_whitespace"}
    pairs = []
    for answer, references in itertools.product(ANSWERS, REFERENCES):
        result = WhitespaceFilter().apply([[answer]], [{}])[0][0] if how.get("remove_whitespace") else answer
        score = exact_match_hf_evaluate(predictions=[result] * len(references), references=references, **options)["exact_match"]
        pairs.append([answer, references, bool(score > 0)])
    # All that match, and some that do not.
    cases.append({"how": how, "pairs": [pair for i, pair in enumerate(pairs) if pair[2] or i % 7 == 0]})
path = Path(__file__).parent.parent / "fixtures" / "exact_match.json"
path.write_text(json.dumps(cases, indent=None, ensure_ascii=False) + "\n")
print(sum(len(case["pairs"]) for case in cases), "pairs,", sum(pair[2] for case in cases for pair in case["pairs"]), "match")
