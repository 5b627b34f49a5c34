"""Refinement of soft masks: the dense CRF and SAM."""
