#!/bin/sh
# On the GPU machine: joins the parts of a bundle that are here, and runs what they allow.
# Usage: sh part-01/run_on_gpu.sh --out FOLDER [--minutes 9] [--device cuda] ...
# PYTHON chooses the Python that has torch; python3 by default.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/gpu_unpack.py" "$@"
