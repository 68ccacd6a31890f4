"""Remote files: as streams of bytes, through fsspec or from a command, tried again where that may help."""

from data_pipelines.images.transport.base import (
    CHUNK,
    RemoteError,
    Result,
    TransferError,
    TransferSettings,
    Transport,
    insist,
    is_elsewhere,
    shown,
)
from data_pipelines.images.transport.commands import CommandTransport
from data_pipelines.images.transport.urls import UrlTransport

__all__ = [
    "CHUNK",
    "RemoteError",
    "Result",
    "TransferError",
    "TransferSettings",
    "Transport",
    "insist",
    "is_elsewhere",
    "open_transport",
    "shown",
]


def open_transport(url: str, timeout: float) -> Transport:
    """`timeout`: seconds without a byte after which a transfer fails.

    Raises ValueError for a protocol that is unknown or needs a package that is missing.
    """
    if url.startswith("pipe:"):
        return CommandTransport(url, timeout)
    return UrlTransport(url, timeout)
