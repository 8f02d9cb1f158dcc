#!/usr/bin/env bash
# calipr beside the published PyTorch code on a GPU, on a model of LLaMA-2-7B's shape: `benches/gpu.sh`
#
# Makes the model of random weights (13.5 GB) and the windows, runs Wanda and SparseGPT at 0.5 and 2:4 from 128 windows
# of 2048 tokens and an evaluation of 40 with the divergence from the dense model, and prints one table last. A part that
# is done is not run again: the same command goes on. With python3 (or PYTHON) that has torch, transformers, safetensors
# and polars or pyarrow.
#
#   CALIPR=calipr.xz benches/gpu.sh     with a program built elsewhere (`.ci/check-cuda DIR build`), stripped or packed
#   WORK=/big/disk                      where all of it lies, by default target/gpu
#   SHAPE=tiny DEVICE=cpu               a small model on the CPU, to see that the script works
#   PARTS="calipr table"                some of: model bench calipr pytorch table
set -euo pipefail
[ -z "${CALIPR:-}" ] || CALIPR=$(realpath "$CALIPR")
cd "$(dirname "$0")/.."

WORK=${WORK:-target/gpu}
PYTHON=${PYTHON:-python3}
mkdir -p "$WORK"
case ${CALIPR:-} in
    "")
        if [ "${DEVICE:-cuda}" = cpu ]; then
            cargo build --release --locked
        else
            cargo build --release --locked --features cuda
        fi
        program=target/release/calipr
        ;;
    *.xz | *.gz | *.zst)
        program=$WORK/calipr
        case $CALIPR in
            *.xz) xz -dc "$CALIPR" >"$program" ;;
            *.gz) gzip -dc "$CALIPR" >"$program" ;;
            *.zst) zstd -dc "$CALIPR" >"$program" ;;
        esac
        chmod +x "$program"
        ;;
    *) program=$CALIPR ;;
esac
# Where there is no CUDA toolkit, the libraries that came with PyTorch serve.
libraries=$("$PYTHON" - <<'PYTHON'
import glob, importlib.util, os
packages = os.path.dirname(os.path.dirname(importlib.util.find_spec("torch").origin))
print(":".join(sorted(glob.glob(os.path.join(packages, "nvidia", "*", "lib")))))
PYTHON
)
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries
if ldd "$program" | grep "not found"; then
    echo "the program lacks these libraries; a driver brings libcuda, and pip the others, as in" >&2
    echo "    pip install nvidia-cublas nvidia-cuda-nvrtc==13.0.88 nvidia-curand==10.4.0.35 nvidia-cuda-runtime" >&2
    exit 1
fi
exec "$PYTHON" benches/gpu.py --calipr "$program" --work "$WORK" --shape "${SHAPE:-llama-2-7b}" \
    --device "${DEVICE:-cuda}" --parts ${PARTS:-model bench calipr pytorch table}
