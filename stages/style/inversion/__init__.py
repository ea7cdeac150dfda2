"""Latents of photographs, by an encoder and by optimisation."""
