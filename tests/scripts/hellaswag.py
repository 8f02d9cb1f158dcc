"""Writes tests/fixtures/hellaswag.json: endings of scenes, and what lm-evaluation-harness makes of them.

    pip install lm_eval==0.4.13
    python tests/scripts/hellaswag.py
"""

import json
from pathlib import Path

from lm_eval.tasks.hellaswag.utils import preprocess

TEXTS = [
    " a [title] b  c [step] d ",
    "x [one\ntwo] y",
    "x [one\n[two] y [z",
    "[header] How [to\nboil] eggs [substeps] now\n",
    "a ] b [c] [[d]] e",
    "[]\n[é\n]a[b\n",
    "no  brackets   here",
    "",
]

path = Path(__file__).parent.parent / "fixtures/hellaswag.json"
path.write_text(json.dumps([[text, preprocess(text)] for text in TEXTS], indent=1) + "\n")
