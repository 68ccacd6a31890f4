"""Nothing is silent for long at a start."""

import time

import pytest

from sivae_dist.process import startup


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "SECONDS", 0.2)
    monkeypatch.setattr(startup, "_LOOK", 0.01)


def wait_for(capsys: pytest.CaptureFixture[str], line: str) -> str:
    """Until a line is said; all that is said up to it."""
    said, end = "", time.monotonic() + 20
    while line not in said:
        assert time.monotonic() < end, said
        time.sleep(0.01)
        said += capsys.readouterr().err
    return said


def test_what_lasts_is_named_and_what_follows_too(capsys: pytest.CaptureFixture[str]) -> None:
    with startup.speaking("loading PyTorch"):
        startup.doing("opening data")
        assert wait_for(capsys, "opening data ...\n") == "opening data ...\n"  # not what had passed before it was due
        startup.doing("building the networks")
        wait_for(capsys, "building the networks ...\n")
        wait_for(capsys, "building the networks ... ")  # and for how long, when it goes on lasting
        startup.done()
        startup.doing("training")
        time.sleep(0.5)
    startup.doing("nothing")
    assert "training" not in capsys.readouterr().err


def test_what_is_quick_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with startup.speaking("loading PyTorch"):
        startup.doing("opening data")
    assert capsys.readouterr().err == ""
