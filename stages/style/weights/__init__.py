"""Generators of other projects, read and written without running their code."""
