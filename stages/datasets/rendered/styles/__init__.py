"""Styles with their own proportions and drawing."""

STYLES = ("comic", "anime", "figurine", "watercolour")
