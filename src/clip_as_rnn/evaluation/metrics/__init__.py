"""Scores of a data set, by `update` with one image after the other and `compute` at the end."""
