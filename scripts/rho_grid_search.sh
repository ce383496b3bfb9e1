#!/usr/bin/env bash
# The rho grid search from a bare workspace to a distilled student; only calls cli.py, and continues after any stop.
# Usage: scripts/rho_grid_search.sh [WORKSPACE] [further options of search-rho]
# Cost with the defaults: 48 trainings (6 rhos x 8 seeds), about 20 minutes of one core, after the teacher, filter and
# predictor are there; a few minutes with --width 0.5 (several students train at once) and --race (docs/rho_search.md).
# Start it several times at once, also on several machines with a shared disk, to share the grid's cells.
set -euo pipefail
cd "$(dirname "$0")/.."
workspace=${1:-runs/digits}
[ $# -gt 0 ] && shift
python=${PYTHON:-.venv/bin/python}

# One pool serves every rho: accept enough for the smallest.
"$python" cli.py sample --workspace "$workspace" --nfake-per-class 1000 --rho 0.5
"$python" cli.py search-rho --workspace "$workspace" --nfake-per-class 1000 --rhos 0.5,0.6,0.7,0.8,0.9,1.0 "$@"
"$python" cli.py distill --workspace "$workspace" --nfake-per-class 1000 --config "$workspace/rho/latest/choice.yaml"
