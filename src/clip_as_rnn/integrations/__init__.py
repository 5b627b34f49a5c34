"""What labeling tools expect of a model."""
