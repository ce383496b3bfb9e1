#!/usr/bin/env bash
# BLKD+UDA: labels and soft labels on each image as it comes and after AutoAugment.  Only calls cli.py, and continues after any stop.
# Usage: [STUDENT=resnet8] scripts/uda.sh [WORKSPACE] [further options of distill]
#   with fakes (cGAN-KD + BLKD+UDA):  scripts/uda.sh WORKSPACE --train-on mixed --rho 0.9
# Cost on the digits: two passes for each image, so twice that of scripts/blkd.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
workspace=${1:-runs/digits}
[ $# -gt 0 ] && shift
python=${PYTHON:-.venv/bin/python}

"$python" cli.py distill --workspace "$workspace" --network "${STUDENT:-resnet8}" --method uda --train-on real "$@"
