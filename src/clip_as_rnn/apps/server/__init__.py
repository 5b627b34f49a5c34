"""The segmenter behind HTTP."""
