"""Sets of images: from files on disk to uint8 batches in a known order."""
