"""The loop that keeps the kernel equal to the cluster state."""
