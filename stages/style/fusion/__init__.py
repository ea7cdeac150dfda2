"""Mixtures of source and transferred generator, and the choice among them."""
