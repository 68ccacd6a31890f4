"""Images on disk to uint8 batches in a known order. Nothing in here knows of models."""
