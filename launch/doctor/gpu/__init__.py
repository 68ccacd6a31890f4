"""`sivae doctor --gpu`: the first ten minutes on a GPU, in ten points.

Every point takes its device from the course, so that tests can run the same code on a CPU at a tiny size.
"""
