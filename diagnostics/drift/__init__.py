"""Does the kernel agree with the API: every Service, both directions."""
