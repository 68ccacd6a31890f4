"""The settings explain themselves, and what is generated from them is up to date."""

import json
from typing import Annotated, Literal

import pytest
from pydantic import Field

from data_pipelines.choices import Registry, name_in, one_of
from sivae_dist.config.reference import KEYS, PAGE, explain, keys, page, settings_of
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.settings import Images, PerResolution, Settings

METRICS: Registry[int] = Registry("metric", {"psnr": 1, "ssim": 2})


class Small(Settings):
    """A small one.

    What comes behind an empty line is for those who read the code."""

    name: Literal["small"] = "small"
    size: int = Field(3, ge=1, lt=9)
    """Its size."""


class Large(Settings):
    """A large one."""

    name: Literal["large"] = "large"
    size: int = Field(3, ge=1, lt=9)
    """Its size."""
    reach: float
    """How far it reaches,
    in metres."""


BOXES: Registry[type[Small | Large]] = Registry("box", {"small": Small, "large": Large})


class All(Settings):
    box: Annotated[Small | Large, one_of(BOXES, default="small")] = Small()
    """The box."""
    every: Images = Field(5_000, gt=0)
    """Images in between."""
    rate: PerResolution | None = None
    """The rate; code like `a b c`."""
    factor: float | None = Field(None, gt=0)
    """A factor."""
    best: Annotated[str, name_in(METRICS)] = "ssim"
    """Which is best."""
    both: tuple[Literal["a", "b"], ...] = ("a",)
    """Which of them."""
    quiet: bool = False
    """Say nothing."""


def test_what_a_setting_takes_follows_from_its_field() -> None:
    found = {one.name: one.head() for one in settings_of(All)}
    assert found == {
        "box": "a group of settings, by its name small or large",
        "box.name": "small or large; default small",
        "box.size": "a whole number (at least 1 and less than 9); default 3",
        "box.reach (large)": "a number; required",
        "every": "a number of images (greater than 0); default 5000",
        "rate": "a number (at least 0), one per resolution or null; default null",
        "factor": "a number (greater than 0) or null; default null",
        "best": "psnr or ssim; default ssim",
        "both": "a list of a or b; default [a]",
        "quiet": "true or false; default false",
    }


def test_a_group_names_its_kinds_and_lists_its_settings() -> None:
    assert explain("box", All) == [
        "box: a group of settings, by its name small or large",
        "  The box. `small`: A small one. `large`: A large one.",
        "",
        "  box.name           small or large; default small",
        "  box.size           a whole number (at least 1 and less than 9); default 3",
        "  box.reach (large)  a number; required",
    ]
    assert explain("", All)[-1] == "  quiet   true or false; default false"


def test_a_kind_added_from_outside_is_explained_too() -> None:
    added = Registry("box", dict(BOXES))

    @added.add("round")
    class Round(Settings):
        """Without corners."""

        name: Literal["round"] = "round"
        radius: float = 1.0
        """In metres."""

    class Wider(Settings):
        box: Annotated[Settings, one_of(added)]

    assert explain("box.radius", Wider)[0] == "box.radius (round): a number; default 1"
    assert "`round`: Without corners." in " ".join(explain("box", Wider))
    assert keys(Wider)["box.name"] == ["small", "large", "round"]


@pytest.mark.parametrize("key", ["schedule.batch", "schedule.batch.256", "schedule.batch=16", "schedule.batch="])
def test_a_key_is_explained_as_it_is_typed(key: str) -> None:
    head, *about = explain(key)
    assert head == "schedule.batch: a whole number or one per resolution; default 32"
    assert about == [
        "  Images per step, over all processes.",
        "  When a run is resumed, it may change for what lies ahead.",
    ]


def test_a_key_of_several_kinds_is_explained_for_each() -> None:
    lines = explain("objective.beta_neg")
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == [
        "objective.beta_neg (soft_intro)",
        "objective.beta_neg (intro)",
    ]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("batch", "unknown key batch; did you mean schedule.batch or evaluation.batch?"),
        ("engine.stag", "unknown key engine.stag; did you mean engine.stage?"),
        ("seed.256", "unknown key seed.256"),
        ("nonsense", "unknown key nonsense"),
    ],
)
def test_unknown_keys_get_the_nearest(key: str, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        explain(key)
    assert str(caught.value) == expected


def test_every_setting_has_a_docstring() -> None:
    assert [one.key for one in settings_of(RunSettings) if not one.about] == []


def test_generated_files_are_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run `make reference` and commit docs/settings.md"
    assert json.loads(KEYS.read_text()) == keys(), "run `make reference` and commit sivae_dist/config/keys.json"


def test_the_page_breaks_no_code_and_no_line_is_too_long() -> None:
    lines = page().splitlines()
    assert max(map(len, lines)) <= 120
    assert not [line for line in lines if line.count("`") % 2]


def test_a_setting_stands_under_its_own_group() -> None:
    """One that only some kinds have as well."""
    group, misplaced = "", []
    for line in page().splitlines():
        if line.startswith("## "):
            group = line.removeprefix("## ")
        elif line.startswith("- `") and "." in (key := line.split("`")[1]):
            misplaced += [(group, key)] * (key.rpartition(".")[0] != group)
    assert group and misplaced == []
