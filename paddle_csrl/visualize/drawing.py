"""What all pictures are made of: text, hatching, and a canvas that becomes pixels or SVG."""

import base64
import functools
import io
from collections.abc import Sequence
from xml.sax.saxutils import escape

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from paddle_csrl.errors import UserError
from paddle_csrl.utils import atomic_path

INK, FAINT, PAPER = (32, 33, 36), (110, 113, 118), (255, 255, 255)
UNSEEN = (178, 64, 0)
MARGIN, GAP = 16, 12
FONT_SIZE, TITLE_SIZE = 15, 17

_SVG_FONTS = "Aileron, Helvetica, Arial, sans-serif"
_SVG_ANCHORS = {"l": "start", "m": "middle", "r": "end"}


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, which covers ASCII; other letters show as boxes."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> float:
    return font(size).getlength(text)


def shorten(text: str, size: int, room: float) -> str:
    """``text``, cut with dots where it is wider than ``room`` pixels."""
    if text_width(text, size) <= room:
        return text
    while text and text_width(text + "...", size) > room:
        text = text[:-1]
    return text + "..."


def wrap(text: str, size: int, room: float) -> list[str]:
    """``text`` in lines of at most ``room`` pixels, broken at blanks where possible."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or text_width(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def star(size: int) -> np.ndarray:
    """uint8 [size, size]: the mask of a five-pointed star, 255 inside."""
    angle = np.pi * np.arange(10) / 5
    radius = np.where(np.arange(10) % 2, 0.21, 0.5) * 4 * size
    corners = np.stack([radius * np.sin(angle), -radius * np.cos(angle)], 1) + 2 * size
    large = np.zeros((4 * size, 4 * size), np.uint8)
    cv2.fillPoly(large, [np.round(corners).astype(np.int32)], 255)
    return cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA)


def hatching(height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: grey diagonal lines on white."""
    lines = (np.arange(height)[:, None] + np.arange(width)) % 8 < 2
    return np.where(lines[..., None], np.uint8(176), np.uint8(255)).repeat(3, axis=2)


def embolden(draw: ImageDraw.ImageDraw, position: tuple[float, float], text: str,
             color: tuple[int, int, int], size: int, anchor: str) -> None:
    """Write bold text: Pillow's own font has one weight, so it is written twice."""
    for shift in (0, 0.7):
        draw.text((position[0] + shift, position[1]), text, color, font(size), anchor=anchor)


