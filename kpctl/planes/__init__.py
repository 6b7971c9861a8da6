"""One module for each mode: its ports, its monitor, and what it needs of the node."""
