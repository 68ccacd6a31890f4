"""Shell completion of configuration names, settings keys and their values.

The shell waits for the result, so torch is not loaded; the keys come from a file that is generated from the settings
(sivae_dist/config/reference.py).
"""

import json
from importlib.resources import files

import typer


def configurations(incomplete: str) -> list[str]:
    """Names of the configurations that come with sivae; if none matches, bash offers files."""
    from sivae_dist.config.names import config_names

    return [name for name in config_names() if name.startswith(incomplete)]


def keys(incomplete: str) -> list[str]:
    """Dotted keys of settings."""
    return [key for key in _known() if key.startswith(incomplete)]


def settings(ctx: typer.Context, incomplete: str) -> list[str]:
    """`KEY=` for each matching key; if only one key matches, also `KEY=VALUE` for each of its values.

    There is thus never a single candidate, after which a shell would add a space. bash treats `=` as a separate word:
    after it, KEY and possibly `=` are the last words of the context, and `incomplete` is the value alone.
    """
    known = _known()
    given = ctx.params.get("overrides") or []
    before = [word for word in given[-2:] if word != "="][-1:]
    if before and before[0] in known:
        return [value for value in known[before[0]] if value.startswith(incomplete)]
    key, equals, _ = incomplete.partition("=")
    fitting = [key] if equals and key in known else keys(key)
    if len(fitting) != 1:
        return [f"{one}=" for one in fitting]
    (only,) = fitting
    candidates = [f"{only}=", *(f"{only}={value}" for value in known[only] or ["VALUE"])]
    return [one for one in candidates if one.startswith(incomplete)]


def _known() -> dict[str, list[str]]:
    text = files("sivae_dist.config").joinpath("keys.json").read_text(encoding="utf-8")
    known: dict[str, list[str]] = json.loads(text)
    return known
