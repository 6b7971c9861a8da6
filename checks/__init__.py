"""Judges a node snapshot; one module per check."""
