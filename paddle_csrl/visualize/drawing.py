"""The base of all pictures: one style of matplotlib, and figures as pixels, PNG and SVG.

matplotlib is imported where something is drawn, for everything else starts sooner without. There
is no pyplot, and no setting outlives a drawing.
"""

import bisect
import contextlib
import functools
import io
import logging
import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
from paddleseg.utils import logger
from PIL import Image

from paddle_csrl.errors import UserError
from paddle_csrl.utils import atomic_path, write_text

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.transforms import Bbox

INK, FAINT, GRID, HATCH, UNSEEN = "#202124", "#6e7176", "#e3e4e6", "#b0b0b0", "#b24000"
#: Pixels per inch; matplotlib takes sizes of fonts and lines in points, 72 per inch.
DPI = 96
MARGIN = 16

# The colour-blind-safe colours of Okabe & Ito (2008), without the yellow that white hides; each
# has a shape of its own as well.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_SHAPES = ("o", "s", "^", "D", "P")
_DASHES = ("-", "--", ":", "-.", (0, (3, 2)))

_STYLE: dict[str, Any] = {
    "font.size": 10, "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    "text.color": INK, "text.parse_math": False, "svg.fonttype": "none",
    "axes.titlesize": "medium", "axes.titlecolor": FAINT, "axes.labelcolor": FAINT,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GRID,
    "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": GRID,
    "xtick.color": GRID, "ytick.color": GRID, "xtick.labelcolor": FAINT, "ytick.labelcolor": FAINT,
    "lines.linewidth": 1.4, "lines.markersize": 6, "lines.markeredgewidth": 0,
    "hatch.linewidth": 1.5, "legend.frameon": False, "legend.borderpad": 0,
    "legend.borderaxespad": 0, "legend.columnspacing": 1.5, "legend.handlelength": 1.2,
    "legend.handleheight": 1, "legend.handletextpad": 0.6}
# Fonts for what DejaVu Sans, which matplotlib brings, lacks; the first that is installed.
_CHINESE_FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Noto Sans CJK JP",
                  "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Microsoft YaHei", "SimHei",
                  "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS", "Droid Sans Fallback")
_LOCK = threading.RLock()  # matplotlib's settings are those of the process


@contextlib.contextmanager
def style(**settings: object) -> Iterator[None]:
    """Draw as all pictures are drawn, whatever the user has set for matplotlib."""
    import matplotlib.style
    with _LOCK, warnings.catch_warnings(), matplotlib.style.context(
            {**_STYLE, "font.family": _fonts(), **settings}, after_reset=True):
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # it shows as a box
        yield


@functools.cache
def _fonts() -> list[str]:
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it tells what it finds
    from matplotlib.font_manager import fontManager
    installed = {font.name for font in fontManager.ttflist}
    return ["sans-serif", *[name for name in _CHINESE_FONTS if name in installed][:1]]


@functools.cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font
    names = ["DejaVu Sans", *_fonts()[1:]]
    return frozenset(code for name in names for code in get_font(findfont(name)).get_charmap())


def name_or_id(name: str, class_id: int) -> str:
    """Return the name of a class, or its id where no font here can write the name."""
    if all(ord(character) in _glyphs() for character in name if not character.isspace()):
        return name
    _tell_of_fonts()
    return f"class {class_id}"


