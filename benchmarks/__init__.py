"""Measurements, each a script with a make target."""
