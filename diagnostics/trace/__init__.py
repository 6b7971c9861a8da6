"""Follows a packet through the rules that are in a node's kernel."""
