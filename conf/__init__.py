"""The configuration tree, installed as `stages.conf`. Files only, no code."""
