"""Keeps the iptables rules equal to the plans."""
