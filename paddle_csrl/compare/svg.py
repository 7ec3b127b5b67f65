"""A few SVG shapes, and axes to place them on."""

import math
from html import escape
from typing import List, Tuple

INK, FAINT, GRID = "#202124", "#6e7176", "#e3e4e6"

# The colour-blind-safe colours of Okabe & Ito (2008), without the yellow that white hides; each
# has a shape of its own as well.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
SHAPES = ("circle", "square", "triangle", "diamond", "cross")


class Drawing:
    """SVG elements in the order they are painted; coordinates in pixels from the top left."""

    def __init__(self, width: float, height: float, title: str):
        self.width, self.height, self.title = width, height, title
        self._elements: List[str] = []

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

    def path(self, index: int, points: List[Tuple[float, float]]) -> None:
        """A line through ``points`` in the colour of series ``index``."""
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._elements.append(f'<polyline points="{text}" fill="none" stroke-width="1.5" '
                              f'stroke="{COLORS[index % len(COLORS)]}"/>')

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

    def ticks(self, count: int = 6) -> List[float]:
        """About ``count`` multiples of 1, 2 or 5 times a power of ten, within the axis."""
        extent = self.high - self.low
        power = 10.0 ** math.floor(math.log10(extent / count))
        step = min((power * factor for factor in (1, 2, 5, 10)),
                   key=lambda step: abs(extent / step - count))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [step * index for index in range(first, last + 1)]


def padded(low: float, high: float, share: float = 0.06) -> Tuple[float, float]:
    """The range with some room at both ends."""
    room = share * (high - low) or 1.0
    return low - room, high + room


def number(value: float) -> str:
    """A tick's label, with a real minus sign."""
    return f"{value:g}".replace("-", "−")
