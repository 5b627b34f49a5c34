"""The words that CLIP reads: templates, background texts, and what users ask for."""
