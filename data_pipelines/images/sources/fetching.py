"""The content of a URL, or the output of a command, as a plain local file."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from data_pipelines.images.sources import SourceError
from data_pipelines.images.sources.gzipped import is_gzip, unpack
from data_pipelines.images.transport import RemoteError, TransferError, TransferSettings, insist, open_transport

_SETTINGS = TransferSettings()


def fetch(url: str, dest: Path, check: Callable[[Path], None]) -> None:
    """Writes the content of a URL, or the output of a `pipe:` command, to `dest`, unpacked when it is gzip.

    A transfer that fails, or does not pass `check` (which raises SourceError), is tried again a few times. Raises
    SourceError that names the URL.
    """

    def attempt() -> None:
        with dest.open("wb") as copy, closing(transport.chunks()) as chunks:
            copy.writelines(chunks)
        packed = dest.with_suffix(".gz.tmp")
        try:
            if is_gzip(dest):
                dest.replace(packed)
                unpack(packed, dest)
            check(dest)
        except SourceError as error:
            raise TransferError(str(error).replace(str(packed), "it")) from None
        finally:
            packed.unlink(missing_ok=True)

    try:
        with closing(open_transport(url, _SETTINGS.timeout)) as transport:
            insist(transport.location, attempt, _SETTINGS.delays, time.sleep)
    except (ValueError, RemoteError) as error:
        raise SourceError(str(error)) from None
