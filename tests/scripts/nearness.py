"""Makes tests/fixtures/nearness.json: candidates, targets, and the mean cosine of each candidate to the targets, by
scikit-learn's TfidfVectorizer.

    pip install scikit-learn==1.9.0
    python tests/scripts/nearness.py
"""

import json, pathlib, random

from sklearn.feature_extraction.text import TfidfVectorizer

draw = random.Random(7)
WORDS = ["the", "The", "a", "sea", "seas", "blue", "x2", "42", "it's", "naïve", "ÉTÉ", "été", "well-kept", "under_score",
         "1,000", "...", "Größe", "日本語", "\n", "said"]
text = lambda most: " ".join(draw.choices(WORDS, k=draw.randint(1, most)))
candidates = [text(40) for _ in range(25)] + ["", "a ? b", "the"]
targets = [text(12) for _ in range(9)]
weights = TfidfVectorizer().fit_transform(candidates + targets)
of_candidates, of_targets = weights[: len(candidates)], weights[len(candidates) :]
nearness = (of_candidates @ of_targets.T).toarray().mean(axis=1)
path = pathlib.Path(__file__).parent.parent / "fixtures" / "nearness.json"
json.dump([candidates, targets, nearness.tolist()], open(path, "w"), ensure_ascii=False, indent=0)
