#!/usr/bin/env bash
# TAKD (Mirzadeh et al. 2020): an assistant learns from the teacher, then the student from the assistant; twice the
# method blkd, with the temperature and weights of cGAN-KD's journal version.  Only calls cli.py, and continues after
# any stop.
# Usage: [ASSISTANT=vgg8_quarter] [STUDENT=resnet8] scripts/takd.sh [WORKSPACE] [further options of both calls of distill]
#   with fakes (cGAN-KD + TAKD):  scripts/takd.sh WORKSPACE --train-on mixed --rho 0.9
# The workspace's predictor is the teacher.  A longer chain is one more such call.
set -euo pipefail
cd "$(dirname "$0")/.."
workspace=${1:-runs/digits}
[ $# -gt 0 ] && shift
python=${PYTHON:-.venv/bin/python}
blkd=(--method blkd --method.temperature 10 --method.hard-weight 0.5 --method.soft-weight 0.5)

assistant=$("$python" cli.py distill --workspace "$workspace" --network "${ASSISTANT:-vgg8_quarter}" "${blkd[@]}" --train-on real "$@" --json |
    "$python" -c 'import json, sys; print(json.load(sys.stdin)["classifier"])')
"$python" cli.py distill --workspace "$workspace" --network "${STUDENT:-resnet8}" --predictor "$assistant" "${blkd[@]}" --train-on real "$@"
