#!/usr/bin/env bash
# Synthetic data as cGAN-KD's trainers read them: fakes through the density ratio and the error filter, in one .h5 file
# with fake_images and fake_labels.  Only calls cli.py, and continues after any stop; a file that is there stays.
# Usage: [NFAKE_PER_CLASS=1000] [RHO=0.9] scripts/gen_synt_data.sh [WORKSPACE] [further options of sample]
# Needs a teacher, a filter and a predictor in the workspace; those of the digits are made where they are missing.
# Cost on the digits: 3 minutes on 2 CPU cores for what is missing, then half a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
workspace=${1:-runs/digits}
[ $# -gt 0 ] && shift
python=${PYTHON:-.venv/bin/python}
kept=(--nfake-per-class "${NFAKE_PER_CLASS:-1000}" --rho "${RHO:-0.9}")
file=$workspace/fakes_NfakePerClass_${NFAKE_PER_CLASS:-1000}_rho_${RHO:-0.9}.h5

"$python" cli.py sample --workspace "$workspace" "${kept[@]}" "$@"
[ -e "$file" ] && exit
"$python" cli.py export-h5 --workspace "$workspace" "${kept[@]}" --out "$file"
