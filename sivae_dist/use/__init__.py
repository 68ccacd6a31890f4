"""Trained networks in use: loading, drawing, pictures, exporting."""
