"""A web server with faults, on this machine."""

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

Fault = Callable[["Web", BaseHTTPRequestHandler, bytes], None]
"""Answers one request for a file, whose content is given, in a way of its own."""


class Web:
    """Serves a directory over HTTP. It counts the requests for each file, and answers some as told.

    As a context manager it ends its threads and whatever they are at.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: Counter[str] = Counter()
        self.released = threading.Event()
        """Those who wait (`stall`, `silence`) go on when it is set."""
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False  # so that closing it waits for them
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="web")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fault(self, name: str, fault: Fault, times: int | None = None) -> None:
        """How to answer the next so many requests for a file, or all; `*` stands for files without faults."""
        if times is None:
            self._always[name] = fault
        else:
            self._faults[name] += [fault] * times

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _next(self, name: str) -> Fault:
        with self._lock:
            self.requests[name] += 1
            if self._faults[name]:
                return self._faults[name].popleft()
            return self._always.get(name) or self._always.get("*") or whole

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.partition("?")[0].lstrip("/")
                path = web.root / name
                try:
                    if path.is_file():
                        web._next(name)(web, self, path.read_bytes())
                    else:
                        web.requests[name] += 1
                        self.send_error(404)
                except OSError:  # whoever asked has gone
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def _head(handler: BaseHTTPRequestHandler, length: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()


def whole(web: Web, handler: BaseHTTPRequestHandler, data: bytes) -> None:
    _head(handler, len(data))
    handler.wfile.write(data)


def status(code: int) -> Fault:
    return lambda web, handler, data: handler.send_error(code)


def cut(web: Web, handler: BaseHTTPRequestHandler, data: bytes) -> None:
    """All is announced, half is sent."""
    _head(handler, len(data))
    handler.wfile.write(data[: len(data) // 2])


def short(web: Web, handler: BaseHTTPRequestHandler, data: bytes) -> None:
    """Half is sent as if it were all."""
    whole(web, handler, data[: len(data) // 2])


def long(web: Web, handler: BaseHTTPRequestHandler, data: bytes) -> None:
    whole(web, handler, data + b"more")


def corrupt(web: Web, handler: BaseHTTPRequestHandler, data: bytes) -> None:
    """One bit in the middle is another."""
    middle = len(data) // 2
    whole(web, handler, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])


def trickle(seconds: float) -> Fault:
    """A few bytes at a time, which take so long in all."""

    def answer(web: Web, handler: BaseHTTPRequestHandler, data: bytes) -> None:
        _head(handler, len(data))
        step = max(1, len(data) // 40)
        for first in range(0, len(data), step):
            handler.wfile.write(data[first : first + step])
            web.released.wait(seconds / 40)

    return answer


def stall(web: Web, handler: BaseHTTPRequestHandler, data: bytes) -> None:
    """Half is sent, and the rest when released."""
    _head(handler, len(data))
    handler.wfile.write(data[: len(data) // 2])
    web.released.wait()
    handler.wfile.write(data[len(data) // 2 :])


def silence(web: Web, handler: BaseHTTPRequestHandler, data: bytes) -> None:
    """Not a byte, before it is released."""
    web.released.wait()
