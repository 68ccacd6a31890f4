"""Rows of JSON: whole ones alone are read, and a resumed run's are cut back."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sivae_dist.run.jsonl import Rows, append_rows, last_row, read_rows
from tests.disks import no_room


@pytest.mark.parametrize("rest", ["", '{"a": 3', '{"a": 3}\n[1]\n7\n', "\n", "\x00\x00"])
def test_readers_see_whole_rows_alone(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "rows.jsonl"
    assert read_rows(path) == [] and last_row(path) is None
    append_rows(path, [{"a": 1, "b": 1}, {"a": 2}])
    with path.open("a") as file:
        file.write(rest)
    want = [{"a": 1, "b": 1}, {"a": 2}, *([{"a": 3}] if rest.startswith('{"a": 3}') else [])]
    assert read_rows(path) == want
    assert last_row(path) == want[-1]
    assert last_row(path, lambda row: "b" in row) == want[0]
    assert last_row(path, lambda row: "c" in row) is None


def test_the_last_row_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, ({"number": number, "text": "x" * 100} for number in range(1000)))
    assert path.stat().st_size > 1 << 16
    row = last_row(path)
    assert row is not None and row["number"] == 999
    assert last_row(path, lambda row: row["number"] == 0) is None  # too far from the end


@pytest.mark.parametrize("durable", [False, True])
def test_rows_are_appended_at_once(tmp_path: Path, durable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path, events = tmp_path / "new" / "rows.jsonl", []

    def noted(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any) -> Any:
            events.append(name)
            return real(*arguments)

        return call

    for name in ("write", "fsync"):
        monkeypatch.setattr(os, name, noted(name))
    append_rows(path, [{"a": 1}, {"a": 2}], durable=durable)
    monkeypatch.undo()
    assert events == ["write", *["fsync"] * durable]
    assert read_rows(path) == [{"a": 1}, {"a": 2}]


def test_what_follows_a_row_that_was_cut_short_is_not_lost_with_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [{"a": 1}])
    with no_room(path.stat().st_size + 3), pytest.raises(OSError, match="File too large"):
        append_rows(path, [{"a": 2}])
    assert path.read_text() == '{"a": 1}\n{"a'
    append_rows(path, [{"a": 3}])
    assert read_rows(path) == [{"a": 1}, {"a": 3}]


# Those of a run, with the number of images.


def write(path: Path, start: int, *images: int, **values: Any) -> None:
    rows = Rows(path, start)
    for count in images:
        rows.write(count, values)
    rows.sync()
    rows.close()


def test_rows(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", 0, 100, 200, loss=0.5)
    assert read_rows(tmp_path / "rows.jsonl") == [{"images": 100, "loss": 0.5}, {"images": 200, "loss": 0.5}]


def test_rows_can_be_read_as_they_are_written(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl", 0)
    rows.write(100, {"a": 1})
    assert read_rows(tmp_path / "rows.jsonl") == [{"images": 100, "a": 1}]
    rows.close()


@pytest.mark.parametrize("rest", ["", '{"images": 250, "lo', '{"images": 1', "\x00\x00\x00"])
@pytest.mark.parametrize(
    ("start", "kept"), [(0, []), (99, []), (100, [100]), (250, [100, 200]), (300, [100, 200, 300])]
)
def test_rows_are_cut_back_on_resume(tmp_path: Path, start: int, kept: list[int], rest: str) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, 0, 100, 200, 300, loss=1)
    whole = path.read_text().splitlines(keepends=True)
    with open(path, "a") as file:
        file.write(rest)
    write(path, start, start + 50, loss=2)
    expected = [line for line, images in zip(whole, (100, 200, 300), strict=True) if images in kept]
    expected.append(json.dumps({"images": start + 50, "loss": 2}) + "\n")
    assert path.read_text() == "".join(expected)  # what is kept stays byte for byte
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_last_row_without_end_of_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, 0, 100, 200)
    path.write_text(path.read_text().rstrip("\n"))
    write(path, 200, 300)
    assert [row["images"] for row in read_rows(path)] in ([100, 300], [100, 200, 300])


def test_rows_without_room_wait_for_it_and_no_checkpoint_can_pass_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = Rows(path, 0)
    rows.write(100, {"a": 1})
    whole = path.stat().st_size
    with no_room(whole + 5):  # the next row is cut in the middle
        rows.write(200, {"a": 2})
        rows.write(300, {"a": 3})
        with pytest.raises(OSError, match=r"rows\.jsonl"):
            rows.sync()
        assert path.stat().st_size == whole + 5
    rows.sync()
    rows.write(400, {"a": 4})
    rows.close()
    assert read_rows(path) == [{"images": 100 * i, "a": i} for i in (1, 2, 3, 4)]


def test_rows_that_nobody_depends_on_are_told_of_once(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "folder").mkdir()  # as good as a file of another user
    rows = Rows(tmp_path / "folder", 0, told.append)
    rows.write(1, {"a": 1})
    rows.sync()
    rows.close()
    assert told == [f"warning: {tmp_path / 'folder'} cannot be written for now: Is a directory"]
    full = Rows(tmp_path / "speed.jsonl", 0, told.append)
    with no_room(0):
        full.write(1, {"a": 1})
        full.write(2, {"a": 2})
    assert len(told) == 2 and "speed.jsonl cannot be written for now: " in told[1]
    full.write(3, {"a": 3})  # there is room again
    full.close()
    assert [row["images"] for row in read_rows(tmp_path / "speed.jsonl")] == [1, 2, 3]
