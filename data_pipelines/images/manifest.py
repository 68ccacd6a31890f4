"""The description of a prepared data set: levels, shards, counts and checksums, kept in its manifest.json; and how its
files are written.

A prepared data set is a directory:

    manifest.json               this file's `Manifest`
    names.txt                   the source's name of every sample, one a line
    labels.npy                  int64 [samples], only when the source is labelled
    0004/shard-00000.npy        small levels: uint8 [n, C, H, W]
    0064/shard-00000.tar        larger levels: a WebDataset tar of PNG or JPEG members
    0064/shard-00000.index.npy  where each image member of that tar lies, see `INDEX_DTYPE`

Samples are numbered from 0; the training samples come first, then the test samples. Shard k holds the same
samples in the same order at every level.
"""

import hashlib
import json
import os
import re
import stat
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from data_pipelines.images.circumstances import explained, is_circumstance
from data_pipelines.problems import first_error, short

MANIFEST_NAME = "manifest.json"

MAX_MANIFEST_BYTES = 1 << 28
"""No manifest is larger: this is enough for two million files."""

MAX_RESOLUTION = 4096
"""What a manifest claims is believed up to here: a reader makes room for an image before it has seen one."""

INDEX_DTYPE = [("offset", "<u8"), ("size", "<u8"), ("crc", "<u4")]
"""One row per image of a tar shard: first byte, number of bytes, and CRC-32 of those bytes."""

Split = Literal["train", "test"]
Count = Annotated[int, Field(ge=0, lt=1 << 60)]


def is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(_Strict):
    """A file of the data set: its name relative to the root (with `/`), its size and its checksum."""

    name: Annotated[str, Field(max_length=200)]
    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @field_validator("name")
    @classmethod
    def _stay_inside(cls, name: str) -> str:
        # A manifest may come from elsewhere: nothing in it may lead out of the data set's directory.
        parts = name.split("/")
        if not re.fullmatch(r"[A-Za-z0-9._/-]+", name) or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"{name!r} is not a plain file name inside the data set")
        return name


