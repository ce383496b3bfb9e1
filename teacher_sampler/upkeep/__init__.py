"""Finished datasets of fakes: extended, repaired, scored."""
