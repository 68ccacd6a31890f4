"""One process among others: who it is, its device and arithmetic, how it is asked to stop and found hanging."""
