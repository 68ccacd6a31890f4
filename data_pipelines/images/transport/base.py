"""The contract of a transport, its errors, and its retries."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import TypeVar

from pydantic import Field

from data_pipelines.settings import Settings

CHUNK = 1 << 20

BACKOFF_LIMIT = 60.0
"""Longest wait before another try, in seconds."""

Result = TypeVar("Result")


class TransferError(Exception):
    """A transfer failed; one line says why. When `final`, another try would end the same way."""

    def __init__(self, message: str, final: bool = False, missing: bool = False) -> None:
        super().__init__(message)
        self.final = final
        self.missing = missing


class RemoteError(OSError):
    """A file could not be fetched; one line names it, the tries and the last cause."""


class TransferSettings(Settings):
    """Settings of timeouts and retries."""

    retries: int = Field(5, ge=0)
    """Retries after a temporary failure: no connection, a timeout, a server error or a damaged file."""
    backoff: float = Field(1.0, ge=0)
    """Seconds before the first retry; the wait doubles with each further one, up to a minute."""
    timeout: float = Field(60.0, gt=0)
    """Seconds without a byte after which a try fails. A slow transfer that continues is never ended."""

    @property
    def delays(self) -> list[float]:
        """Seconds before each further try."""
        return [min(self.backoff * 2**k, BACKOFF_LIMIT) for k in range(self.retries)]


class Transport(ABC):
    """One place from which files come. Any number of threads may use it at once."""

    location: str
    """The name of the place in messages, without passwords and signatures."""

    @abstractmethod
    def name(self, file: str) -> str:
        """Name of a file in messages."""

    @abstractmethod
    def chunks(self, file: str | None = None) -> Generator[bytes, None, None]:
        """The content of a file there, or of the place itself, a few MiB at a time at most. Raises TransferError."""

    @abstractmethod
    def close(self) -> None:
        """Ends running transfers, as far as possible, with TransferError."""


def is_elsewhere(where: str) -> bool:
    """Whether it is a URL or a `pipe:` command, not a path."""
    return "://" in where or where.startswith("pipe:")


def shown(where: str) -> str:
    """A URL, or several with `::` between them, without passwords, and without what follows a web address's `?`."""
    parts = [re.sub(r"//[^/@]+@", "//", part) if "://" in part else part for part in where.split("::")]
    return "::".join(part.partition("?")[0] if part.startswith(("http://", "https://")) else part for part in parts)


def insist(name: str, attempt: Callable[[], Result], delays: list[float], pause: Callable[[float], object]) -> Result:
    """The result of `attempt`, tried again after each of the delays. Raises RemoteError and what `pause` raises."""
    for tries, delay in enumerate((*delays, None), start=1):
        try:
            return attempt()
        except TransferError as error:
            if error.final or delay is None:
                count = "1 try" if tries == 1 else f"{tries} tries"
                raise RemoteError(f"{name} could not be fetched ({count}): {error}") from error
        pause(delay)
    raise AssertionError("the last try returns or raises")
