#!/usr/bin/env bash
# calipr beside the published PyTorch code, on the same windows, one after the other: `benches/compare.sh`
#
# Makes a virtual environment with PyTorch in target/compare, unless PYTHON names one that has torch, transformers,
# accelerate, gguf and polars. LLM_COMPRESSOR=1 also runs llm-compressor (a large download). Takes half an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --locked
venv=target/compare
if [ -z "${PYTHON:-}" ]; then
    PYTHON=$venv/bin/python
    [ -x "$PYTHON" ] || python3 -m venv "$venv"
    "$PYTHON" -m pip install -q --extra-index-url https://download.pytorch.org/whl/cpu torch transformers accelerate gguf polars \
        ${LLM_COMPRESSOR:+llmcompressor}
fi
exec "$PYTHON" benches/compare.py "$@"
