"""Makes tests/fixtures/squad2.json: the scores of SQuAD 2's script, as transformers keeps it.

    pip install transformers==4.57.1 torch
    python tests/scripts/squad2.py
"""

import json, pathlib, random
from types import SimpleNamespace

from transformers.data.metrics.squad_metrics import get_raw_scores

draw = random.Random(5)
WORDS = ["the", "a", "an", "Sea", "sea", "blue", "of", "x", "!", "...", "THE", "é", "1,000", "-", "\n", "ice\u00a0berg", ""]
text = lambda: " ".join(draw.choices(WORDS, k=draw.randint(0, 4)))
rows = []
for i in range(200):
    references = [text() for _ in range(draw.randint(0, 3))]
    prediction = draw.choice(references) if references and draw.random() < 0.3 else text()
    example = SimpleNamespace(qas_id="q", answers=[{"text": t} for t in references])
    exact, f1 = get_raw_scores([example], {"q": prediction})
    rows.append({"prediction": prediction, "references": references, "exact_match": exact["q"], "f1": f1["q"]})
path = pathlib.Path(__file__).parent.parent / "fixtures" / "squad2.json"
json.dump(rows, open(path, "w"), ensure_ascii=False, indent=0)
