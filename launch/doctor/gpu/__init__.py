"""`sivae doctor --gpu`: the first ten minutes on a GPU, in ten points.

Every point takes its device from the course, so that the same code runs on a CPU at a tiny size,
which is how it is tested.
"""
