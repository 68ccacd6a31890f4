"""A run's settings: what there is, how it is read from YAML, and what of it may change later.

Nothing is imported here, so that commands which only read YAML need not wait for torch.
"""
