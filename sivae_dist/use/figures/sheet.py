"""Images in rows and columns with small labels beside them: what every picture of a model is laid out on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from data_pipelines.images.ranges import to_unit
from sivae_dist.use.figures.grids import to_picture

LEAST = 64
"""Pixels of a side to which smaller images are enlarged, by a whole factor, so that one can see them."""

_INK, _PAPER = (70, 70, 70), (255, 255, 255)


@dataclass(frozen=True)
class Sheet:
    """A picture of square images and its labels, which are drawn where they are not empty."""

    cells: Sequence[Sequence[Tensor | None]]
    """Rows of images [C, R, R] in [-1, 1]; None leaves a place empty. Smaller ones are enlarged to the largest."""
    columns: Sequence[str] = ()
    """Above each column; of one line or several."""
    rows: Sequence[str] = ()
    """To the left of each row."""
    captions: Sequence[Sequence[str]] = ()
    """Below each image, in rows as `cells`."""
    column_breaks: frozenset[int] = frozenset()
    """Columns in front of which the gap is wide."""
    row_breaks: frozenset[int] = frozenset()
    """Rows above which the gap is wide."""
    note: str = ""
    """Below all of it."""
    least: int = LEAST

    def draw(self, labels: bool = True) -> Image.Image:
        """The picture, with or without labels."""
        return _Layout(self, labels).draw()


class _Layout:
    """The layout in pixels. Sizes follow from the images' side, so that prints of all sizes look alike."""

    def __init__(self, sheet: Sheet, labels: bool) -> None:
        self.sheet = sheet
        largest = max(image.shape[-1] for row in sheet.cells for image in row if image is not None)
        self.side = largest * -(-sheet.least // largest)
        self.gap = max(2, self.side // 32)
        self.font = _font(max(11, self.side // 10))
        self.line = sum(self.font.getmetrics())
        self.columns = list(sheet.columns) if labels else []
        self.rows = list(sheet.rows) if labels else []
        self.captions = [list(row) for row in sheet.captions] if labels else []
        self.note = sheet.note if labels else ""

    def draw(self) -> Image.Image:
        count = max(len(row) for row in self.sheet.cells)
        texts = [*self.columns, *(text for row in self.captions for text in row)]
        pitch = max([self.side, *(self._width(text) for text in texts)])
        lefts = self._starts(count, [pitch] * count, self.sheet.column_breaks, self._left())
        heights = [self.side + self._caption_height(row) for row in range(len(self.sheet.cells))]
        tops = self._starts(len(heights), heights, self.sheet.row_breaks, self._top())
        right, bottom = lefts[-1], tops[-1]
        note = self._wrapped(right - 2 * self.gap)
        width = max([right, *(self._width(line) + 2 * self.gap for line in note)])
        size = (width, bottom + (len(note) * self.line + 2 * self.gap if note else 0))
        canvas = Image.new("RGB", size, _PAPER)
        self.pen = ImageDraw.Draw(canvas)
        inset = (pitch - self.side) // 2
        for row, images in enumerate(self.sheet.cells):
            for column, image in enumerate(images):
                if image is not None:
                    canvas.paste(self._enlarged(image), (lefts[column] + inset, tops[row]))
        for column, text in enumerate(self.columns):
            self._write(text, lefts[column] + pitch // 2, tops[0] - self.gap, "md")
        for row, text in enumerate(self.rows):
            self._write(text, lefts[0] + inset - 2 * self.gap, tops[row] + self.side // 2, "rm")
        for row, captions in enumerate(self.captions):
            for column, text in enumerate(captions):
                self._write(text, lefts[column] + pitch // 2, tops[row] + self.side + self.gap, "ma")
        self._write("\n".join(note), self.gap, bottom + self.gap, "la")
        return canvas

    def _starts(self, count: int, sizes: Sequence[int], breaks: frozenset[int], start: int) -> list[int]:
        """The starts of `count` things of these sizes, one after the other, and the end of the sheet behind them."""
        starts = []
        for k in range(count):
            start += 4 * self.gap if k in breaks else 0
            starts.append(start)
            start += sizes[k] + self.gap
        return [*starts, start]

    def _left(self) -> int:
        widest = max((self._width(text) for text in self.rows), default=0)
        return widest + 3 * self.gap if widest else self.gap

    def _top(self) -> int:
        lines = max((text.count("\n") + 1 for text in self.columns if text), default=0)
        return lines * self.line + 2 * self.gap if lines else self.gap

    def _caption_height(self, row: int) -> int:
        return self.line + 2 * self.gap if row < len(self.captions) and any(self.captions[row]) else 0

    def _width(self, text: str) -> int:
        return max((-(-int(self.font.getlength(line) * 64) // 64) for line in text.split("\n")), default=0)

    def _wrapped(self, width: int) -> list[str]:
        """The note in lines that fit, unless a word alone does not."""
        lines: list[str] = []
        for word in self.note.split():
            if lines and self._width(f"{lines[-1]} {word}") <= width:
                lines[-1] += f" {word}"
            else:
                lines.append(word)
        return lines

    def _write(self, text: str, x: int, y: int, anchor: str) -> None:
        """Lines with their left, middle or right (l, m, r) at `x` and their top, middle or bottom (a, m, d) at `y`."""
        lines = text.split("\n")
        top = y - {"a": 0, "m": len(lines) * self.line // 2, "d": len(lines) * self.line}[anchor[1]]
        for k, line in enumerate(lines):
            self.pen.text((x, top + k * self.line), line, _INK, self.font, anchor[0] + "a")

    def _enlarged(self, image: Tensor) -> Image.Image:
        picture = to_picture(to_unit(image)).convert("RGB")
        return picture.resize((self.side, self.side), Image.Resampling.NEAREST)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib. That is not imported for the sake of a path."""
    package = find_spec("matplotlib")
    assert package is not None and package.origin is not None
    fonts = Path(package.origin).with_name("mpl-data") / "fonts" / "ttf"
    return ImageFont.truetype(fonts / "DejaVuSans.ttf", size)
