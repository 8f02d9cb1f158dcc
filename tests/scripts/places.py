"""Where huggingface_hub looks for its cache, and how Python expands paths: tests/fixtures/places.json.

    python3 tests/scripts/places.py > tests/fixtures/places.json    # with huggingface_hub; made with its release 2.4.0
"""

import json
import os
import subprocess
import sys

AROUND = {"HOME": "/home/me/", "DATA": "/data", "LIKE": "$DATA", "A": "data", "A_1": "more", "EMPTY": "", "TILDE": "~"}

PATHS = [
    "~", "~/", "~/x", "~nobody-here/x", "a/~/x", "$A/x", "${A}x", "$A_1/$A", "$A-1", "x/$EMPTY/y", "$LIKE", "$TILDE/x",
    "$NONE/x", "${NONE}/$A", "${A", "${}$", "$$A", "price$", "$é/$A", "über/${A}/模型", "", "~$A/x", "$HOME/x", "{$A}", "${A}}",
]  # fmt: skip

VARIABLES = [
    {},
    {"XDG_CACHE_HOME": "/x"},
    {"XDG_CACHE_HOME": "~/x"},
    {"XDG_CACHE_HOME": ""},
    {"XDG_CACHE_HOME": "relative"},
    {"HF_HOME": "$DATA/hf", "XDG_CACHE_HOME": "/x"},
    {"HF_HOME": "$LIKE/hf"},
    {"HF_HOME": ""},
    {"HF_HOME": "~"},
    {"HF_HOME": "${NONE}/hf"},
    {"HF_HOME": "/with space/模型/"},
    {"HUGGINGFACE_HUB_CACHE": "~/old", "HF_HOME": "/h"},
    {"HUGGINGFACE_HUB_CACHE": "", "HF_HOME": "/h"},
    {"HF_HUB_CACHE": "~/new", "HUGGINGFACE_HUB_CACHE": "/o"},
    {"HF_HUB_CACHE": "$DATA/$A", "HF_HOME": "/h"},
    {"HF_HUB_CACHE": "", "HF_HOME": "/h"},
    {"HF_HUB_CACHE": "relative"},
    {"TRANSFORMERS_CACHE": "/t", "HF_DATASETS_CACHE": "/d"},
]


def run(code, variables, *arguments):
    around = {"PATH": os.environ["PATH"], "PYTHONUTF8": "1", **AROUND, **variables}
    return json.loads(subprocess.check_output([sys.executable, "-c", f"import json, sys; {code}", *arguments], env=around))


expand = "import os; print(json.dumps([os.path.expandvars(os.path.expanduser(p)) for p in sys.argv[1:]]))"
where = "from huggingface_hub.constants import HF_HUB_CACHE; print(json.dumps(HF_HUB_CACHE))"
json.dump(
    {
        "around": AROUND,
        "paths": dict(zip(PATHS, run(expand, {}, *PATHS))),
        "caches": [{"variables": v, "folder": run(where, v)} for v in VARIABLES],
    },
    sys.stdout,
    indent=1,
    ensure_ascii=False,
)
print()
