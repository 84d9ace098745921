"""State of this machine, and whether others can use its cluster without a token."""