@functools.cache
def _tell_of_fonts() -> None:
    logger.warning(f"no font here has all letters of the class names: pictures show ids in their "
                   f"place; install one that has, such as {_CHINESE_FONTS[0]}")


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this many pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure((width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


class Picture:
    """A figure that comes out as pixels and as SVG, as large as what is on it, with a margin.

    ``drawn`` was made within ``style``; what lies outside of the figure is shown as well. ``title``
    is what an SVG says it is.
    """

    def __init__(self, drawn: "Axes | Figure", title: str):
        self.drawn, self._title = cast("Figure", drawn.figure), title

    @property
    def pixels(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        png = self._saved("png", pil_kwargs={"compress_level": 1})
        return np.array(Image.open(io.BytesIO(png)).convert("RGB"))

    @property
    def svg(self) -> str:
        """An SVG element with text as text, for a file of its own or within HTML."""
        text = self._saved("svg", metadata={"Title": self._title}).decode()
        # Without when and by what it was made, and without names of groups, which several
        # plots on a page would share.
        return re.sub('<metadata>.*?</metadata>|(?<=<g) id="[^"]*"', "",
                      text[text.index("<svg"):], flags=re.DOTALL)

    def save(self, stem: str) -> list[str]:
        """Write ``stem``.png and ``stem``.svg, atomically, and return their paths."""
        save_png(f"{stem}.png", self.pixels)
        write_text(f"{stem}.svg", self.svg)
        return [f"{stem}.png", f"{stem}.svg"]

    def _saved(self, kind: str, **options: Any) -> bytes:
        from matplotlib.transforms import Bbox
        buffer = io.BytesIO()
        with style(**{"svg.hashsalt": self._title}):  # the same names in every SVG of this title
            box = self.drawn.get_tightbbox().padded(MARGIN / DPI)
            whole = Bbox(np.round(box.get_points() * DPI) / DPI)
            self.drawn.savefig(buffer, format=kind, bbox_inches=whole, **options)
        return buffer.getvalue()


def new_axes(width: float, height: float, title: str) -> "Axes":
    """Axes of this many pixels, without their labels, as the whole of a new figure."""
    axes = new_figure(width, height).add_axes((0, 0, 1, 1))
    axes.set_title(title, loc="left")
    axes.yaxis.set_major_formatter("{x:g}")
    return axes


def mark(index: int) -> dict[str, Any]:
    """Colour and shape of the marks of series ``index``."""
    return {"color": _COLORS[index % len(_COLORS)], "marker": _SHAPES[index % len(_SHAPES)],
            "linestyle": "none"}


def line(index: int) -> dict[str, Any]:
    """Colour and dashes of the line of series ``index``, with its mark at the last point."""
    return mark(index) | {"linestyle": _DASHES[index % len(_DASHES)], "markevery": [-1]}


def legend_above(axes: "Axes", names: Sequence[str], indices: Sequence[int],
                 room: float = 0) -> None:
    """Name the series over the title, in lines as wide as the axes or, if given, ``room``."""
    from matplotlib.lines import Line2D
    width, height = axes.bbox.size
    add_legend(axes, [Line2D([], [], **mark(index)) for index in indices], names,
               room=room or width, loc="lower left", bbox_to_anchor=(0, 1 + 28 / height))


def add_legend(owner: "Axes | Figure", handles: "Sequence[Artist]", names: Sequence[str],
               looks: Sequence[Mapping[str, Any]] = (), *, room: float, **place: Any) -> "Legend":
    """Add a legend in as many columns as fit into ``room`` pixels.

    ``looks`` are properties of the texts, such as weight and colour.
    """
    gap, *chip = (_STYLE["font.size"] * DPI / 72 * _STYLE[f"legend.{part}"]
                  for part in ("columnspacing", "handlelength", "handletextpad"))
    column = gap + sum(chip) + max(text_width(name, "bold") for name in names)
    legend = owner.legend(handles, names, ncols=max(1, int((room + gap) // column)), **place)
    for text, look in zip(legend.get_texts(), looks):
        text.set(**look)
    return legend


def write(owner: "Axes | Figure", x: float, y: float, text: str, **look: Any) -> "Bbox":
    """Write at so many pixels to the right of and below the upper left corner of ``owner``."""
    from matplotlib.figure import Figure
    from matplotlib.transforms import Affine2D, ScaledTranslation
    inches = Affine2D().scale(1 / DPI, -1 / DPI) + cast("Figure", owner.figure).dpi_scale_trans
    box = owner.transFigure if isinstance(owner, Figure) else owner.transAxes
    corner = ScaledTranslation(0, 1, cast("Affine2D", box))
    return owner.text(x, y, text, transform=inches + corner, **look).get_window_extent()


@functools.lru_cache(maxsize=4096)
def text_width(text: str, weight: str = "normal") -> float:
    """In pixels, of one line, within ``style``."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path
    font = FontProperties(weight=weight)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] * DPI / 72


def shorten(text: str, room: float, weight: str = "normal") -> str:
    """``text`` in one line, cut with dots where it is wider than ``room`` pixels."""
    text = " ".join(text.split())
    if not text or text_width(text, weight) <= room:
        return text
    length = bisect.bisect(range(1, len(text)), room,
                           key=lambda length: text_width(f"{text[:length]}…", weight))
    return f"{text[:length]}…"


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
    """Write a picture, uint8 RGB [H, W, 3] or a single channel [H, W].

    OpenCV takes a tenth of Pillow's time for a photograph, and other threads go on meanwhile.
    """
    if picture.ndim != 2 or picture.dtype != np.uint8:
        check_image(picture)
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    with open(path, "wb") as file:  # cv2.imwrite does not say that a disk is full
        file.write(cv2.imencode(".png", picture)[1])
