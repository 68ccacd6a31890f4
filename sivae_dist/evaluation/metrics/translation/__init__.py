"""Metrics of image translation: of content transfer, and of what the codes of class and content say of each other."""
