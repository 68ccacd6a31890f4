"""Whatever fsspec can open."""

import asyncio
import re
import threading
from collections.abc import Coroutine, Generator
from concurrent.futures import CancelledError, Future
from typing import Any

from data_pipelines.images.transport.base import CHUNK, TransferError, Transport, shown

BLOCK = 8 << 20
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
_PASSING_STATUS = (408, 425, 429)  # besides 5xx


class UrlTransport(Transport):
    """A place, or a single file, that fsspec can open."""

    def __init__(self, url: str, timeout: float) -> None:
        from fsspec.core import url_to_fs

        scheme = url.partition("://")[0].lower()
        web = scheme in ("http", "https")
        # What follows a web address's path (a signature, for instance) is needed for each file and shown nowhere.
        base, mark, query = url.partition("?") if web else (url, "", "")
        self._suffix = mark + query
        self._secrets = [secret for secret in (self._suffix, *re.findall(r"//([^/@]+@)", base)) if secret]
        self.location = shown(url).rstrip("/")
        self._timeout = timeout
        try:
            self._fs, root = url_to_fs(base, skip_instance_cache=True, **_options(scheme, timeout))
        except ImportError as error:
            package = _PACKAGES.get(scheme)
            hint = f"pip install {package}" if package else _one_line(error)
            raise ValueError(f"{self.location}: a package for {scheme}:// is missing: {hint}") from None
        except ValueError as error:
            raise ValueError(f"{self.location}: {_one_line(error)}") from None
        self._root = root.rstrip("/")
        s3 = scheme in ("s3", "s3a")
        if s3:
            self._fs.retries = 1
        self._calls = _Calls(self._fs.loop) if web or s3 else None
        self._session = self._calls.result(self._fs.set_session()) if web and self._calls else None

    def name(self, file: str) -> str:
        return f"{self.location}/{file}"

    def chunks(self, file: str | None = None) -> Generator[bytes, None, None]:
        try:
            path = f"{self._root if file is None else f'{self._root}/{file}'}{self._suffix}"
            yield from self._blocks(path) if self._calls is None else self._stream(path, self._calls)
        except Exception as error:  # the packages behind fsspec have no common base for theirs
            raise self._explained(error) from error

    def _blocks(self, path: str) -> Generator[bytes, None, None]:
        """Each block is a request of its own, which fails after the timeout; in gcsfs after some more tries."""
        with self._fs.open(path, "rb", block_size=BLOCK, cache_type="none") as file:
            while data := file.read(BLOCK):
                yield data

    def _stream(self, path: str, calls: "_Calls") -> Generator[bytes, None, None]:
        """One request, without one for the size before it (which fsspec leaves out when it is given some)."""
        stream = calls.result(self._fs.open_async(path, "rb", size=1))
        try:
            while data := calls.result(stream.read(CHUNK)):
                yield data
        finally:
            calls.start(stream.close())

    def _explained(self, error: Exception) -> TransferError:
        status = getattr(error, "status", None) or getattr(error, "code", None)
        if isinstance(error, FileNotFoundError):
            return TransferError("there is no such file", final=True, missing=True)
        if isinstance(error, TimeoutError):
            return TransferError(f"no byte came for {self._timeout:g} s")
        text = self._without_secrets(_one_line(error))
        if not isinstance(status, int):
            final = isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError | ValueError)
            return TransferError(text, final)
        message = self._without_secrets(getattr(error, "message", ""))
        final = 400 <= status < 500 and status not in _PASSING_STATUS
        return TransferError(f"the server answers {status} {message}".strip(), final)

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "")
        return text

    def close(self) -> None:
        if self._calls is not None:
            self._calls.cancel()
        if self._session is not None:
            self._fs.close_session(self._fs.loop, self._session)


class _Calls:
    """Calls of coroutines on fsspec's event loop from threads. Unlike fsspec's own they can be cancelled."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._going: set[Future[Any]] = set()
        self._cancelled = threading.Event()

    def start(self, call: Coroutine[Any, Any, Any]) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def result(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Returns or raises what a call does; CancelledError after `cancel`."""
        if self._cancelled.is_set():
            call.close()
            raise CancelledError
        future = self.start(call)
        self._going.add(future)
        if self._cancelled.is_set():  # since then, and perhaps before it could be seen there
            future.cancel()
        try:
            return future.result()
        finally:
            self._going.discard(future)

    def cancel(self) -> None:
        """Ends running calls, and refuses new ones."""
        self._cancelled.set()
        for future in tuple(self._going):
            future.cancel()


def _options(scheme: str, timeout: float) -> dict[str, Any]:
    if scheme in ("s3", "s3a"):
        # botocore would try each request several times, and so does s3fs (see below): that is for the store to do.
        limits = {"connect_timeout": timeout, "read_timeout": timeout, "retries": {"total_max_attempts": 1}}
        return {"config_kwargs": limits, "use_listings_cache": False}
    if scheme in ("http", "https", "gs", "gcs"):
        from aiohttp import ClientTimeout

        # By default aiohttp ends every transfer after five minutes, also one that goes well.
        limit = ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)
        if scheme in ("gs", "gcs"):
            return {"requests_timeout": limit, "use_listings_cache": False}
        # trust_env: the proxies and the .netrc of the environment
        return {"client_kwargs": {"timeout": limit, "trust_env": True, "read_bufsize": CHUNK}}
    return {}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
