"""Faces in photographs: found, aligned, parsed and recognised."""
