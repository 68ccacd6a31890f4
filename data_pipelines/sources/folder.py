"""A folder of images, nested or flat."""

import os
from pathlib import Path

from data_pipelines.sources import Labels, Source, SourceError
from data_pipelines.sources.image import is_image
from data_pipelines.sources.naming import LABELS_NAME, list_files


class FolderSource(Source):
    """Every regular file under a folder in the sorted order of its relative name; hidden ones are left out.

    Symbolic links are followed only as long as they stay inside the folder. Labels and splits: naming.list_files.
    """

    def __init__(self, path: Path, labels: Labels) -> None:
        self.path = path
        names, sizes, links = _list(path)
        if not names:
            hint = f" ({links} symbolic links lead out of it and were not followed)" if links else ""
            raise SourceError(f"source {path} holds no files{hint}: give the folder that holds the images")
        labels_path = path / LABELS_NAME
        labels_file = labels_path.read_bytes() if labels_path.is_file() else None
        self.listing = list_files(
            str(path), names, sizes, labels, labels_file, lambda i: is_image((path / names[i]).read_bytes())
        )

    def read(self, i: int) -> bytes:
        return (self.path / self.listing.names[i]).read_bytes()


def _list(root: Path) -> tuple[list[str], list[int], int]:
    """Relative names and sizes of all files in sorted order, and the number of links that lead outside."""
    real_root = os.path.realpath(root)
    found: list[tuple[str, int]] = []
    outside = 0
    # (folder, its relative name with a trailing slash, real paths of it and the folders above it)
    pending: list[tuple[str, str, frozenset[str]]] = [(real_root, "", frozenset([real_root]))]
    while pending:
        folder, prefix, above = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.name.startswith(".") or name == LABELS_NAME:
                    continue
                real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                if os.path.commonpath([real_root, real]) != real_root:
                    outside += 1
                elif entry.is_dir():
                    if real not in above:  # a link to a folder above would never end
                        pending.append((real, name + "/", above | {real}))
                elif entry.is_file():
                    found.append((name, entry.stat().st_size))
    found.sort()
    return [name for name, _ in found], [size for _, size in found], outside
