"""How far a run has come, by what lies in its directory. Without torch, for commands that only look."""

import re
from pathlib import Path


def saved_images(run: Path) -> int:
    """Images at the newest complete checkpoint; 0 when there is none."""
    names = (re.fullmatch(r"images-(\d+)", path.name) for path in (run / "checkpoints").glob("images-*"))
    return max((int(name[1]) for name in names if name), default=0)
