"""Curves of a training as SVG."""

from collections.abc import Mapping, Sequence

import numpy as np

from paddle_csrl.visualize.svg import (
    BOTTOM,
    FAINT,
    LEFT,
    RIGHT,
    TOP,
    Drawing,
    Scale,
    horizontal_grid,
    legend,
    legend_width,
    number,
    padded,
)

_WIDTH, _HEIGHT = 540, 280
#: How many points a curve has at most.
MAX_POINTS = 240

#: Iterations with a value each.
Series = Sequence[tuple[int, float]]


def curve_plot(title: str, series: Mapping[str, Series]) -> str:
    """The ``series`` by name over the iterations; empty where none has two finite values.

    A series of more than ``MAX_POINTS`` values is shown as the means of as many equal parts.
    """
    curves = {name: thinned(points) for name, points in series.items()}
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    if not curves:
        return ""
    together = np.concatenate(list(curves.values()))
    width = max(_WIDTH, legend_width(list(curves)))
    drawing = Drawing(width, _HEIGHT, title)
    across = Scale(together[:, 0].min(), together[:, 0].max(), LEFT, width - RIGHT - 10)
    up = Scale(*padded(together[:, 1].min(), together[:, 1].max()), _HEIGHT - BOTTOM - 8, TOP)
    legend(drawing, list(curves), range(len(curves)))
    horizontal_grid(drawing, up, title, width)
    for tick in across.ticks():
        if float(tick).is_integer():
            drawing.text(across(tick), _HEIGHT - 26, number(int(tick)), "middle", FAINT)
    drawing.text((LEFT + width - RIGHT) / 2, _HEIGHT - 8, "iteration", "middle", FAINT)
    for index, points in enumerate(curves.values()):
        places = [(across(iteration), up(value)) for iteration, value in points]
        drawing.path(index, places)
        drawing.marker(index, *places[-1])
    return drawing.render()


def thinned(points: Series) -> np.ndarray:
    """float64 [K, 2]: the finite points, as means of equal parts where they are too many."""
    array = np.array(points, np.float64).reshape(-1, 2)
    array = array[np.isfinite(array).all(1)]
    if len(array) <= MAX_POINTS:
        return array
    parts: list[np.ndarray] = np.array_split(array, MAX_POINTS)
    return np.stack([part.mean(0) for part in parts])
