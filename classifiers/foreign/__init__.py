"""Classifiers of other programs as predictors: how pixels go in, how outputs are read, and how one is imported."""
