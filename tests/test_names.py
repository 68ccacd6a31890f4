"""No code outside a kind's own room knows it, by its registered name or by its class: for every list of kinds."""

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from data_pipelines.choices import Registry
from data_pipelines.images.loaders import LOADERS
from data_pipelines.images.sources.opening import SOURCES
from data_pipelines.kinds import DATASETS
from data_pipelines.points.distributions import DISTRIBUTIONS
from launch.clusters import CLUSTERS
from sivae_dist.engines.settings import ENGINES
from sivae_dist.evaluation.extractors import EXTRACTORS
from sivae_dist.evaluation.metrics import METRICS
from sivae_dist.models import MODELS
from sivae_dist.objectives import DISTANCES, OBJECTIVES
from sivae_dist.use.figures.paper import FIGURES
from tests.test_imports import ORDER, ROOT, modules_of

ROOMS: tuple[tuple[Registry[Any], tuple[str, ...]], ...] = (
    (MODELS, ("sivae_dist.models",)),
    (OBJECTIVES, ("sivae_dist.objectives",)),
    (DISTANCES, ("sivae_dist.objectives",)),
    (ENGINES, ("sivae_dist.engines",)),
    (METRICS, ("sivae_dist.evaluation.metrics",)),
    (EXTRACTORS, ("sivae_dist.evaluation.extractors",)),
    (DATASETS, ("data_pipelines.kinds", "data_pipelines.images.dataset", "data_pipelines.points.dataset")),
    (DISTRIBUTIONS, ("data_pipelines.points",)),
    (LOADERS, ("data_pipelines.images.loader", "data_pipelines.images.dali_loader", "data_pipelines.images.loaders")),
    (SOURCES, ("data_pipelines.images.sources",)),
    (CLUSTERS, ("launch.clusters",)),
    (FIGURES, ("sivae_dist.use.figures.paper",)),
)
"""Every list, and the packages and modules that may name its kinds: the list itself and what is listed."""

WORDS = {
    "cpu": "a device of torch",
    "images": "the count of images seen, and the axis of files of images",
    "points": "samples that are no images",
    "folder": "a directory",
    "tar": "how a level of a prepared set is stored, and a suffix",
    "zip": "a suffix",
    "zero": "a number in words",
}
"""Names that mean something else too, and what: alone they say nothing, unless they stand for a kind (_chosen)."""

EXCEPTIONS = {
    ("launch.doctor.surroundings", "zero"): "a remark on a variable of DeepSpeed's, made where torch may be missing",
    ("launch.doctor.selftest", "ImageSettings"): "it tries the decoders on prepared images of its own",
    ("launch.doctor.gpu.loading", "ImageSettings"): "it tries the loaders on prepared images of its own",
    ("launch.configure.command", "ImageSettings"): "it writes a configuration for prepared images",
    ("launch.cli.options", "ImageSettings"): "its option --data is a prepared set",
}
"""Modules that name a kind nevertheless, each with the reason."""


class Known(NamedTuple):
    """What a module knows of a kind."""

    line: int
    what: str


def known(module: str, source: str) -> Iterator[Known]:
    """Names and classes in a module's source of kinds in whose room it is not."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for registry, rooms in ROOMS:
        if any(f"{module}.".startswith(f"{room}.") for room in rooms):
            continue
        kinds = list(registry.values())
        classes = {kind.__name__ for kind in kinds if not _is_contract(kind, kinds)}
        # In the room of another kind of this name it is that one's.
        names = {name for name in registry if not _is_at_home(module, name)}
        chosen = {id(node) for node in _chosen(tree, registry)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                yield from (Known(node.lineno, alias.name) for alias in node.names if alias.name in classes)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                if node.value in names and (node.value not in WORDS or id(node) in chosen):
                    yield Known(node.lineno, node.value)
                elif match := _assigned(registry.what, names).search(node.value):
                    yield Known(node.lineno, match["name"])


def _is_contract(kind: Any, kinds: list[Any]) -> bool:
    """Whether all the others are made from this one."""
    return isinstance(kind, type) and len(kinds) > 1 and all(issubclass(other, kind) for other in kinds)


def _is_at_home(module: str, name: str) -> bool:
    rooms = [room for registry, rooms in ROOMS if name in registry for room in rooms]
    return any(f"{module}.".startswith(f"{room}.") for room in rooms)


def _assigned(what: str, names: set[str]) -> re.Pattern[str]:
    """A kind chosen within a text: `engine.name=zero`, `{name: vae}`, `data.loader=dali`, `evaluation/fid`."""
    listed = "|".join(map(re.escape, sorted(names))) or "(?!)"
    return re.compile(
        rf"(?:\b(?:{what}(?:\.name)?|name)(?:=|: ?)\{{?(?:name: ?)?|\bevaluation/)(?P<name>{listed})\b(?![-/.])"
    )


def _chosen(tree: ast.AST, registry: Mapping[str, Any]) -> Iterator[ast.Constant]:
    """Texts that stand for one of these kinds: compared with its key, given as it, or beside another kind's name."""
    keys = {registry.what}  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(_ends(side, keys) for side in sides):
                yield from (text for side in sides for text in _texts(side))
        elif isinstance(node, ast.keyword) and node.arg in keys:
            yield from _texts(node.value)
        elif isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict):
            texts = [t for part in (node.keys if isinstance(node, ast.Dict) else node.elts) for t in _texts(part)]
            if len({text.value for text in texts} & {*registry}) > 1:
                yield from texts


