"""Loads every folder that tests/export.rs wrote with transformers, and compares its loss with the one of the model that
the GGUF file was converted from.

    CALIPR_EXPORTED=/tmp/exported cargo test --release --test export becomes_a_folder
    python tests/scripts/exported.py /tmp/exported
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

wrong = 0
for folder in sorted(Path(sys.argv[1]).iterdir()):
    expected = json.loads((folder / "loss.json").read_text())["loss"]
    model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([[(i * 7919 + 13 + i * i % 31) % vocabulary for i in range(300)]])
    with torch.no_grad():
        logits = model.eval()(ids).logits[0].double()
    loss = -torch.log_softmax(logits[:-1], -1).gather(1, ids[0, 1:, None]).mean().item()
    tokens = AutoTokenizer.from_pretrained(folder)("a b").input_ids
    lacks = {kind: names for kind, names in loading.items() if names and kind != "error_msgs"}
    is_right = abs(loss / expected - 1) < 1e-5 and not lacks and tokens
    wrong += not is_right
    print(f"{'right' if is_right else 'WRONG'} {folder.name} {model.config.model_type} {loss} {expected} {lacks or ''} {tokens}")
sys.exit(wrong > 0)
