"""What a job imports: a snapshot of the checkout that it was submitted from, or the installed package."""

import os
import shutil
import subprocess
from pathlib import Path

from sivae_dist import __version__
from sivae_dist.run.directory import RunDirectory

ROOT = Path(__file__).resolve().parent.parent


def snapshot(run: Path) -> Path | None:
    """A copy of the checkout that this comes from, as it is now, with code that git does not know yet; None when it is
    installed and not a checkout.

    Raises ValueError when it cannot be made.
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
        ]  # which submitit would not do quietly
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(clone, capture_output=True, check=True)
        with RsyncSnapshot(copy, root_dir=ROOT, include=[name for name in names if name]):
            return copy
    except subprocess.CalledProcessError:
        raise ValueError(
            f"no snapshot of the code can be taken: `git status` in {ROOT} tells which files are missing"
        ) from None


def importing(code: Path | None) -> dict[str, str]:
    """Environment variables by which a child process imports from a snapshot, or what this process runs, and never
    from the current directory, where `python -m` would look first: a user's folder may be called `launch`."""
    if code is None and (ROOT / "pyproject.toml").exists():  # otherwise it is installed, and found without a path
        code = ROOT
    paths = [str(code)] if code is not None else []
    paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in paths]
    return {"PYTHONSAFEPATH": "1"} | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})


def describe(code: Path | None) -> str:
    """For the record."""
    if code is None and (ROOT / ".git").exists():
        return f"{ROOT}, as it was at each start"
    return str(code) if code is not None else f"sivae {__version__}"
