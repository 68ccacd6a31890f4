"""A run's directory, for all who look at it."""
