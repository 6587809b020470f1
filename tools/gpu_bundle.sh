#!/bin/sh
# Packs a bundle for a GPU machine that has Python, torch and CUDA, and no network.
# Usage: sh tools/gpu_bundle.sh --part-mib 60 --python 3.12 build/gpu-bundle
#        sh tools/gpu_bundle.sh --help
# PYTHON chooses the Python that the package runs with here; .venv's by default.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
python=${PYTHON:-}
[ -n "$python" ] || python=$root/.venv/bin/python
[ -x "$python" ] || command -v "$python" >/dev/null 2>&1 || {
    echo "error: no $python: run make setup, or name a Python with PYTHON=" >&2
    exit 1
}
mkdir -p "$root/.links" && ln -sfn .. "$root/.links/streamdiffvsr"
PYTHONPATH=$root/.links${PYTHONPATH:+:$PYTHONPATH} exec "$python" "$root/tools/gpu_bundle.py" "$@"
