"""One process of a run, `python -m launch.worker RUN`, started by any launcher that sets RANK and WORLD_SIZE."""

import ctypes
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from sivae_dist.processes import join, leave, pick_device
from sivae_dist.run import RunDirectory
from sivae_dist.trainer import NonFiniteError, Trainer

_PR_SET_PDEATHSIG = 1


def end_with_launcher() -> None:
    """A launcher that is killed cannot end its processes; the kernel does it instead, so that none is left behind."""
    launcher = os.environ.get("SIVAE_LAUNCHER")
    if launcher and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(launcher):  # it was gone before we asked
            os.kill(os.getpid(), signal.SIGKILL)


def main(path: Path) -> int:
    """Trains the run at `path` to its end; returns an exit code."""
    run = RunDirectory(path)
    settings = run.settings()
    device = pick_device(settings.device)
    join(device, timedelta(minutes=10))
    try:
        trainer = Trainer(settings, run, device)
        try:
            trainer.train()
        finally:
            trainer.close()
    except (ValueError, OSError, NonFiniteError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    leave()
    return 0


@record
def _process() -> None:
    end_with_launcher()
    sys.exit(main(Path(sys.argv[1])))


if __name__ == "__main__":
    _process()
