"""The training loop, and what it finds out before its first step."""
