"""What one process does must not leave the others behind."""

import pytest
import torch
import torch.distributed as dist

from sivae_dist.process.processes import PeerError, everyone, is_of_lost_peer, on_first, rank
from tests.helpers import on_processes


def _fails_on_one() -> tuple[str, str]:
    def action() -> int:
        if rank() == 1:
            raise OSError("no space left")
        return rank()

    try:
        everyone(action)
    except (PeerError, OSError) as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def _loses_a_peer() -> str:
    try:
        dist.all_reduce(torch.zeros(1))  # which may find the other gone as well
        if rank() == 1:
            dist.destroy_process_group()  # its connections end as with a process that is killed
            return "gone"
        for _ in range(100):
            dist.all_reduce(torch.zeros(1))
    except RuntimeError as error:
        return f"lost: {is_of_lost_peer(error)}"
    return "nothing"


def test_all_results_by_rank() -> None:
    assert everyone(lambda: rank()) == [0]
    assert on_processes(2, everyone, rank) == [[0, 1], [0, 1]]
    assert on_processes(2, on_first, rank) == [0, 0]


def test_an_error_on_one_is_raised_on_all() -> None:
    first, second = on_processes(2, _fails_on_one)
    assert first == ("PeerError", "process 1 failed: OSError: no space left")
    assert second == ("OSError", "no space left")


def test_a_lost_peer_is_told_from_other_errors() -> None:
    assert on_processes(2, _loses_a_peer) == ["lost: True", "gone"]
    assert not is_of_lost_peer(RuntimeError("Timed out waiting 1800000ms for recv operation to complete"))
    assert not is_of_lost_peer(OSError("Broken pipe"))


@pytest.mark.parametrize("words", ["Connection closed by peer", "remote process exited or there was a network error"])
def test_what_backends_say(words: str) -> None:
    assert is_of_lost_peer(dist.DistBackendError(f"[Rank 0] {words}"))