class Canvas:
    """A picture that is drawn once and comes out both as pixels and as SVG with real text.

    Args:
        width (int): in pixels.
        height (int): in pixels.
    """

    def __init__(self, width: int, height: int):
        self._image = Image.new("RGB", (width, height), PAPER)
        self._draw = ImageDraw.Draw(self._image)
        self._elements: list[str] = []

    @property
    def pixels(self) -> np.ndarray:
        """uint8 [height, width, 3]."""
        return np.array(self._image)

    def text(self, position: tuple[float, float], text: str,
             color: tuple[int, int, int] = INK, size: int = FONT_SIZE, anchor: str = "lm",
             bold: bool = False) -> None:
        """Write a line; ``anchor`` is Pillow's: l, m or r, then a (top) or m (middle)."""
        if bold:
            embolden(self._draw, position, text, color, size, anchor)
        else:
            self._draw.text(position, text, color, font(size), anchor=anchor)
        x, y = position
        self._svg_text(text, color, size, anchor, bold, f'x="{x:g}" y="{y:g}"')

    def upright_text(self, position: tuple[int, int], text: str,
                     color: tuple[int, int, int] = INK, size: int = FONT_SIZE) -> None:
        """Write a line that reads from bottom to top, starting above ``position``."""
        length = max(1, int(np.ceil(text_width(text, size))))
        line = Image.new("RGB", (length, size + 4), PAPER)
        ImageDraw.Draw(line).text((0, line.height / 2), text, color, font(size), anchor="lm")
        line = line.transpose(Image.Transpose.ROTATE_90)
        x, y = position
        self._image.paste(line, (x - line.width // 2, y - line.height))
        self._svg_text(text, color, size, "lm", False,
                       f'transform="translate({x} {y}) rotate(-90)"')

    def cells(self, corner: tuple[int, int], colors: np.ndarray, cell: int,
              hatched: np.ndarray) -> None:
        """Draw squares with thin white lines between.

        Args:
            corner: left and top of the first.
            colors: uint8 [R, K, 3].
            cell: side of a square with its line, in pixels.
            hatched: bool [R, K], which of them are hatched instead.
        """
        picture = _spread(colors, cell)
        picture = np.where(_spread(hatched, cell)[..., None], hatching(*picture.shape[:2]),
                           picture)
        picture[cell - 1::cell] = picture[:, cell - 1::cell] = 255
        self._image.paste(Image.fromarray(picture), corner)
        for (row, column), is_hatched in np.ndenumerate(hatched):
            fill = "url(#hatching)" if is_hatched else _hex(colors[row, column])
            self._elements.append(
                f'<rect x="{corner[0] + column * cell}" y="{corner[1] + row * cell}" '
                f'width="{cell - 1}" height="{cell - 1}" fill="{fill}"/>')

    def ramp(self, corner: tuple[int, int], width: int, colors: np.ndarray) -> None:
        """Draw an outlined column of ``colors``, uint8 [height, 3], from top to bottom."""
        left, top = corner
        self._image.paste(Image.fromarray(colors[:, None].repeat(width, axis=1)), corner)
        self._draw.rectangle((left, top, left + width - 1, top + len(colors) - 1), outline=FAINT)
        stops = "".join(f'<stop offset="{share:.4f}" stop-color="{_hex(colors[row])}"/>'
                        for share in np.linspace(0, 1, 33)
                        for row in [round(share * (len(colors) - 1))])
        self._elements.append(
            f'<linearGradient id="ramp" x2="0" y2="1">{stops}</linearGradient>'
            f'<rect x="{left}" y="{top}" width="{width}" height="{len(colors)}" '
            f'fill="url(#ramp)" stroke="{_hex(FAINT)}"/>')

    def svg(self) -> str:
        """The picture as an SVG document, its text as text."""
        width, height = self._image.size
        tile = io.BytesIO()
        Image.fromarray(hatching(8, 8)).save(tile, "PNG")
        data = base64.b64encode(tile.getvalue()).decode()
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="{_SVG_FONTS}">',
            f'<pattern id="hatching" width="8" height="8" patternUnits="userSpaceOnUse"><image '
            f'width="8" height="8" href="data:image/png;base64,{data}"/></pattern>',
            f'<rect width="100%" height="100%" fill="{_hex(PAPER)}"/>',
            *self._elements, "</svg>", ""])

    def save(self, stem: str) -> list[str]:
        """Write ``stem``.png and ``stem``.svg, atomically, and return their paths."""
        save_png(f"{stem}.png", self.pixels)
        with atomic_path(f"{stem}.svg") as temporary:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(self.svg())
        return [f"{stem}.png", f"{stem}.svg"]

    def _svg_text(self, text: str, color: Sequence[int], size: int, anchor: str, bold: bool,
                  place: str) -> None:
        if not text:
            return
        # The viewer's font may be another one; the length keeps the layout.
        shift = {"a": 0.8, "m": 0.35}[anchor[1]]
        weight = ' font-weight="bold"' if bold else ""
        self._elements.append(
            f'<text {place} dy="{shift}em" text-anchor="{_SVG_ANCHORS[anchor[0]]}" '
            f'font-size="{size}" fill="{_hex(color)}"{weight} '
            f'textLength="{text_width(text, size):.1f}" lengthAdjust="spacingAndGlyphs">'
            f'{escape(text)}</text>')


def _spread(values: np.ndarray, cell: int) -> np.ndarray:
    return values.repeat(cell, axis=0).repeat(cell, axis=1)


def _hex(color: Sequence[int]) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in color)


def check_image(image: np.ndarray) -> None:
    """Raise ``UserError`` unless ``image`` is uint8 RGB [H, W, 3]."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"the image must be uint8 [H, W, 3], got {image.dtype} "
                        f"{list(image.shape)}")


def save_png(path: str, picture: np.ndarray) -> None:
    """As ``write_png``, atomically."""
    with atomic_path(path) as temporary:
        write_png(temporary, picture)


def write_png(path: str, picture: np.ndarray) -> None:
    """Write a picture, uint8 RGB [H, W, 3] or a single channel [H, W]."""
    if picture.ndim != 2 or picture.dtype != np.uint8:
        check_image(picture)
    Image.fromarray(picture).save(path, format="PNG")
