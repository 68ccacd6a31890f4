"""Models of somebody else's, by `--import`: found by name, recorded, and needed again."""

from pathlib import Path

import pytest

from sivae_dist.config.imports import import_all, recorded
from sivae_dist.config.run_settings import load_config
from sivae_dist.models import MODELS

KIND = """
from sivae_dist.models import MODELS
from sivae_dist.models.style import StyleSettings

@MODELS.add("mine")
class Mine(StyleSettings):
    pass
"""


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.py", None, r"imports: there is no file .*missing\.py"),
        ("no_such_module_at_all", None, "imports: there is no module no_such_module_at_all on Python's path or in "),
        ("broken_one.py", "import no_such_library", "needs no_such_library, which is not installed"),
        ("wrong_one.py", "1 / 0", r"wrong_one\.py cannot be imported: ZeroDivisionError: division by zero"),
        ("json.py", "", r"json\.py is hidden by .*json/__init__\.py, of the same name: rename one of them"),
    ],
)
def test_what_cannot_be_imported(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    given = str(tmp_path / name) if name.endswith(".py") else name
    with pytest.raises(ValueError, match=message):
        load_config("tiny", ["data.path=x", f"imports=[{given}]"])


def test_a_module_of_a_package_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "kinds_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sizes.py").write_text("SIZE = 3")
    (package / "models.py").write_text("from .sizes import SIZE")
    import_all([str(package / "models.py")])
    monkeypatch.chdir(tmp_path)
    import_all(["kinds_of_mine.models"])
    assert recorded("kinds_of_mine.models") == str(package / "models.py")
    assert recorded("json") == "json"  # which is found from anywhere


def test_a_name_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODELS, "_kinds", dict(MODELS))  # which forgets the new one afterwards
    files = [tmp_path / "mine_once.py", tmp_path / "mine_again.py"]
    for file in files:
        file.write_text(KIND)
    with pytest.raises(ValueError, match=r"the model mine exists already: mine_once\.Mine"):
        load_config("tiny", ["data.path=x", f"imports=[{files[0]}, {files[1]}]"])
