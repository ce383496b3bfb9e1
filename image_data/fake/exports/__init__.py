"""A dataset of fakes in other programs' formats."""
