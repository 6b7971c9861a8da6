"""What a packet should experience: the only place where policies are decided."""
