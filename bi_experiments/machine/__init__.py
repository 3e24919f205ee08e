"""What this machine is, and what of it is free."""
