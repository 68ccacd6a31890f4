"""The code of the next segment (engine.compile), compiled in the background while this one is trained.

A process of its own compiles both objectives for tensors without values and leaves the code in torch's caches on disk
(precompile.py). On CPUs there is one on each machine, and its code serves all processes there. On GPUs each process has
its own, since code names its GPU. It has the lowest priority, ends with the process that has started it, and is not
needed: what it has not compiled is compiled when the segment begins.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from time import monotonic

import torch

from sivae_dist.config.run_settings import RunSettings
from sivae_dist.engines.settings import EngineSettings
from sivae_dist.process.durations import duration
from sivae_dist.process.processes import everyone, world_size
from sivae_dist.step.schedule import Schedule, Segment, Step

WORKER = "sivae_dist.train.precompile"
"""The module that the background process runs."""

_OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_ERROR_FILE")


class Ahead:
    """Used by all processes of a run alike."""

    def __init__(self, settings: RunSettings, run: Path, schedule: Schedule, device: torch.device) -> None:
        self.run = run
        self.schedule = schedule
        self.device = device
        self.patience = settings.watchdog.slow_seconds / 4
        """Seconds to wait for a background process."""
        self._leads = device.type != "cpu" or os.environ.get("LOCAL_RANK", "0") == "0"
        self._begun: Segment | None = None
        self._work: _Work | None = None

    def start(self, step: Step, engine: EngineSettings) -> None:
        """Starts to compile for the segment after that of `step`, once. `engine`: with training's micro-batches."""
        if self._begun == step.segment:
            return
        self._begun = step.segment
        following = self.schedule.following(step)
        if following is not None and self._leads:
            share = following.batch // world_size()
            batch = share // engine.parts(share, following.phase.resolution)
            self._work = _Work(self.run, following.segment, batch, self.device)

    def wait(self, segment: Segment) -> list[str]:
        """Waits, at the beginning of a segment, until its code is there. Returns lines for the terminal.

        All processes call it together, as the code of one may serve another.
        """
        lines = everyone(lambda: self._finish(segment))
        return list(dict.fromkeys(line for line in lines if line))

    def _finish(self, segment: Segment) -> str:
        work, self._work, self._begun = self._work, None, None
        if work is None:
            return ""
        if work.segment != segment:  # the run has gone back
            work.end()
            return ""
        return work.finish(self.patience)

    def close(self) -> None:
        """Ends the background process, with all that it has started."""
        if self._work is not None:
            self._work.end()


class _Work:
    """A background process, in a session of its own with all that it starts."""

    def __init__(self, run: Path, segment: Segment, batch: int, device: torch.device) -> None:
        self.segment = segment
        threads = torch.get_num_threads()
        request = {"run": str(run), "device": str(device), "batch": batch, "threads": threads} | vars(segment)
        environment = {name: value for name, value in os.environ.items() if name not in _OF_LAUNCHERS}
        environment.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(threads))
        self._output = TemporaryFile()  # noqa: SIM115 (open while the process writes)
        self._process = subprocess.Popen(
            [sys.executable, "-m", WORKER, str(os.getpid()), json.dumps(request)],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

    def finish(self, patience: float) -> str:
        """Waits so many seconds; returns a line about how it ended."""
        what = f"the code for {self.segment}"
        since = monotonic()
        try:
            code = self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.end()
            return f"warning: {what} was not compiled in {duration(patience)}: it is compiled now"
        waited = monotonic() - since
        if code == 0:
            self._output.close()
            return f"waited {duration(waited)} for {what}, which has been compiled in the background"
        reason = self._last_line() or f"code {code}"
        self.end()
        return f"warning: {what} could not be compiled in the background ({reason}): it is compiled now"

    def _last_line(self) -> str:
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def end(self) -> None:
        """Kills it, and whatever compilers it runs."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._output.close()
