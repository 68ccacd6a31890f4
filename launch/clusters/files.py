"""Files with a cluster's settings: configs/clusters/NAME.yaml and ~/.config/sivae/clusters/NAME.yaml."""

import difflib
from pathlib import Path
from typing import Any

from data_pipelines.problems import did_you_mean
from sivae_dist.config.yaml_reading import read_yaml

USER_FOLDER = Path("~/.config/sivae/clusters")

_KIND = "kind"
"""Key that names the kind of cluster in a file that is not for SLURM."""


def all_files() -> list[Path]:
    """All files, the user's own first."""
    package = Path(__file__).parents[2]
    folders = (
        USER_FOLDER.expanduser(),
        package / "configs" / "clusters",
        package / "sivae_dist" / "configs" / "clusters",
    )
    return [path for folder in folders for path in sorted(folder.glob("*.yaml"))]


def named(name: str) -> Path:
    """A file by its path, or by its name without folder and extension. ValueError when there is none."""
    if (path := _find(name)) is not None:
        return path
    known = sorted({file.stem for file in all_files()}) or ["none"]
    near = difflib.get_close_matches(name, known, n=1)
    raise ValueError(
        f"there is no cluster {name}: it is neither a file nor one of {', '.join(known)}{did_you_mean(near)}"
    )


def is_file_named(name: str) -> bool:
    return _find(name) is not None


def kind_of(name: str) -> str | None:
    """The `kind` in the file of this name; None when it has none, or when there is no such file."""
    path = _find(name)
    return None if path is None else read_yaml(path, as_text=True).get(_KIND)


def read(path: Path) -> dict[str, Any]:
    """Settings of a file without its kind, as text, since YAML would read 12:00:00 as a number."""
    values = read_yaml(path, as_text=True)
    return {key: value for key, value in values.items() if value != "" and key != _KIND}


def _find(name: str) -> Path | None:
    own = Path(name).expanduser()
    candidates = (own, *all_files())
    path = next((path for path in candidates if path.is_file() and name in (str(path), path.stem)), None)
    return own if path is None and own.is_file() else path
