"""Looks at real packets on this node: one sent on purpose, or those that pass by."""
