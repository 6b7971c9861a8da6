"""Keeps virtual servers, ipsets and addresses equal to the plans."""
