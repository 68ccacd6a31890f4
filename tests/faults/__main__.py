"""Kills, signals, full disks and damage, done to real runs, and the table of what became of them.

`python -m tests.faults` can be ended at any moment; started again with the same --work it does what is not done yet.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.faults.campaign import FAULTS, run_campaign
from tests.faults.results import markdown, show


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, help="folder that a later start continues; a temporary one by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=100, help="kill -9 while training; a fifth as many during a start")
    parser.add_argument(
        "--signals", type=int, default=40, help="signals while training; a fifth as many during a start"
    )
    parser.add_argument("--only", choices=FAULTS)
    parser.add_argument("--out", type=Path, help="write the table as Markdown to this file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # in order: no process or mount is left
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        events = run_campaign(
            work, options.seed, options.kills, options.signals, options.only, lambda line: print(line, flush=True)
        )
        show(events)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(markdown(events, options.seed, "Faults"))
    return 1 if any(event.problems for event in events) else 0


if __name__ == "__main__":
    raise SystemExit(main())
