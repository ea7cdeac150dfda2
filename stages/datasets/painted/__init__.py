"""People who are painted by program, with the truth about every pixel."""
