#!/usr/bin/env bash
# NOKD: a student learns from labels alone; with fakes this is cGAN-KD.  Only calls cli.py, and continues after any stop.
# Usage: [STUDENT=resnet8] scripts/nokd.sh [WORKSPACE] [further options of distill]
#   with fakes (cGAN-KD):  scripts/nokd.sh WORKSPACE --train-on mixed --rho 0.9      from fakes alone:  --train-on fakes
# Cost on the digits: 15 seconds of one core; with fakes the teacher and filters are made first, about 3 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
workspace=${1:-runs/digits}
[ $# -gt 0 ] && shift
python=${PYTHON:-.venv/bin/python}

"$python" cli.py distill --workspace "$workspace" --network "${STUDENT:-resnet8}" --method none --train-on real "$@"
