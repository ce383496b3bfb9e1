#!/usr/bin/env bash
# BLKD: a student learns from labels and the predictor's soft labels.  Only calls cli.py, and continues after any stop.
# Usage: [STUDENT=resnet8] scripts/blkd.sh [WORKSPACE] [further options of distill]
#   with fakes (cGAN-KD + BLKD):  scripts/blkd.sh WORKSPACE --train-on mixed --rho 0.9
#   as cGAN-KD's first release:   --method.temperature 5 --method.hard-weight 0.5 --method.soft-weight 0.5 --method.per-element on
# Cost on the digits: 20 seconds of one core, after the predictor (and with fakes the teacher and filters) is there.
set -euo pipefail
cd "$(dirname "$0")/.."
workspace=${1:-runs/digits}
[ $# -gt 0 ] && shift
python=${PYTHON:-.venv/bin/python}

"$python" cli.py distill --workspace "$workspace" --network "${STUDENT:-resnet8}" --method blkd --train-on real "$@"
