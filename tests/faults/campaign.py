"""Which faults are tried how often, in sequences that a later start of the campaign need not repeat."""

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from tests.disks import release
from tests.faults.attempts import ALL, LAUNCHER, ONE, by_command
from tests.faults.damage import WAYS, damage_repeatedly
from tests.faults.disks import DISK, NO_BYTE_FREE, READ_ONLY, SAVE_FAILS, SAVES_FAIL, TOO_SMALL, try_disk
from tests.faults.kills import ANYWHERE, AT_CHANGE, AT_START, IN_SAVE, Aim, kill_repeatedly
from tests.faults.results import Event, Results
from tests.faults.stops import ASKED, ASKED_AT_START, SECOND_INTERRUPT, requests, stop_repeatedly
from tests.faults.subjects import Reference, Subject, make_data

FAULTS = ("kill", "kill-start", "signal", "signal-start", "second-interrupt", "disk", "read-only", "damage")
_SIZES = (2, 1, 2, 4)
"""Processes of the sequences in turn."""
_KILLS, _STARTS, _SIGNALS = 6, 5, 4
"""Faults of one sequence, which is finished and compared at their end."""


@dataclass(frozen=True)
class Sequence:
    """Some faults on runs of one size. What is drawn in it depends on seed and name alone."""

    name: str
    fault: str
    processes: int
    run: "Callable[[Bench, random.Random], list[Event]]"


class Bench:
    """Where a sequence happens: its folder, its data and the undisturbed run."""

    def __init__(self, folder: Path, data: Path, processes: int, reference: Reference) -> None:
        self.folder = folder
        self.data = data
        self.processes = processes
        self.reference = reference
        self._numbers = count(1)

    def subject(self) -> Subject:
        """A run that has not begun."""
        return Subject(self.folder / f"run-{next(self._numbers)}", self.data, self.processes, by_command)

    def subject_at(self, path: Path, extra: tuple[str, ...]) -> Subject:
        return Subject(path, self.data, self.processes, by_command, extra, logs=self.folder)


def kill_aims(number: int, processes: int, rng: random.Random) -> list[Aim]:
    """A third inside a save and a sixth at a phase change, where the whole run dies at once; the others anywhere."""
    several = processes > 1
    aims = []
    for i in range(number):
        moment, late = (IN_SAVE, ANYWHERE, AT_CHANGE, ANYWHERE, IN_SAVE, ANYWHERE)[i % 6], i % 6 == 4
        targets = (ALL, LAUNCHER) if moment == IN_SAVE else (ALL, ONE, LAUNCHER)
        aims.append(Aim(moment, rng.choice(targets) if several else ALL, late))
    rng.shuffle(aims)
    return aims


def plan(kills: int, signals: int) -> Iterator[Sequence]:
    """All sequences. A longer campaign contains a shorter one, but for the shorter one's last sequences."""
    for name, size, number in _chunks("kill", kills, _KILLS):
        yield Sequence(name, "kill", size, partial(_kill, number))
    for name, size, number in _chunks("kill-start", max(1, kills // 5), _STARTS):
        yield Sequence(name, "kill-start", size, partial(_kill_start, number))
    for name, size, number in _chunks("signal", signals, _SIGNALS):
        yield Sequence(name, "signal", size, partial(_stop, ASKED, number))
    for name, size, number in _chunks("signal-start", max(1, signals // 5), _SIGNALS):
        yield Sequence(name, "signal-start", size, partial(_stop, ASKED_AT_START, number))
    for size in (2, 1):
        yield Sequence(f"second-interrupt-{size}", "second-interrupt", size, _interrupt)
    for fault in (SAVE_FAILS, SAVES_FAIL, NO_BYTE_FREE, TOO_SMALL, READ_ONLY):
        group = "read-only" if fault == READ_ONLY else "disk"
        yield Sequence(f"{group}-{fault.replace(',', '').replace(' ', '-')}", group, 2, partial(_disk, fault))
    for size in (2, 1, 4):
        for file in range(size + 1) if size < 4 else (0, size):
            yield Sequence(f"damage-{size}-{file}", "damage", size, partial(_damage, file))


def _chunks(name: str, number: int, most: int) -> Iterator[tuple[str, int, int]]:
    """Names, processes and lengths of the sequences into which `number` faults are cut."""
    for index, first in enumerate(range(0, number, most)):
        length = min(most, number - first)
        yield f"{name}-{index:02d}-{length}", _SIZES[index % len(_SIZES)], length


def _kill(number: int, bench: Bench, rng: random.Random) -> list[Event]:
    return kill_repeatedly(bench.subject, kill_aims(number, bench.processes, rng), bench.reference, rng)


def _kill_start(number: int, bench: Bench, rng: random.Random) -> list[Event]:
    targets = (ALL, ONE, LAUNCHER) if bench.processes > 1 else (ALL,)
    aims = [Aim(AT_START, rng.choice(targets)) for _ in range(number)]
    aims.insert(1, Aim(ANYWHERE, rng.choice(targets)))  # the first start has nothing to resume from, the others have
    return kill_repeatedly(bench.subject, aims, bench.reference, rng)


def _stop(kind: str, number: int, bench: Bench, rng: random.Random) -> list[Event]:
    return stop_repeatedly(kind, bench.subject, requests(number, bench.processes, rng), bench.reference, rng)


def _interrupt(bench: Bench, rng: random.Random) -> list[Event]:
    wanted = [(int(signal.SIGINT), LAUNCHER)] * 2
    return stop_repeatedly(SECOND_INTERRUPT, bench.subject, wanted, bench.reference, rng)


def _disk(fault: str, bench: Bench, rng: random.Random) -> list[Event]:
    return [try_disk(fault, bench.folder, bench.subject_at, bench.reference, rng)]


def _damage(file: int, bench: Bench, rng: random.Random) -> list[Event]:
    return damage_repeatedly(bench.subject, [(file, way) for way in WAYS], bench.reference, rng)


def run_campaign(
    work: Path, seed: int, kills: int, signals: int, only: str | None, say: Callable[[str], None]
) -> list[Event]:
    """Runs what is not done yet and returns the events of the whole plan."""
    work.mkdir(parents=True, exist_ok=True)
    data = make_data(work / "data")
    results = Results(work / f"results-{seed}.jsonl")
    wanted = [sequence for sequence in plan(kills, signals) if only in (None, sequence.fault)]
    references: dict[int, Reference] = {}
    for number, sequence in enumerate(wanted, 1):
        if results.has(sequence.name):
            continue
        begin = time.monotonic()
        size = sequence.processes
        if size not in references:
            references[size] = Reference.of(Subject(work / f"undisturbed-{size}", data, size, by_command))
        folder = work / "now"
        release(folder / DISK)
        shutil.rmtree(folder, ignore_errors=True)
        bench = Bench(folder, data, size, references[size])
        events = sequence.run(bench, random.Random(f"{seed} {sequence.name}"))
        if any(event.problems for event in events):
            kept = work / "problems" / sequence.name
            shutil.rmtree(kept, ignore_errors=True)
            kept.parent.mkdir(exist_ok=True)
            folder.rename(kept)  # to be looked at
        results.add(sequence.name, events)
        fine, seconds = sum(not event.problems for event in events), time.monotonic() - begin
        say(f"{number}/{len(wanted)} {sequence.name}: {fine} of {len(events)} survived, {seconds:.0f} s")
    shutil.rmtree(work / "now", ignore_errors=True)
    names = {sequence.name for sequence in wanted}
    return [event for event in results.events if event.sequence in names]
