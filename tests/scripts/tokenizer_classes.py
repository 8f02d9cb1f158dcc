"""Writes tokenizer_classes.json: what AutoTokenizer makes of a tokenizer.json by the class that a folder names.

    pip install transformers && python tests/scripts/tokenizer_classes.py
"""

import json
import os
import tempfile

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

TEXTS = ["ab abc 1234 a", "  ab  12", "</s>ab</s> ab", "e\u0301 12\n\n a 123", "[I]ab\u00e9</s>[I] ab <s>a", " a", "", "\n", "ab\u4e00 \U0001f600<unk> b", "it's  <|endoftext|> a\tb", "<n> ab<n>", "\u2581a \u2581 b"]
NAMES = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "fill_token", "eot_token"]
TEMPLATE = "".join("{{ %s }};" % name for name in NAMES)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
CLASSES = ["LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend", "GPT2Tokenizer", "Qwen2TokenizerFast", "CodeLlamaTokenizer", "GPTNeoXTokenizerFast", "CohereTokenizerFast", "GemmaTokenizer", "NoSuchTokenizer"]
OWN = {"auto_map": {"AutoTokenizer": ["tokenization_x.XTokenizer", None]}}
DECODER = {"added_tokens_decoder": {str(i): {"content": content, "special": True, "normalized": False, "lstrip": False, "rstrip": content == "</s>", "single_word": False} for i, content in enumerate(["<unk>", "<s>", "</s>"])}}
LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
AROUND = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
SPECIAL = ["<unk>", "<s>", "</s>"]


def finished(tokenizer, around):
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken("<n>", special=False)])
    if around:
        tokenizer.post_processor = AROUND
    return json.loads(tokenizer.to_str())


def of_pieces(prepends=True, around=True):
    words = SPECIAL + [f"<0x{i:02X}>" for i in range(256)]
    merges = ["▁ ▁", "▁ a", "a b", "▁a b", "▁ b", "ab c", "1 2", "▁ 1"]
    words += ["▁", "a", "b", "c", "1", "2", "[", "I", "]"] + [merge.replace(" ", "") for merge in merges]
    merges = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if prepends:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return finished(tokenizer, around)


def of_bytes(digits=False, pattern=None, nfc=False, around=False, dropout=None, padding=False):
    merges = [("a", "b"), ("Ġ", "a"), ("Ġ", "b"), ("ab", "c"), ("1", "2"), ("12", "3"), ("Ġ", "1"), ("Ċ", "Ċ"), ("Ġ", "Ġ")]
    words = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(merge) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges, dropout=dropout, ignore_merges=around))
    steps = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if pattern:
        steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pattern))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.decoder = decoders.ByteLevel()
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    if padding:
        tokenizer.enable_padding(pad_id=2, pad_token="</s>")
    return finished(tokenizer, around)


FILES = {
    "Llama 2": of_pieces(),
    "Llama 2, saved anew": of_pieces(prepends=False, around=False),
    "bytes": of_bytes(dropout=0.0),
    "SmolLM2": of_bytes(digits=True, padding=True),
    "Llama 3": of_bytes(pattern=LLAMA_3, around=True),
    "NFC": of_bytes(nfc=True),
    "dropout": of_bytes(dropout=0.5),
}
# Each is tokenizer_config.json, and what config.json has beside its model_type.
CONFIGS = [(dict(TOKENS, tokenizer_class=name), {}) for name in CLASSES]
CONFIGS += [({"tokenizer_class": name}, {}) for name in CLASSES]
CONFIGS += [({}, {}), (None, {}), (TOKENS, {"tokenizer_class": "LlamaTokenizer"}), (TOKENS, {"tokenizer_class": "Qwen2Tokenizer"})]
for name in ["LlamaTokenizer", "CodeLlamaTokenizer", "GPT2Tokenizer", "Qwen2Tokenizer", "GPTNeoXTokenizer", "CohereTokenizer", "PreTrainedTokenizerFast"]:
    named = dict(TOKENS, tokenizer_class=name)
    more = [{"add_prefix_space": True}, {"add_prefix_space": False}, {"split_special_tokens": True}, OWN, DECODER, {"add_bos_token": True, "add_eos_token": True}, {"bos_token": None, "unk_token": None, "pad_token": "[P]"}, {"additional_special_tokens": ["[I]", "ab"]}]
    CONFIGS += [(dict(named, **options), {}) for options in more]
CONFIGS += [(dict(TOKENS, tokenizer_class="LlamaTokenizer", legacy=legacy), {}) for legacy in [True, False, None]]
CONFIGS += [(dict(TOKENS, tokenizer_class="LlamaTokenizer", legacy=True, add_prefix_space=False), {})]
CONFIGS += [(dict(TOKENS, tokenizer_class="NoSuchTokenizer", **OWN), {}), (dict(TOKENS, **OWN), {})]
CONFIGS += [(dict(TOKENS, tokenizer_class="CodeLlamaTokenizer", fill_token=None, prefix_token="[I]"), {})]


def read(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    variables = tokenizer.apply_chat_template([{"role": "user"}], chat_template=TEMPLATE, tokenize=False)
    texts = []
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        plain = tokenizer(text, add_special_tokens=False)["input_ids"]
        texts.append([ids, plain, tokenizer.decode(ids, skip_special_tokens=True), tokenizer.decode(ids)])
    return {"variables": variables, "eos": tokenizer.eos_token_id, "texts": texts}


def main():
    outcomes, cases, failed = [], [], {}
    for file, value in FILES.items():
        for config, more in CONFIGS:
            for kind in ["llama", "mistral", "qwen2", "gemma3_text", "gpt2", "phi3"]:
                with tempfile.TemporaryDirectory() as folder:
                    write = lambda name, value: json.dump(value, open(os.path.join(folder, name), "w"))
                    write("tokenizer.json", value)
                    write("config.json", dict(more, model_type=kind))
                    if config is not None:
                        write("tokenizer_config.json", config)
                    try:
                        outcome = read(folder)
                        again = [read(folder) for _ in range(2 if file == "dropout" else 0)]
                        if any(other != outcome for other in again):
                            outcome = None
                    except Exception as error:
                        failed.setdefault(f"{type(error).__name__}: {error}".splitlines()[0].replace(folder, ""), []).append((file, kind, config))
                        outcome = None
                if outcome not in outcomes:
                    outcomes.append(outcome)
                cases.append([file, kind, config, more, outcomes.index(outcome)])
    for error, where in failed.items():
        print(error, len(where), where[0])
    path = os.path.join(os.path.dirname(__file__), "..", "fixtures", "tokenizer_classes.json")
    configs = [list(config) for config in CONFIGS]
    cases = [[file, kind, configs.index([config, more]), outcome] for file, kind, config, more, outcome in cases]
    with open(path, "w") as out:
        json.dump({"template": TEMPLATE, "texts": TEXTS, "files": FILES, "configs": configs, "outcomes": outcomes, "cases": cases}, out, ensure_ascii=False, separators=(",", ":"))
        out.write("\n")
    print(len(cases), "folders,", len(outcomes), "outcomes,", os.path.getsize(path), "bytes")


main()
