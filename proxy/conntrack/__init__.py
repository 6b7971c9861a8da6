"""Which connection tracking entries are stale, and which settings apply; pure."""
