"""Names of logged terms that are read where no objective can be asked: commands that only look import no torch.

An objective whose terms mean the same logs them under these names (sivae_dist/objectives/base.py).
"""

RECONSTRUCTION = "reconstruction/per_value"
"""Mean error of one value of an image."""

HEADLINES = {"rec": RECONSTRUCTION, "KL": "kl/real", "fake": "kl/fake"}
"""The terms of a run's last row that `sivae status` shows, by heading; those that a run does not log stay empty."""
