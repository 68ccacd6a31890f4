"""Files that a shell command prints."""

import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Generator
from typing import Any

from data_pipelines.images.transport.base import CHUNK, TransferError, Transport

_NO_SUCH_COMMAND = (126, 127)


class CommandTransport(Transport):
    """Files that a shell command prints. `{name}` in it is replaced by the name of the file that is asked for.

    Not webdataset's own pipes: those take a command that was cut off (status 141) for one that ended well, wait for
    one that hangs, and cannot end what it has started.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.location = url
        self._command = url.removeprefix("pipe:").strip()
        self._timeout = timeout
        self._running: set[subprocess.Popen[bytes]] = set()

    def name(self, file: str) -> str:
        return self.location.replace("{name}", file)

    def chunks(self, file: str | None = None) -> Generator[bytes, None, None]:
        with tempfile.TemporaryFile() as complaints:
            process = subprocess.Popen(
                # A record's name holds nothing that a shell would interpret.
                self._command if file is None else self._command.replace("{name}", file),
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
                raise TransferError(f"no byte came for {self._timeout:g} s")
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
