"""What a trace looks like: a tree, a long explanation, pictures."""
