"""Portraits aligned to the style by thin-plate splines (arXiv 2211.15549)."""
