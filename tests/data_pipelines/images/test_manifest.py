import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.images.manifest import FileRecord, Level, Manifest, Shard

SHA = "0" * 64


def record(name: str) -> FileRecord:
    return FileRecord(name=name, bytes=10, sha256=SHA)


def make(**changes: object) -> Manifest:
    content: dict[str, object] = {
        "resolution": 8,
        "channels": 3,
        "samples": 5,
        "train": 3,
        "test": 2,
        "shards": (Shard(samples=3, split="train"), Shard(samples=2, split="test")),
        "levels": {
            4: Level(kind="array", format="npy", files=(record("0004/a.npy"), record("0004/b.npy"))),
            8: Level(
                kind="tar",
                format="png",
                files=(record("0008/a.tar"), record("0008/b.tar")),
                indexes=(record("0008/a.index.npy"), record("0008/b.index.npy")),
            ),
        },
        "names": record("names.txt"),
        "source": "somewhere",
    }
    return Manifest.model_validate(content | changes)


def test_round_trip(tmp_path: Path) -> None:
    manifest = make()
    manifest.write(tmp_path)
    loaded = Manifest.load(tmp_path)
    assert loaded == manifest
    assert loaded.digest == manifest.digest
    assert loaded.shard_starts == (0, 3, 5)
    assert loaded.levels[8].total_bytes == 40


def test_digest_follows_every_checksum() -> None:
    other = make(names=FileRecord(name="names.txt", bytes=10, sha256="1" * 64))
    assert other.digest != make().digest


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a//b", "./a", "", "a\\b", "a\n", "a\0"])
def test_unsafe_names_are_refused(tmp_path: Path, name: str) -> None:
    content = json.loads(make().to_json())
    content["levels"]["4"]["files"][0]["name"] = name
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is not a plain file name") as error:
        Manifest.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": 4}, "its shards hold 3"),
        ({"samples": 6}, "is not samples 6"),
        ({"shards": (Shard(samples=2, split="test"), Shard(samples=3, split="train"))}, "before test"),
        ({"resolution": 16}, "largest level"),
        ({"classes": ("a",)}, "together"),
        ({"colour": 1}, "colour"),
        ({"names": record("0004/a.npy")}, r"0004/a\.npy is the name of two files"),
        ({"names": record("manifest.json")}, r"manifest\.json is the name of two files"),
        ({"resolution": 1 << 20}, "less than or equal to 4096"),
        ({"samples": 1 << 70}, "samples\n.*less than"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no prepared data set at .*sivae data prepare"):
        Manifest.load(tmp_path / "set")
    (tmp_path / "set.partial").mkdir()
    with pytest.raises(FileNotFoundError, match=r"not finished.*set\.partial again"):
        Manifest.load(tmp_path / "set")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged"),
        ("[]", "does not describe"),
        ('{"format": "sivae-data", "version": 2}', "version 2"),
        ('{"format": "sivae-data", "version": 1}', "not valid"),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 5000, "damaged"),
        ('{"a": NaN}', "NaN is not JSON"),
        ('{"a": 1, "a": 2}', "given twice"),
        ('{"format": "sivae-data", "version": "' + "x" * 1_000_000 + '"}', "version 'xxx"),
        ('{"format": "sivae-data", "version": 1, "' + "x\\n" * 1_000_000 + '": 1}', "not valid"),
    ],
)
def test_bad_manifest(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        Manifest.load(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_deep_settings_are_refused(tmp_path: Path) -> None:
    """They could be loaded, and would fail later, when the digest is taken."""
    content = json.loads(make().to_json()) | {"settings": {"a": json.loads("[" * 500 + "]" * 500)}}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"manifest\.json is not valid \(settings") as error:
        Manifest.load(tmp_path)
    assert len(str(error.value)) < 1000


def test_what_is_no_file_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make().write(tmp_path)
    monkeypatch.setattr("data_pipelines.images.manifest.MAX_MANIFEST_BYTES", 100)
    with pytest.raises(ValueError, match=r"manifest\.json is larger than any manifest"):
        Manifest.load(tmp_path)
    (tmp_path / "manifest.json").unlink()
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(ValueError, match=r"manifest\.json is not a regular file"):
        Manifest.load(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(IsADirectoryError, match=r"manifest\.json"):
        Manifest.load(tmp_path)


def test_import_is_light() -> None:
    code = (
        "import sys, data_pipelines.images.manifest as _; "
        "print([m for m in ('torch', 'webdataset', 'cv2', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
