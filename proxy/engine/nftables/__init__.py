"""Keeps the nftables tables equal to the plans."""
