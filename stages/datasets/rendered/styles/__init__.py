"""Styles with their own proportions and drawing: comic, anime, figurine, watercolour."""
