"""The code that a job imports: a snapshot of the checkout it was submitted from, or the installed package."""

import os
import shutil
import subprocess
from pathlib import Path

from sivae_dist import __version__
from sivae_dist.run.directory import RunDirectory

ROOT = Path(__file__).resolve().parent.parent


def snapshot(run: Path) -> Path | None:
    """Copies the current checkout, including untracked Python files; returns None if sivae is installed as a package.

    Raises ValueError if the copy fails.
    """
    from submitit.helpers import RsyncSnapshot

    if not (ROOT / ".git").exists():
        return None
    if shutil.which("rsync") is None or shutil.which("git") is None:
        raise ValueError(
            "git and rsync are needed to take a snapshot of the code: install them (or sivae, as a package)"
        )
    folder = RunDirectory(run).code
    copy = folder / f"{1 + sum(1 for _ in folder.glob('*')):03d}"
    try:
        new = ["git", "-C", str(ROOT), "ls-files", "-z", "--others", "--exclude-standard", "--", "*.py"]
        names = subprocess.run(new, capture_output=True, text=True, check=True).stdout.split("\0")
        clone = [
            "git",
            "clone",
            "--quiet",
            "--depth=1",
            f"file://{ROOT}",
            str(copy),
        ]  # submitit's own clone would not be quiet
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(clone, capture_output=True, check=True)
        with RsyncSnapshot(copy, root_dir=ROOT, include=[name for name in names if name]):
            return copy
    except subprocess.CalledProcessError:
        raise ValueError(
            f"cannot take a snapshot of the code: `git status` in {ROOT} shows which files are missing"
        ) from None


def importing(code: Path | None) -> dict[str, str]:
    """Environment variables that make a child process import from a snapshot, or else the same code as this process.

    They exclude the current directory, which `python -m` would search first: a user's folder may be called `launch`.
    """
    if code is None and (ROOT / "pyproject.toml").exists():  # an installed package is found without a path
        code = ROOT
    paths = [str(code)] if code is not None else []
    paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in paths]
    return {"PYTHONSAFEPATH": "1"} | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})


def describe(code: Path | None) -> str:
    """The code's origin as recorded in jobs.jsonl."""
    if code is None and (ROOT / ".git").exists():
        return f"{ROOT}, as it was at each start"
    return str(code) if code is not None else f"sivae {__version__}"
