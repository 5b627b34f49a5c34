"""Clips as files: what was found in every frame, and the pictures that show it."""
