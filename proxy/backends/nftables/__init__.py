"""The map-based nftables data plane."""
