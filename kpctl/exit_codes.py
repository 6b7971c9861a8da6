"""Exit codes, the same for every command."""

OK = 0
FINDINGS = 1
USAGE = 2
UNDETERMINED = 3
ENVIRONMENT = 4
