"""People who are rendered from a 3-D head, with the truth about every pixel."""
