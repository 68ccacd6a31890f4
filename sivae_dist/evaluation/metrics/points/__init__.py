"""Metrics of models of points in the plane: the three of the paper's small experiments, and what they leave open."""
