"""The embedded weights and their cards, installed as `stages.data`. Files only, no code."""
