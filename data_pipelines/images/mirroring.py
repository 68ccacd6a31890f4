"""Advice on whether images may be mirrored (`data.flip`), from a prepared set's description."""

import re
from collections.abc import Sequence
from pathlib import PurePath

from data_pipelines.images.manifest import Manifest

_NUMBERS = frozenset(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"))
_CHARACTER = re.compile(r"(?:(?:digit|number|letter|char|character|class|sample|img)[\s_-]*)?(?:\d{1,3}|[^\W\d_])")
_WRITING = re.compile(
    r"(?<![a-z])(?:k|e|q|not|rotated|colou?red|moving)?-?_?mnist|svhn|usps|omniglot|digits?(?![a-z])|letters?(?![a-z])"
    r"|alphabet|glyph|font|kanji|hiragana|handwrit|captcha|(?<![a-z])(?:text|ocr)(?![a-z])|licen[cs]e.?plate|gtsrb"
)
_SMALL = 64


def mirroring_note(manifest: Manifest, flip: bool = True, contents: Sequence[str | None] | None = None) -> str:
    """A sentence on `data.flip` for this set. `flip`: what it is, or is unless it is set. `contents`: those of
    Dataset.contents."""
    if not flip:
        return "data.flip=false: no image is mirrored in training"
    why = why_not_mirrored(manifest)
    if why:
        return f"{why}: digits and text must not be mirrored, train those with data.flip=false"
    if contents is not None and None not in contents:
        return (
            f"every image is named after its content ({contents[0]}, ...): a mirrored azimuth or side is another one, "
            "train for content transfer with data.flip=false"
        )
    return "data.flip=true mirrors half of the images in training: set it to false where left and right differ"


def why_not_mirrored(manifest: Manifest) -> str | None:
    """Why the images may be writing, which must not be mirrored; None when nothing says so."""
    names = [name.strip().lower() for name in manifest.classes]
    if len(names) > 1 and all(name in _NUMBERS or _CHARACTER.fullmatch(name) for name in names):
        return "the classes are named like digits or letters"
    source = "/".join(PurePath(manifest.source).parts[-2:])  # the last may only be `train`
    if _WRITING.search(source.lower()) and "fashion" not in source.lower():
        return f"the source {source} is named like digits or text"
    if manifest.channels == 1 and manifest.resolution <= _SMALL:
        return "the images are grey and small, as those of digits are"
    return None
