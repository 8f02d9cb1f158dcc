"""Makes tests/fixtures/harness: a tiny random Llama with two tokenizers, rows, and what lm-evaluation-harness makes of them.

    pip install lm_eval==0.4.13 torch transformers tokenizers
    python tests/scripts/harness.py

`bos` has a tokenizer that puts <s> in front of a text, `eos` one that puts nothing and knows only </s>; both have merges, so
that a choice may take tokens together with the end of its prompt. rows.jsonl has the rows, harness.json of each row the
log-likelihoods and accuracies of its choices and the answer that is generated.
"""

import json, pathlib, random, shutil, sys, tempfile, warnings

warnings.filterwarnings("ignore")
import torch, transformers
from lm_eval import evaluator
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

CONTEXT = 24
NEW_TOKENS = 6
here = pathlib.Path(__file__).parent.parent / "fixtures" / "harness"
shutil.rmtree(here, ignore_errors=True)

WORDS = "the sea is blue green deep cold and ships sail over it to far lands where people trade salt for wool".split()
text = " ".join(random.Random(1).choices(WORDS, k=4000))
trained = Tokenizer(models.BPE())
trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
trained.decoder = decoders.ByteLevel()
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
trained.train_from_iterator([text], trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False))

torch.manual_seed(0)
config = transformers.LlamaConfig(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    vocab_size=trained.get_vocab_size(), max_position_embeddings=CONTEXT, initializer_range=0.4, tie_word_embeddings=True,
    bos_token_id=None, eos_token_id=None, pad_token_id=None, rms_norm_eps=1e-5,
)
model = transformers.LlamaForCausalLM(config).eval()
for kind in ("bos", "eos"):
    folder = here / kind
    folder.mkdir(parents=True)
    tokenizer = Tokenizer.from_str(trained.to_str())
    known = {"eos_token": "</s>"}
    if kind == "bos":
        known["bos_token"] = "<s>"
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    tokenizer.save(str(folder / "tokenizer.json"))
    json.dump({"tokenizer_class": "PreTrainedTokenizerFast", **known}, open(folder / "tokenizer_config.json", "w"))
    if kind == "bos":
        model.save_pretrained(folder)
    else:
        shutil.copy(here / "bos" / "config.json", folder)
    (folder / "generation_config.json").unlink(missing_ok=True)

draw = random.Random(2)
words = lambda n: " ".join(draw.choices(WORDS, k=n))
rows = [("", ["blue", "green sea"]), ("", ["<s>blue", "salt"]), ("<s>the sea is", ["blue", "cold and deep"]), ("</s>the sea", ["is blue", "wool"]), ("<s>", ["the", "ships"]),
        ("the sea is ", ["blue", "green"]), ("the sea is  \n", ["blue", "green"]), ("the sea\u00a0", ["is", "was"]), ("the sea\u001c", ["is", "was"]),
        ("Is the sea blue?\n", ["yes", "no"]), ("the sea is", ["", "blue"]), ("über the séa", ["größe", "blue", "日本"]), ("the sea is", [" blue", "blue "]), ("sa", ["il", "lt", "l"]),
        ("the sea is", ["blue", "blue", "cold"]), ("x", ["the sea is blue and deep and cold and green and far", "no"])]
for n in range(10, 36):  # words are a token each, or two: below, at and beyond the context
    rows.append((words(n), [words(draw.randint(1, 6)) for _ in range(draw.randint(2, 4))]))
for _ in range(150):
    end = draw.choice(["", "", "", " ", "\n", " :", "  "])
    rows.append((words(draw.randint(1, 30)) + end, [words(draw.randint(1, 9)) for _ in range(draw.randint(2, 5))]))
for n in range(CONTEXT - 3, CONTEXT + 1):  # choices as long as the context
    rows.append((words(4), ["the" + " the" * (n - 1), "sea"]))
rows = [{"q": q, "choices": c, "label": draw.randrange(len(c))} for q, c in rows]

with tempfile.TemporaryDirectory() as d:
    data = d + "/rows.jsonl"
    open(data, "w").write("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    shutil.copy(data, here / "rows.jsonl")
    asked = d + "/asked.jsonl"  # transformers generates nothing after nothing
    open(asked, "w").write("".join(json.dumps({**r, "q": r["q"] or "x"}, ensure_ascii=False) + "\n" for r in rows))
    file = lambda path: {"dataset_kwargs": {"data_files": {"test": path}, "cache_dir": d}}
    common = {"dataset_path": "json", "test_split": "test", "doc_to_text": "{{q}}", "doc_to_target": "{{label}}", "num_fewshot": 0}
    out = {}
    for kind in ("bos", "eos"):
        shutil.copytree(here / kind, d + "/" + kind)
        if kind == "eos": shutil.copy(here / "bos" / "model.safetensors", d + "/eos")
        lm = HFLM(pretrained=d + "/" + kind, device="cpu", batch_size=1, dtype="float32")
        assert lm.max_length == CONTEXT
        choices = ConfigurableTask(config={**common, **file(data), "task": "choices", "output_type": "multiple_choice", "doc_to_choice": "choices", "metric_list": [{"metric": m} for m in ("acc", "acc_norm", "acc_bytes")]})
        answers = ConfigurableTask(config={**common, **file(asked), "task": "answers", "output_type": "generate_until", "doc_to_choice": "choices", "metric_list": [{"metric": "exact_match"}],
                                           "generation_kwargs": {"until": ["sea"], "max_gen_toks": NEW_TOKENS, "do_sample": False}})
        found = evaluator.evaluate(lm=lm, task_dict={"choices": choices, "answers": answers}, log_samples=True, bootstrap_iters=0)["samples"]
        by = {name: {s["doc_id"]: s for s in found[name] if True} for name in found}
        one = lambda i: {"loglikelihoods": [float(r[0][0]) if isinstance(r[0], (list, tuple)) else float(r[0]) for r in by["choices"][i]["resps"]],
                         **{m: by["choices"][i][m] for m in ("acc", "acc_norm", "acc_bytes")},
                         "answer": by["answers"][i]["resps"][0][0] if rows[i]["q"] else None}
        out[kind] = [one(i) for i in range(len(rows))]
        print(kind, len(out[kind]), out[kind][0], file=sys.stderr)
json.dump(out, open(here / "harness.json", "w"), ensure_ascii=False, indent=0)
