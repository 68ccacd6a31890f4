"""Files that lie elsewhere as streams of bytes: through fsspec, or as what a command prints."""

import asyncio
import os
import re
import select
import signal
import subprocess
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Generator
from concurrent.futures import CancelledError, Future
from typing import Any

CHUNK = 1 << 20
BLOCK = 8 << 20
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_PASSING_STATUS = (408, 425, 429)  # besides 5xx
_NO_SUCH_COMMAND = (126, 127)


class TransferError(Exception):
    """A transfer failed; one line says why. When `final`, another try would end the same way."""

    def __init__(self, message: str, final: bool = False, missing: bool = False) -> None:
        super().__init__(message)
        self.final = final
        self.missing = missing


class Transport(ABC):
    """One place from which files come. Any number of threads may use it at once."""

    location: str
    """What to call the place in messages: no passwords, no signatures."""

    @abstractmethod
    def name(self, file: str) -> str:
        """What to call a file in messages."""

    @abstractmethod
    def chunks(self, file: str) -> Generator[bytes, None, None]:
        """The file's content, at most a few MiB at a time. Raises TransferError."""

    @abstractmethod
    def close(self) -> None:
        """Ends transfers that are going on, as far as that can be done, with TransferError."""


def open_transport(url: str, timeout: float) -> Transport:
    """`timeout`: seconds without a byte after which a transfer fails.

    Raises ValueError for a protocol that is unknown or needs a package that is missing, and for a command without
    `{name}`.
    """
    return CommandTransport(url, timeout) if url.startswith("pipe:") else UrlTransport(url, timeout)


class UrlTransport(Transport):
    """Whatever fsspec can open."""

    def __init__(self, url: str, timeout: float) -> None:
        from fsspec.core import url_to_fs

        scheme = url.partition("://")[0].lower()
        web = scheme in ("http", "https")
        # What follows a web address's path (a signature, for instance) is needed for each file and shown nowhere.
        base, mark, query = url.partition("?") if web else (url, "", "")
        self._suffix = mark + query
        self._secrets = [secret for secret in (self._suffix, *re.findall(r"//([^/@]+@)", base)) if secret]
        self.location = self._shown(base).rstrip("/")
        self._timeout = timeout
        try:
            self._fs, root = url_to_fs(base, skip_instance_cache=True, **_options(scheme, timeout))
        except ImportError as error:
            extra = _EXTRAS.get(scheme)
            hint = f'pip install "sivae[{extra}]"' if extra else _one_line(error)
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

    def chunks(self, file: str) -> Generator[bytes, None, None]:
        try:
            path = f"{self._root}/{file}{self._suffix}"
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
            return TransferError(f"not a byte came for {self._timeout:g} s")
        text = self._shown(_one_line(error))
        if not isinstance(status, int):
            final = isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError | ValueError)
            return TransferError(text, final)
        message = self._shown(getattr(error, "message", ""))
        final = 400 <= status < 500 and status not in _PASSING_STATUS
        return TransferError(f"the server answers {status} {message}".strip(), final)

    def _shown(self, text: str) -> str:
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
        """What a call returns or raises; CancelledError after `cancel`."""
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
        """Ends the calls that are going on, and those to come."""
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


class CommandTransport(Transport):
    """What a shell command prints, with `{name}` in it replaced by the file's name.

    Not webdataset's own pipes: those take a command that was cut off (status 141) for one that ended well, wait for
    one that hangs, and cannot end what it has started.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.location = url
        self._command = url.removeprefix("pipe:").strip()
        if "{name}" not in self._command:
            raise ValueError(f"{url} does not say where the name of a file goes: write {{name}} there")
        self._timeout = timeout
        self._running: set[subprocess.Popen[bytes]] = set()

    def name(self, file: str) -> str:
        return self.location.replace("{name}", file)

    def chunks(self, file: str) -> Generator[bytes, None, None]:
        with tempfile.TemporaryFile() as complaints:
            process = subprocess.Popen(
                self._command.replace("{name}", file),  # a record's name holds nothing that a shell would interpret
                shell=True,
                bufsize=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                start_new_session=True,  # one group, to be ended as a whole, without a terminal to ask a password on
            )
            self._running.add(process)
            try:
                yield from self._output(process)
                self._check(process, complaints)
            finally:
                _end(process)
                self._running.discard(process)

    def _output(self, process: "subprocess.Popen[bytes]") -> Generator[bytes, None, None]:
        assert process.stdout is not None
        waiting = select.poll()
        waiting.register(process.stdout, select.POLLIN)
        while True:
            if not waiting.poll(self._timeout * 1000):
                raise TransferError(f"not a byte came for {self._timeout:g} s")
            data = process.stdout.read(CHUNK)
            if not data:
                return
            yield data

    def _check(self, process: "subprocess.Popen[bytes]", complaints: Any) -> None:
        try:
            status = process.wait(self._timeout)
        except subprocess.TimeoutExpired:
            raise TransferError(f"the command closed its output but did not end for {self._timeout:g} s") from None
        if status:
            complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - 1000))
            lines = complaints.read().decode(errors="replace").split("\n")
            last = next((" ".join(line.split()) for line in reversed(lines) if line.strip()), "it printed no reason")
            raise TransferError(f"the command ended with status {status}: {last}", final=status in _NO_SUCH_COMMAND)

    def close(self) -> None:
        for process in tuple(self._running):
            _kill(process)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """With all that it has started."""
    if process.poll() is None:  # until it has been waited for, its number is nobody else's
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdout is not None
    _kill(process)
    process.stdout.close()
    process.wait()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
