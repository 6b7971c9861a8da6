"""The node proxy engine: cluster state in, kernel state out."""
