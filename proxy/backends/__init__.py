"""Data planes: plans in, kernel operations out; pure."""
