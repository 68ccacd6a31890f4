"""The short campaign of faults: runs killed again and again at seeded random moments end as if undisturbed.

`python -m tests.faults` is the long one.
"""

import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import count

import pytest

from tests.faults.attempts import ALL, LAUNCHER, ONE, Start, by_command, forked
from tests.faults.kills import ANYWHERE, AT_CHANGE, AT_START, IN_SAVE, Aim, kill_repeatedly
from tests.faults.results import Event
from tests.faults.subjects import Reference, Subject, make_data

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # they take two minutes; a machine under load may take more

Campaign = Callable[[int, Start, list[Aim]], list[Event]]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """Kills runs of that many processes, started like that, as aimed; all must end as one undisturbed run did."""
    folder = tmp_path_factory.mktemp("faults")
    data = make_data(folder / "data")
    numbers = count()

    @cache
    def reference(processes: int) -> Reference:
        return Reference.of(Subject(folder / f"undisturbed-{processes}", data, processes, forked))

    def run(processes: int, start: Start, aims: list[Aim]) -> list[Event]:
        def subject() -> Subject:
            return Subject(folder / f"run-{next(numbers)}", data, processes, start)

        rng = random.Random(processes)
        rng.shuffle(aims)
        events = kill_repeatedly(subject, aims, reference(processes), rng)
        assert not [event for event in events if event.problems], [event for event in events if event.problems]
        return events

    return run


def found(events: list[Event]) -> Counter[str]:
    """How many kills hit which moment, by what they left."""
    return Counter(evidence for event in events for evidence in event.evidence)


@pytest.mark.parametrize("processes", [2, 4])
def test_runs_killed_at_any_moment_end_as_if_undisturbed(campaign: Campaign, processes: int) -> None:
    aims = [Aim(IN_SAVE, ALL), Aim(IN_SAVE, ALL, late=True)] * 2 + [Aim(AT_CHANGE, ALL)] * 2
    aims += [Aim(ANYWHERE, ALL), Aim(ANYWHERE, ONE)] * 2
    events = campaign(processes, forked, aims)
    assert len(events) >= 10
    assert found(events)[IN_SAVE] >= 3
    assert found(events)[AT_CHANGE] >= 2
    assert {event.fault for event in events} == {f"kill -9 of {ALL}", f"kill -9 of {ONE}"}
    assert any(event.lost for event in events)  # work is done again, and yet nothing differs


def test_commands_killed_in_a_save_in_a_start_or_by_one_process_are_continued(campaign: Campaign) -> None:
    events = campaign(2, by_command, [Aim(IN_SAVE, LAUNCHER), Aim(ANYWHERE, ONE), Aim(AT_START, ALL)])
    assert len(events) >= 3
    assert found(events)[IN_SAVE] >= 1
    assert found(events)[AT_START] >= 1
    told = [event.told for event in events if event.fault == f"kill -9 of {ONE}"]
    assert told and all("was killed by SIGKILL" in line for line in told)
