"""The progress of a run, from the files in its directory."""

import re
from pathlib import Path

from sivae_dist.run.directory import RunDirectory

PREFIX = "images-"
"""Prefix of checkpoints' names, before the number of images."""


def saved_images(run: Path) -> int:
    """Images at the newest complete checkpoint; 0 when there is none."""
    names = (re.fullmatch(rf"{PREFIX}(\d+)", path.name) for path in RunDirectory(run).checkpoints.glob(f"{PREFIX}*"))
    return max((int(name[1]) for name in names if name), default=0)
