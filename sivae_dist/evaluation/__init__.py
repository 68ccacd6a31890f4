"""Evaluation of a model: Frechet and kernel distances of its samples, and errors of its reconstructions.

All processes share the work, each taking every world-th image, and sums are reduced in float64; so a value does not
depend on their number.
"""
