"""Imports go in one direction: launch -> sivae_dist -> data_pipelines, and in no circle, late ones included."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("data_pipelines", "sivae_dist", "launch")
"""Each may import itself and those before it."""


def modules_of(root: Path, packages: tuple[str, ...]) -> dict[str, Path]:
    found = {}
    for path in (path for package in packages for path in (root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules that are imported when this one runs, wherever in it; not those that only its types need."""
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from (name if name in known else node.module for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        waiting += node.orelse if for_types else ast.iter_child_nodes(node)  # type: ignore[attr-defined]


def circle_in(root: Path, *packages: str) -> list[str]:
    """Modules of which each imports the one before it; empty where there is no circle."""
    modules = modules_of(root, packages)
    graph = {name: {*imports_of(path, modules)} & modules.keys() - {name} for name, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("package", ["data_pipelines", "sivae_dist", "launch"])
def test_there_is_no_circle(package: str) -> None:
    assert circle_in(ROOT, package) == []


def test_packages_import_in_one_direction() -> None:
    for place, package in enumerate(ORDER):
        modules = modules_of(ROOT, (package,))
        assert len(modules) > 20
        imported = {(name, target) for name, path in modules.items() for target in imports_of(path, modules)}
        wrong = [(name, target) for name, target in imported if target.split(".")[0] in ORDER[place + 1 :]]
        assert wrong == []


@pytest.mark.parametrize(
    ("text", "circle"),
    [
        ("from package import a", True),
        ("import package.a", True),
        ("def late():\n    from package.a import f", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package.a import f", False),
        ("import json", False),
    ],
)
def test_a_circle_is_found(tmp_path: Path, text: str, circle: bool) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text("from package.b import g\n")
    (package / "b.py").write_text(f"{text}\n")
    assert ({*circle_in(tmp_path, "package")} == {"package.a", "package.b"}) is circle


KINDS = {
    "sivae_dist.models": ("style",),
    "sivae_dist.objectives": ("intro", "soft_intro", "vae"),
    "sivae_dist.engines": ("ddp", "zero", "zero_divided"),
    "sivae_dist.evaluation.metrics": ("fid", "kid", "psnr", "ssim", "mse"),
    "sivae_dist.evaluation.extractors": ("inception", "networks"),
    "data_pipelines.images": ("dali_loader",),
    "launch.clusters": ("slurm", "local"),
}
"""Modules of one kind each, by the package that alone may import them."""


@pytest.mark.slow
@pytest.mark.parametrize("package", KINDS)
def test_no_kind_is_imported_from_elsewhere(package: str) -> None:
    kinds = tuple(f"{package}.{name}." for name in KINDS[package])
    modules = modules_of(ROOT, ORDER)
    assert all(kind[:-1] in modules for kind in kinds)
    for name, path in modules.items():
        if not f"{name}.".startswith(f"{package}."):
            assert [other for other in imports_of(path, modules) if f"{other}.".startswith(kinds)] == [], name