def _ends(node: ast.AST, keys: set[str]) -> bool:
    """Whether this is `....loader`, `....data.name` or plainly `loader`, for a key `loader` or `data`."""
    if isinstance(node, ast.Attribute):
        return node.attr in keys or (node.attr == "name" and _ends(node.value, keys))
    return isinstance(node, ast.Name) and node.id in keys


def _texts(node: ast.AST | None) -> list[ast.Constant]:
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return [text for part in node.elts for text in _texts(part)]
    return [node] if isinstance(node, ast.Constant) else []


def test_every_list_has_a_room() -> None:
    """And no room is of a list that there is not."""
    made = {
        target.id
        for path in modules_of(ROOT, ORDER).values()
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.AnnAssign) and isinstance(target := node.target, ast.Name)
        if ast.unparse(node.annotation).startswith("Registry[")
    }
    assert len(made) == len(ROOMS) and all(any(name.lower().startswith(r.what) for name in made) for r, _ in ROOMS)


def test_no_code_outside_its_room_knows_a_kind() -> None:
    found = {
        (module, what): f"{module}:{line}"
        for module, path in modules_of(ROOT, ORDER).items()
        for line, what in known(module, path.read_text())
    }
    assert {place: where for place, where in found.items() if place not in EXCEPTIONS} == {}
    assert EXCEPTIONS.keys() - found.keys() == set(), "exceptions of which nothing needs any more"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ('if engine.name == "zero": pass', "zero"),
        ('if engine.name in ("ddp", other): pass', "ddp"),
        ("remedy = \"'engine={name: zero, stage: 2}'\"", "zero"),
        ('stepper = make("engine.name=ddp")', "ddp"),
        ('for loader in ("cpu", "dali"): pass', "cpu"),
        ('if settings.data.loader == "cpu": pass', "cpu"),
        ('read(loader="cpu")', "cpu"),
        ('todo = f"use data.loader=cpu, {more}"', "cpu"),
        ('if settings.data.name == "images": pass', "images"),
        ('if settings.model.name == "style": pass', "style"),
        ('chosen = {"inception-v3-compat": 1}', "inception-v3-compat"),
        ('if source == "tar": pass', "tar"),
        ('kinds = ["lmdb"]', "lmdb"),
        ('if cluster == "slurm": pass', "slurm"),
        ('best = "evaluation/fid"', "fid"),
        ('text = f"engine={{name: ddp, precision: {precision}}}"', "ddp"),
        ('runs = ["{name: vae}"]', "vae"),
        ("match kind:\n    case 'vae': pass", "vae"),
        ("def late():\n    from sivae_dist.engines.settings import DdpSettings", "DdpSettings"),
        ("from data_pipelines.images.dali_loader import DaliLoader", "DaliLoader"),
        ("from sivae_dist.models import StyleSettings", "StyleSettings"),
    ],
)
def test_knowledge_that_is_put_back_is_found(source: str, what: str) -> None:
    assert what in [found.what for found in known("launch.demo", source)]


@pytest.mark.parametrize(
    "source",
    [
        '"""Of ddp and zero."""',
        'device = torch.device("cpu")',
        'row = {"images": 3, "resolution": 4}',
        'if device.type == "cpu": pass',
        'path = "docs/slurm.md"',
        'numbers = ("zero", "one")',
        "from sivae_dist.engines.settings import ENGINES, EngineSettings",
    ],
)
def test_what_is_no_such_knowledge(source: str) -> None:
    assert [*known("launch.demo", source)] == []


def test_a_kind_is_known_at_home() -> None:
    source = 'name: Literal["zero"] = "zero"\nfrom sivae_dist.engines.settings import DdpSettings'
    assert [*known("sivae_dist.engines.zero", source)] == []
    assert [*known("sivae_dist.evaluation.metrics.mse", 'name = "mse"')] == []
    assert [*known("sivae_dist.evaluation.evaluator", 'name = "mse"')] != []
