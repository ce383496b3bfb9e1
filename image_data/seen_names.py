"""The names of parts in what an artefact has seen (`image_data.seen`), and of its file.  Nothing heavy is imported."""

from __future__ import annotations

SEEN_FILE = "seen.safetensors"
GAN, RATIO, PREDICTOR, NEAREST = "GAN", "density ratio", "predictor", "nearest-image distances"
SOFT_LABELS, START, CLASSIFIER = "soft-label teacher", "initial classifier", "classifier"
STUDENT, JUDGE = "student generator", "judge"
