"""A few SVG shapes, and axes to place them on."""

import math
from collections.abc import Sequence
from html import escape

INK, FAINT, GRID = "#202124", "#6e7176", "#e3e4e6"

# The colour-blind-safe colours of Okabe & Ito (2008), without the yellow that white hides; each
# has a shape of its own as well.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2")

#: Room around the axes of a plot, and the width of a letter, in pixels.
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 58, 36
CHARACTER = 6.8


class Drawing:
    """SVG elements in the order they are painted; coordinates in pixels from the top left."""

    def __init__(self, width: float, height: float, title: str):
        self.width, self.height, self.title = width, height, title
        self._elements: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, color: str = INK,
             width: float = 1.0) -> None:
        self._elements.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
                              f'stroke="{color}" stroke-width="{width}"/>')

    def text(self, x: float, y: float, text: str, anchor: str = "start", color: str = INK,
             bold: bool = False) -> None:
        """``anchor``: start, middle or end; ``y`` is the baseline."""
        weight = ' font-weight="bold"' if bold else ""
        self._elements.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
                              f'fill="{color}"{weight}>{escape(text)}</text>')

    def path(self, index: int, points: Sequence[tuple[float, float]]) -> None:
        """The line of series ``index`` through ``points``: a colour and dashes."""
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = DASHES[index % len(DASHES)]
        style = f' stroke-dasharray="{dashes}"' if dashes else ""
        self._elements.append(f'<polyline points="{text}" fill="none" stroke-width="1.8" '
                              f'stroke-linejoin="round" '
                              f'stroke="{COLORS[index % len(COLORS)]}"{style}/>')

    def marker(self, index: int, x: float, y: float, radius: float = 4.0,
               opacity: float = 1.0) -> None:
        """The mark of series ``index``: a colour and a shape."""
        shape, color = SHAPES[index % len(SHAPES)], COLORS[index % len(COLORS)]
        style = f'fill="{color}" fill-opacity="{opacity}"'
        if shape == "circle":
            self._elements.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" {style}/>')
            return
        r = radius
        corners = {"square": [(-r, -r), (r, -r), (r, r), (-r, r)],
                   "triangle": [(0, -1.2 * r), (1.1 * r, r), (-1.1 * r, r)],
                   "diamond": [(0, -1.3 * r), (1.3 * r, 0), (0, 1.3 * r), (-1.3 * r, 0)],
                   "cross": [(-r, -r / 3), (-r / 3, -r / 3), (-r / 3, -r), (r / 3, -r),
                             (r / 3, -r / 3), (r, -r / 3), (r, r / 3), (r / 3, r / 3),
                             (r / 3, r), (-r / 3, r), (-r / 3, r / 3), (-r, r / 3)]}[shape]
        points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
        self._elements.append(f'<polygon points="{points}" {style}/>')

    def render(self) -> str:
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:.0f}" '
                f'height="{self.height:.0f}" viewBox="0 0 {self.width:.0f} {self.height:.0f}" '
                f'role="img" font-family="Helvetica, Arial, sans-serif" font-size="12">'
                f'<title>{escape(self.title)}</title>'
                f'<rect width="100%" height="100%" fill="#ffffff"/>'
                + "\n".join(self._elements) + "</svg>\n")


class Scale:
    """A linear axis from values to pixels, with round ticks.

    Args:
        low, high (float): the values to show; widened where they are equal.
        start, stop (float): their pixels.
    """

    def __init__(self, low: float, high: float, start: float, stop: float):
        if high - low < 1e-9:
            low, high = low - 1.0, high + 1.0
        self.low, self.high, self.start, self.stop = low, high, start, stop

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self, count: int = 6) -> list[float]:
        """About ``count`` multiples of 1, 2 or 5 times a power of ten, within the axis."""
        extent = self.high - self.low
        power = 10.0 ** math.floor(math.log10(extent / count))
        step = min((power * factor for factor in (1, 2, 5, 10)),
                   key=lambda step: abs(extent / step - count))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [step * index for index in range(first, last + 1)]


def padded(low: float, high: float, share: float = 0.06) -> tuple[float, float]:
    """The range with some room at both ends."""
    room = share * (high - low) or 1.0
    return low - room, high + room


def number(value: float) -> str:
    """A tick's label, with a real minus sign."""
    return f"{value:g}".replace("-", "−")


def horizontal_grid(drawing: Drawing, scale: Scale, title: str, width: float) -> None:
    """Lines at the ticks of an upright axis, over the ``width`` of a plot, with their values."""
    drawing.text(14, TOP - 12, title, color=FAINT)
    for tick in scale.ticks():
        drawing.line(LEFT, scale(tick), width - RIGHT, scale(tick), FAINT if tick == 0 else GRID)
        drawing.text(LEFT - 6, scale(tick) + 4, number(tick), "end", FAINT)


def legend(drawing: Drawing, names: Sequence[str], indices: Sequence[int]) -> None:
    """Marks and names of the series, in a line at the top."""
    x = 20.0
    for name, index in zip(names, indices):
        drawing.marker(index, x, 18)
        drawing.text(x + 10, 22, name)
        x += 34 + CHARACTER * len(name)


def legend_width(names: Sequence[str]) -> float:
    """How wide ``legend`` gets, in pixels."""
    return 20 + sum(34 + CHARACTER * len(name) for name in names)
