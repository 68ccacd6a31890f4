"""`sivae doctor`: what is installed, what the machine offers, and whether the whole works there."""
