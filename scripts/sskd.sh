#!/usr/bin/env bash
# SSKD: beside soft labels, the predictor's similarities of four rotations of each image.  Only calls cli.py, and continues after any stop.
# Usage: [STUDENT=resnet8] scripts/sskd.sh [WORKSPACE] [further options of distill]
#   with fakes (cGAN-KD + SSKD):  scripts/sskd.sh WORKSPACE --train-on mixed --rho 0.9
# Cost on the digits: four passes for each image, so four times that of scripts/blkd.sh, and a quarter more for the first stage.
set -euo pipefail
cd "$(dirname "$0")/.."
workspace=${1:-runs/digits}
[ $# -gt 0 ] && shift
python=${PYTHON:-.venv/bin/python}

"$python" cli.py distill --workspace "$workspace" --network "${STUDENT:-resnet8}" --method sskd --train-on real "$@"
