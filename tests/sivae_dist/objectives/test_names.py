"""No code outside the objectives' own folder knows one of them, or one of the distances, by name or by class."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sivae_dist.objectives import DISTANCES, OBJECTIVES

_PROJECT = Path(__file__).parents[3]
_OWN = "sivae_dist.objectives"
_PUBLIC = {_OWN, f"{_OWN}.base", f"{_OWN}.distances", f"{_OWN}.elbo"}  # the last has formulas alone
_CLASSES = {kind.__name__ for kind in (*OBJECTIVES.values(), *DISTANCES.values())}
_OF_METRICS = {"mse"}
"""Names that a metric has too: outside, they are the metric's, unless something is compared with them."""
_NAMES = {*OBJECTIVES, *DISTANCES} - _OF_METRICS
_WORD = re.compile(rf"\b({'|'.join(_NAMES)})\b")


def known(source: str) -> list[str]:
    """What a module's source knows of a particular objective or distance, after the number of the line."""
    tree = ast.parse(source)
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    return [f"{line}: {what}" for node in ast.walk(tree) if id(node) not in texts for line, what in _known(node)]


def _known(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and (word := _WORD.search(node.value)):
        yield node.lineno, word[1]
    elif isinstance(node, ast.Compare | ast.MatchValue):
        yield from ((node.lineno, n.value) for n in ast.walk(node) if isinstance(n, ast.Constant) and _compared(n))
    elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_OWN):
        if node.module not in _PUBLIC:
            yield node.lineno, str(node.module)
        concrete = {module.removeprefix(f"{_OWN}.") for module in _modules()}
        yield from ((node.lineno, name.name) for name in node.names if name.name in _CLASSES | concrete)
    elif isinstance(node, ast.Import):
        yield from ((node.lineno, name.name) for name in node.names if name.name in _modules())


def _compared(node: ast.Constant) -> bool:
    return node.value in _OF_METRICS


def _modules() -> set[str]:
    """Those of which nothing outside is to know."""
    files = (_PROJECT / "sivae_dist" / "objectives").glob("*.py")
    return {f"{_OWN}.{file.stem}" for file in files if file.stem != "__init__"} - _PUBLIC


def test_nothing_outside_knows_an_objective_or_a_distance() -> None:
    found = []
    for package in ("data_pipelines", "sivae_dist", "launch"):
        for file in sorted((_PROJECT / package).rglob("*.py")):
            if file.parent != _PROJECT / "sivae_dist" / "objectives":
                found += [f"{file.relative_to(_PROJECT)}:{line}" for line in known(file.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        'if settings.objective.name == "soft_intro": pass',
        'columns = {"vae": ("m",)}',
        "message = f\"train a VAE with 'objective={{name: vae}}' for {n}\"",
        'if kind == "mse": pass',
        'if kind in ("bce", "l1"): pass',
        "match kind:\n    case 'mse': pass",
        "from sivae_dist.objectives.soft_intro import SoftIntroWeights",
        "def late():\n    from sivae_dist.objectives import IntroSettings",
        "from sivae_dist.objectives import vae",
        "import sivae_dist.objectives.intro",
        "from sivae_dist.objectives.distances import SquaredError",
    ],
)
def test_knowledge_that_is_put_back_is_found(source: str) -> None:
    assert known(source) != []


@pytest.mark.parametrize(
    "source",
    [
        '"""Of a soft_intro or a vae."""',
        'metrics = ["fid", "mse"]',
        "from sivae_dist.objectives import OBJECTIVES, Draws, Objective",
        "from sivae_dist.objectives.base import Draws",
        'text = "introspective"',
    ],
)
def test_what_is_no_such_knowledge(source: str) -> None:
    assert known(source) == []
