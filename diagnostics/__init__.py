"""Reads a node or a snapshot of one; never writes to it."""