class OutputFile:
    """A file of a data set that appears under its name only when it is whole, hashed on the way.

    As a context manager it removes what is unfinished when `finish` was not reached.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.bytes = 0
        self._path = root / name
        self._path.parent.mkdir(exist_ok=True)
        self._temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        self._hash = hashlib.sha256()
        self._file = self._temporary.open("wb")
        self._discarded = False

    def write(self, data: bytes) -> int:
        if self._discarded:  # a tar that was given up may still flush into it when it is collected
            return len(data)
        self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)
        return len(data)

    def finish(self) -> FileRecord:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self._path)
        return FileRecord(name=self.name, bytes=self.bytes, sha256=self._hash.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._discarded = True
        try:
            self._file.close()
        except OSError:  # a full disk refuses the last buffered bytes, which are not wanted
            pass
        self._temporary.unlink(missing_ok=True)


def write_file(root: Path, name: str, data: bytes) -> FileRecord:
    """Write a whole file at once or not at all."""
    with OutputFile(root, name) as output:
        output.write(data)
        return output.finish()


class Shard(_Strict):
    """The number of samples in a shard, and their split."""

    samples: Annotated[Count, Field(gt=0)]
    split: Split


class Level(_Strict):
    """All samples at one resolution. `files` has one record per shard; so has `indexes` when kind is tar."""

    kind: Literal["array", "tar"]
    format: Literal["npy", "png", "jpeg"]
    files: tuple[FileRecord, ...]
    indexes: tuple[FileRecord, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.kind == "array") != (self.format == "npy"):
            raise ValueError(f"a level of kind {self.kind} cannot have format {self.format}")
        if len(self.indexes) != (len(self.files) if self.kind == "tar" else 0):
            raise ValueError(f"a level of kind {self.kind} has {len(self.indexes)} index files")
        return self

    @property
    def total_bytes(self) -> int:
        return sum(record.bytes for record in self.files + self.indexes)


class PassedOverFiles(_Strict):
    """Files of the source of one kind that are no images."""

    files: Count
    examples: tuple[str, ...] = ()
    """Names of the first few."""


class RemarkedImages(_Strict):
    """Images that a remark is true of."""

    images: Count
    examples: tuple[str, ...] = ()
    """Names of the first few."""

    def counted(self) -> str:
        return f"{self.images:,} image{'s' * (self.images != 1)}"

    def named(self) -> str:
        return ", ".join(self.examples) + ", ..." * (self.images > len(self.examples))


class SourceReport(_Strict):
    """Findings about the source."""

    kind: str
    """What it was: `folder`, `zip`, `tar`, ..."""
    formats: dict[str, Count] = {}
    """Images of each format."""
    passed_over: dict[str, PassedOverFiles] = {}
    """By the name for such files."""
    notes: tuple[str, ...] = ()
    """Which folders were taken for a split, links that were not followed and the like."""
    skipped: dict[str, str] = {}
    """By name, why a file was left out: the rest of a sentence about it."""


class Manifest(_Strict):
    """The description of a prepared data set."""

    format: Literal["sivae-data"] = "sivae-data"
    version: Literal[1] = 1
    resolution: Annotated[int, Field(le=MAX_RESOLUTION)]
    """Side of the largest level in pixels, a power of two."""
    channels: Literal[1, 3]
    samples: Annotated[Count, Field(gt=0)]
    train: Count
    """Samples [0, train) are for training."""
    test: Count
    """Samples [train, samples) are for testing."""
    classes: tuple[str, ...] = ()
    """Names of the labels 0, 1, ...; empty when the data set has no labels."""
    shards: tuple[Shard, ...]
    """Training shards first; a shard never mixes splits."""
    levels: dict[int, Level]
    """From resolution to level."""
    names: FileRecord
    labels: FileRecord | None = None
    source: str
    """Where the images came from."""
    settings: dict[str, JsonValue] = {}
    """How they were prepared."""
    skipped: tuple[str, ...] = ()
    """Names of the source's files that could not be read and were left out."""
    remarks: dict[str, RemarkedImages] = {}
    """What was converted, ignored or taken in part, such as "animated, of which the first frame was taken"."""
    found: SourceReport | None = None
    """Findings about the source; None in sets made by earlier versions."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        splits = [shard.split for shard in self.shards]
        if splits != sorted(splits, reverse=True):
            raise ValueError("training shards must come before test shards")
        for split, count in (("train", self.train), ("test", self.test)):
            held = sum(shard.samples for shard in self.shards if shard.split == split)
            if held != count:
                raise ValueError(f"{split} is {count} but its shards hold {held} samples")
        if self.train + self.test != self.samples:
            raise ValueError(f"train {self.train} + test {self.test} is not samples {self.samples}")
        if not self.levels or max(self.levels) != self.resolution:
            raise ValueError(f"the largest level must be resolution {self.resolution}")
        for resolution, level in self.levels.items():
            if not is_power_of_two(resolution):
                raise ValueError(f"level {resolution} is not a power of two")
            if len(level.files) != len(self.shards):
                raise ValueError(f"level {resolution} needs {len(self.shards)} files, one per shard")
        if bool(self.classes) != (self.labels is not None):
            raise ValueError("classes and labels must be given together")
        seen = {MANIFEST_NAME}
        for record in self.records():
            if record.name in seen:
                raise ValueError(f"{record.name} is the name of two files")
            seen.add(record.name)
        return self

    def records(self) -> list[FileRecord]:
        """All files of the data set besides the manifest."""
        shards = [record for level in self.levels.values() for record in level.files + level.indexes]
        return [self.names, *([self.labels] if self.labels else []), *shards]

    @cached_property
    def shard_starts(self) -> tuple[int, ...]:
        """First sample number of every shard, then the number of samples: one more entry than shards."""
        return (0, *accumulate(shard.samples for shard in self.shards))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest's canonical JSON. It changes whenever any byte of the data set does, but not
        with what its source was and where."""
        content = self.model_dump(mode="json", exclude={"source", "remarks", "found"})
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"

    def write(self, root: Path) -> None:
        """Write root/manifest.json at once or not at all."""
        write_file(root, MANIFEST_NAME, self.to_json().encode())

    @classmethod
    def load(cls, root: Path | str) -> Self:
        """Read root/manifest.json.

        Raises FileNotFoundError when there is none and ValueError when it is not a valid manifest of this
        version, each with one line that says what to do; CircumstanceError when the machine cannot read it.
        """
        root = Path(root)
        path = root / MANIFEST_NAME
        try:
            with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:  # no pipes
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise ValueError(f"{path} is not a regular file")
                text = file.read(MAX_MANIFEST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(_missing(root)) from None
        except OSError as error:
            if is_circumstance(error):
                raise explained(str(path), error) from None
            raise
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: bytes, name: str) -> Self:
        """A manifest from its JSON. Raises ValueError as `load`, calling it `name`."""
        if len(text) > MAX_MANIFEST_BYTES:
            raise ValueError(f"{name} is larger than any manifest: prepare the data set again")
        try:
            content = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
        except UnicodeDecodeError:
            raise ValueError(f"{name} is damaged (not UTF-8 text): prepare the data set again") from None
        except RecursionError:
            raise ValueError(f"{name} is damaged (nested too deeply): prepare the data set again") from None
        except ValueError as error:  # of the parser, of Python for huge numbers, or of the functions given to it
            raise ValueError(f"{name} is damaged ({short(str(error))}): prepare the data set again") from None
        if not isinstance(content, dict) or content.get("format") != "sivae-data":
            raise ValueError(f"{name} does not describe a data set made by `sivae data prepare`")
        if content.get("version") != 1:
            raise ValueError(
                f"{name} has version {short(repr(content.get('version')))} but this program reads version 1: "
                "prepare the data set again or use the program that made it"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            reason = first_error(error)
            raise ValueError(f"{name} is not valid ({reason}): prepare the data set again") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a name that is given twice, every program would take another value."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name is given twice in one object")
    return content


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _missing(root: Path) -> str:
    partial = root.with_name(f"{root.name}.partial")
    if partial.is_dir():
        return f"{root} is not finished: run the `sivae data prepare` command that made {partial} again"
    return f"no prepared data set at {root} ({MANIFEST_NAME} is missing): make it with `sivae data prepare`"
