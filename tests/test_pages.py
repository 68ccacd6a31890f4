"""What README and docs/ show can be typed: every command line, option and KEY=VALUE, as a shell hands them over."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer import BadParameter
from typer.exceptions import TyperException

from launch.cli import app
from sivae_dist.config.run_settings import load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = typer.main.get_command(app)

PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]*\b|\.\.\.|\.json\b")
"""`RUN`, `FILE.png`, `KEY=VALUE ...`, a file: what a reader puts something in the place of."""

KINDS = (
    [], ["engine={name: zero}"], ["objective={name: intro, margin: 40}"], ["objective={name: vae}"],
    ["model={name: translation}", "objective.style_mixing=0", "schedule.epochs=1"],
    ["schedule.epochs=null", "schedule.images={4: 1k, 8: 1k, 16: 1k, 32: 1k, 64: 1k, 128: 1k, 256: 1k}"],
    ["model={name: residual}", "objective.style_mixing=0"], ["data={name: points, distribution: 8gaussians}"],
)  # fmt: skip
"""What a setting that is named by itself may belong to."""


def spans(page: Path) -> Iterator[tuple[str, bool]]:
    """Lines of code, without prompts and line breaks behind a backslash; and what stands in backticks, with True."""
    text = page.read_text().replace("\\\n", " ")
    for block in re.findall(r"(?:^    .*\n)+|^```.*?^```", text, re.M | re.S):
        for line in block.splitlines():
            yield line.strip().removeprefix("$ "), False
    for span in re.findall(r"`([^`\n]+)`", text):
        yield span, True


def words_of(span: str) -> list[str]:
    """As a shell splits it."""
    words = shlex.split(span, comments=True)
    stop = next((k for k, word in enumerate(words) if word in ("&&", "|", ";", ">", "&")), len(words))
    return words[:stop]


MODULES = {name for page in PAGES for name in re.findall(r"^# (\w+\.py)$", page.read_text(), re.MULTILINE)}
"""Files that the pages tell to write."""


def commands() -> list[tuple[str, str, bool]]:
    """Page, command line, and whether it stands in a sentence, where it may be a part of one."""
    found = [(page.name, *span) for page in PAGES for span in spans(page) if span[0].startswith("sivae ")]
    return list(dict.fromkeys(found))


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the first words name, and the words behind."""
    command: Any = COMMAND
    while is_group(command) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def is_group(command: Any) -> bool:
    return hasattr(command, "commands")


def check_overrides(config: str, assignments: list[str]) -> None:
    """Those with nothing to fill in are valid for the configuration, or for one kind where none is named."""
    typed = [one for one in assignments if not PLACEHOLDER.search(one)]
    if config and not PLACEHOLDER.search(config) and not config.endswith(".yaml"):
        load_config(config, typed)
        return
    problems = []
    for kind in KINDS:
        try:
            load_config("ffhq256", [*kind, *typed])
        except ValueError as error:
            problems.append(str(error))
    assert len(problems) < len(KINDS), problems[0]


def check(line: str, mention: bool = False) -> None:
    """AssertionError, ValueError or an error of usage unless the line can be typed, or be a part of one that can."""
    words = words_of(re.sub(r"[\[\]]", " ", line) if is_synopsis(line) else line)
    command, arguments = command_of(words[1:])
    if is_synopsis(line) or is_group(command):
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        options |= {"--help", "--version"}
        assert not (unknown := [word for word in arguments if word.startswith("-") and word not in options]), unknown
        return
    try:
        context = command.make_context(command.name, [re.sub(r"^N$", "1", word) for word in arguments])
    except BadParameter as error:
        if not mention or "Missing" not in error.format_message():
            raise
        return  # its options were understood before
    overrides = [one for one in context.params.get("overrides") or [] if "=" in one]
    if named := context.params.get("imports"):  # which tests run, with what they import; here it has to be on a page
        known = [name for name in named if PLACEHOLDER.search(name) or name.startswith("my_") or name in MODULES]
        assert known == list(named)
        return
    check_overrides(str(context.params.get("config") or ""), overrides)


def is_synopsis(line: str) -> bool:
    """Whether it shows what may be given, with brackets or bars."""
    return re.search(r"\[[A-Z-]|\|", line) is not None


def test_lines_are_found() -> None:
    found = [line for _, line, _ in commands()]
    assert len(found) > 50 and any("--nodes 4" in line for line in found)
    assert "sivae sample runs/my --out samples.png" in [" ".join(words_of(line)) for line in found]


@pytest.mark.parametrize(("page", "line", "mention"), commands())
def test_commands_can_be_typed(page: str, line: str, mention: bool) -> None:
    check(line, mention)


def test_what_cannot_be_typed_is_noticed() -> None:
    for line in (
        "sivae trian tiny", "sivae train tiny --lr 3", "sivae train tiny batch=3", "sivae data prepare",
        "sivae sample RUN [--zoom 3]", "sivae train tiny objective={name: vae}",
        "sivae sample RUN --count 0 --out a.png",
    ):  # fmt: skip
        with pytest.raises((AssertionError, ValueError, TyperException)):
            check(line)


def overrides() -> list[tuple[str, str]]:
    """Page and each `key=value` that stands in the text by itself."""
    pattern = re.compile(r"[a-z_]+(\.[a-z_0-9]+)+=.+")
    return list(
        dict.fromkeys((page.name, span) for page in PAGES for span, _ in spans(page) if pattern.fullmatch(span))
    )


@pytest.mark.parametrize(("page", "span"), overrides())
def test_settings_can_be_typed(page: str, span: str) -> None:
    check_overrides("", words_of(span))


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`([\w/]+/(?:\w+\.py)?)`", ARCHITECTURE))))
def test_places_of_the_architecture_exist(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("row", [row for row in ARCHITECTURE.splitlines() if ".py`: `" in row])
def test_names_of_the_architecture_are_in_their_files(row: str) -> None:
    for path, names in re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", row):
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^ *(def|class) {name}\b", (ROOT / path).read_text(), re.MULTILINE), (path, name)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_lines_are_short(page: Path) -> None:
    """Tables, pictures, code and lines that are one link or one piece of code excepted."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    lines = [line for line in text.splitlines() if not re.match(r"\||!\[|    |\S+$|`[^`]*`\S*$", line)]
    assert [line for line in lines if len(line) > 120] == []
