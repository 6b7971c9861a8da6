"""What the cluster says: pure values, no I/O."""
