"""Findings about a source before anything is decoded: what is used, what is skipped, and what cannot be used."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

from data_pipelines.images.sources.formats import HEAD_BYTES, judge, may_be_image

EXAMPLES = 3
"""Names that are kept of files that are skipped."""

LABELS_NAME = "dataset.json"

_SYSTEM_NAMES = frozenset(
    ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "#recycle", "$recycle.bin", "lost+found")
    + ("system volume information", "icon\r")
)
_LINE_BREAKS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or belongs to an operating system."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def shown_name(name: str) -> str:
    """A name as it can be printed and stored as text: control characters and bytes that are no UTF-8 as escapes."""
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text
    )


@dataclass(frozen=True)
class PassedOver:
    """Files of one kind that are no images and were not meant as such."""

    files: int
    examples: tuple[str, ...]
    """Names of the first few."""

    def names(self) -> str:
        return ", ".join(self.examples) + ", ..." * (self.files > len(self.examples))


@dataclass
class Findings:
    """Findings about a source, gathered file by file."""

    kind: str = ""
    """What the source is: `folder`, `zip`, `tar`, ..."""
    formats: "Counter[str]" = field(default_factory=Counter)
    """How many images of each format are taken."""
    passed_over: dict[str, PassedOver] = field(default_factory=dict)
    """By the name for such files."""
    problems: dict[int, str] = field(default_factory=dict)
    """Positions in the listing of files that cannot be used, and why: the rest of a sentence about each."""
    left_out: set[int] = field(default_factory=set)
    """Positions in the listing of images that are skipped: they have no place in a split or a class."""
    out_of_reach: list[str] = field(default_factory=list)
    """Files and folders that could not be read for reasons of the machine: `NAME (reason)`."""
    notes: list[str] = field(default_factory=list)
    """Further remarks, each a line."""
    advice: str = ""
    """Advice for a source without images."""

    def pass_over(self, what: str, name: str) -> None:
        before = self.passed_over.get(what, PassedOver(0, ()))
        examples = before.examples if before.files >= EXAMPLES else (*before.examples, shown_name(name))
        self.passed_over[what] = PassedOver(before.files + 1, examples)

    def take(
        self, position: int, name: str, size: int, head: bytes | None, unusable: str | None = None, meant: bool = False
    ) -> bool:
        """Lists a file, at `position`, as an image or as a problem, and returns True; or skips it and returns False.

        `head`: its first HEAD_BYTES bytes, None when they cannot be had because it is `unusable`. `meant`: it is an
        image whatever its name.
        """
        if head is None:
            if not meant and not may_be_image(name):
                self.pass_over("files of other kinds", name)
                return False
            self.problems[position] = unusable or "cannot be read"
            return True
        verdict = judge(name, size, head[:HEAD_BYTES], meant)
        if verdict.passed_over is not None:
            self.pass_over(verdict.passed_over, name)
            if verdict.format.role in ("data", "media", "document"):
                self.advice = self.advice or verdict.format.advice
            return False
        if _LINE_BREAKS.search(name):
            self.problems[position] = "has a line break in its name (rename it)"
        elif unusable is not None or verdict.problem is not None:
            self.problems[position] = unusable or verdict.problem or ""
        else:
            self.formats[verdict.format.name] += 1
        return True

    def nothing(self, hint: str) -> str:
        """The message that there is no image, and what to do: the rest of a sentence about the source."""
        remarks = "; ".join([*([f"skipped: {self.summary()}"] if self.passed_over else []), *self.notes])
        return f"holds no images{f' ({remarks})' * bool(remarks)}: {self.advice or hint}"

    def summary(self) -> str:
        """The skipped files, as part of a line: `text files: 12 (README.md, ...), PDF files: 1 (a.pdf)`."""
        return ", ".join(f"{what}: {found.files:,} ({found.names()})" for what, found in self.passed_over.items())
