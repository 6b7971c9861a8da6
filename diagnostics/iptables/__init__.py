"""Reads iptables rules from what iptables-save and ``iptables -S`` print, by any producer."""
