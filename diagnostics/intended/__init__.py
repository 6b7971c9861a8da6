"""The kernel's rules as they should be: compiled by the project's own data planes."""
