#!/usr/bin/env bash
# The whole path on CIFAR-10 at the scale of two CPU cores: teacher, filter, 10,000 fakes a class, student generator, and
# classifiers that see 100 labelled images a class; only calls cli.py, and continues after any stop.
# Usage: scripts/cifar10_cpu.sh [WORKSPACE]      (the images: an image folder data/cifar10, or RETORT_DATA_DIR, see README)
# Cost: about three hours of two cores with bfloat16 units; the README has the results.
set -euo pipefail
cd "$(dirname "$0")/.."
workspace=${1:-runs/cifar10}
retort() { "${PYTHON:-.venv/bin/python}" cli.py "$@" --workspace "$workspace"; }
few=(--config configs/distill_cifar10.yaml --real-per-class 100)

retort train-teacher --config configs/teacher_cifar10_cpu.yaml
retort train-classifier --config configs/predictor_cifar10.yaml
retort fit-filter --config configs/filter_cifar10.yaml
retort sample --nfake-per-class 10000 --ceiling-quantile 0.9
retort train-student --config configs/student_cifar10_cpu.yaml
for seed in 0 1 2; do
    for method in none blkd; do
        retort distill "${few[@]}" --seed "$seed" --method "$method" --train-on real
        retort distill "${few[@]}" --seed "$seed" --method "$method" --train-on mixed --real-share 0.33 --rho 0.8
    done
    retort distill "${few[@]}" --seed "$seed" --method blkd --train-on fakes --rho 0.8
done
retort evaluate --data cifar10 --judge-steps 3000 --images-per-class 1000 --rho 0.8
retort report --data cifar10
