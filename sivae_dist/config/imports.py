"""Users' own modules, which add models, objectives, data sets and so on to the registries.

A run records what it imports, as it is needed again whenever its settings are read: on a resume, by every process, by
`sivae evaluate` and `sivae sample`.
"""

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

from data_pipelines.settings import expand


def import_all(names: Iterable[str]) -> None:
    """Imports modules by name, or by the path of a file. ValueError naming the one that cannot be imported."""
    for name in names:
        _import(name)


def recorded(name: str) -> str:
    """The same module wherever it is imported from: by its file where only the current directory leads to it."""
    folder, module = _place(name)
    file = getattr(sys.modules.get(module), "__file__", None)
    here = file is not None and folder == Path.cwd() and Path(file).is_relative_to(folder)
    return str(Path(file)) if file is not None and (_is_file(name) or here) else name


def _import(name: str) -> None:
    folder, module = _place(name)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last, so that nothing of ours or of Python's is hidden
        importlib.invalidate_caches()
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"imports: {name} needs {error.name}, which is not installed") from error
        raise ValueError(f"imports: there is no module {module} on Python's path or in {folder}") from None
    except Exception as error:
        raise ValueError(f"imports: {name} cannot be imported: {type(error).__name__}: {error}") from error
    if _is_file(name) and Path(found.__file__ or "").resolve() != Path(expand(name)).resolve():
        raise ValueError(f"imports: {name} is hidden by {found.__file__}, of the same name: rename one of them")


def _is_file(name: str) -> bool:
    return name.endswith(".py")


def _place(name: str) -> tuple[Path, str]:
    """The folder from which a module is imported, and its dotted name. ValueError for a file that is not there."""
    if not _is_file(name):
        return Path.cwd(), name
    path = Path(expand(name)).absolute()
    if not path.is_file():
        raise ValueError(f"imports: there is no file {path}")
    parts, folder = [path.stem] if path.stem != "__init__" else [], path.parent
    while (folder / "__init__.py").is_file():
        parts, folder = [folder.name, *parts], folder.parent
    return folder, ".".join(parts)
