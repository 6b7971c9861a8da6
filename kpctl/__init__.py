"""The command line: parsing, wiring and rendering; no decisions."""
