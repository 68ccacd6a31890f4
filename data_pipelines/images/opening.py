"""Opens a prepared data set where it lies."""

from pathlib import Path

from data_pipelines.images.remote import RemoteSettings, RemoteStore
from data_pipelines.images.store import Directory, Store
from data_pipelines.images.transport import is_elsewhere


def open_store(path: str, settings: RemoteSettings | None = None) -> Store:
    """The store at a directory, at a URL (`s3://`, `gs://`, `https://` and what else fsspec knows), or behind a
    command (`pipe:ssh HOST cat SET/{name}`); `settings` are about those that are elsewhere.

    Raises ValueError or OSError with one line when a URL cannot be opened at all or the cache cannot be used.
    """
    if not is_elsewhere(path):
        return Directory(Path(path).expanduser())
    return RemoteStore(path, settings or RemoteSettings())
