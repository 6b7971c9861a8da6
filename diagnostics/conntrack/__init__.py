"""The connection table as a whole: who fills it, how full it is, and which entries are stale."""
