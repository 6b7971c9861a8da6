"""The state of a node as one value: from a directory, an archive, one dump, or the node itself."""
