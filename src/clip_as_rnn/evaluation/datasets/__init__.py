"""Data sets: where their files lie, what their labels and sentences mean."""
