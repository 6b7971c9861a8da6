"""The running node, of which only the chains and map elements are read that somebody asks for."""
