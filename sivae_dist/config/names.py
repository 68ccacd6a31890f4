"""Configurations by name, and the summary in the comment at the head of each. Imports no torch, for shell completion.

The comment begins with a sentence that says what is trained, and has one that begins with `Hardware:` and one that
begins with `Expect`. Lines that are indented behind the `#` are commands.
"""

import difflib
import re
from pathlib import Path
from typing import NamedTuple

from data_pipelines.problems import did_you_mean


def config_path(name: str | Path) -> Path:
    """A configuration by path, or by the name of one that comes with the package (`tiny`, `configs/tiny.yaml`).

    ValueError with the nearest name when there is none.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if (ours := shipped(path)) is not None:
        return ours
    if path.is_dir():
        inside = sorted(path.glob("*.y*ml"))
        raise ValueError(
            f"{name} is a directory, not a configuration; name a YAML file" + (f", like {inside[0]}" if inside else "")
        )
    names = config_names()
    beside = [str(file) for file in sorted(path.parent.glob("*.y*ml"))] if path.parent.is_dir() else []
    near = difflib.get_close_matches(str(name), [*beside, *names], n=1) or difflib.get_close_matches(
        path.stem, names, n=1
    )
    raise ValueError(
        f"there is no configuration {name}{did_you_mean(near)} "
        f"(neither a file {path.absolute()} nor one that comes with sivae: {', '.join(names)})"
    )


def shipped(name: Path) -> Path | None:
    """A file that comes with the package, by its path in configs/, whose ending may be left out."""
    relative = name.relative_to("configs") if name.parts[:1] == ("configs",) else name
    for folder in _config_folders():
        for candidate in (folder / relative, folder / f"{relative}.yaml"):
            if candidate.is_file():
                return candidate
    return None


def config_names() -> list[str]:
    """The names of the configurations that come with the package, sorted; without sweeps and clusters."""
    return sorted({name for folder in _config_folders() for name in _names_in(folder)})


def _config_folders() -> tuple[Path, Path]:
    package = Path(__file__).parents[1]
    return package / "configs", package.parent / "configs"


def _names_in(folder: Path) -> list[str]:
    found = (file.relative_to(folder).with_suffix("") for file in folder.rglob("*.yaml"))
    return [name.as_posix() for name in found if not {"clusters", "sweeps"} & {*name.parts}]


def run_name(path: Path) -> str:
    """The name for runs of a configuration: `ffhq256`, `official/ffhq256`; other people's by the file's name."""
    parts = path.with_suffix("").parts
    return "/".join(parts[parts.index("configs") + 1 :]) if "configs" in parts[:-1] else parts[-1]


class Summary(NamedTuple):
    """One sentence each, without its full stop; empty where the comment has none."""

    trains: str
    hardware: str
    expectation: str


def summary(path: Path) -> Summary:
    """The summary in the comment at the head of a configuration."""
    comment = re.match(r"(?:#.*\n)*", path.read_text(encoding="utf-8"))
    lines = comment[0].splitlines() if comment else []
    text = " ".join(line.lstrip("# ") for line in lines if not line.startswith("#   "))

    def sentence(begin: str) -> str:
        found = re.search(rf"(?:^|(?<=\. )){begin}(.*?)\.(?:\s|$)", text)
        return found[1].strip() if found else ""

    return Summary(sentence(""), sentence("Hardware:"), sentence("Expect"))
