#!/usr/bin/env bash
# cGAN-KD's choice of rho: the grid search of scripts/rho_grid_search.sh under the name of the original program.
# Usage: scripts/rho_selection.sh [WORKSPACE] [further options of search-rho]
# Cost: that of scripts/rho_grid_search.sh.
exec "$(dirname "$0")/rho_grid_search.sh" "$@"
