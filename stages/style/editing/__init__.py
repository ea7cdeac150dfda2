"""Directions in latent space, and new colours for regions."""
