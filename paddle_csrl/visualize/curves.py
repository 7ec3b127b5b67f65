"""Curves of a training as SVG."""

from collections.abc import Mapping, Sequence

import numpy as np

from paddle_csrl.visualize.drawing import Picture, legend_above, line, new_axes, style

#: How many points a curve has at most.
MAX_POINTS = 240

#: Iterations with a value each.
Series = Sequence[tuple[int, float]]


@style()
def curve_plot(title: str, series: Mapping[str, Series]) -> str:
    """The ``series`` by name over the iterations; empty where none has two finite values.

    A series of more than ``MAX_POINTS`` values is shown as the means of as many equal parts.
    """
    curves = {name: thinned(points) for name, points in series.items()}
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    if not curves:
        return ""
    axes = new_axes(470, 190, title)
    for index, points in enumerate(curves.values()):
        axes.plot(*points.T, **line(index))
    axes.set_xlabel("iteration")
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.xaxis.set_major_formatter("{x:.0f}")
    legend_above(axes, list(curves), range(len(curves)))
    return Picture(axes, title).svg


def thinned(points: Series) -> np.ndarray:
    """float64 [K, 2]: the finite points, as means of equal parts where they are too many."""
    array = np.array(points, np.float64).reshape(-1, 2)
    array = array[np.isfinite(array).all(1)]
    if len(array) <= MAX_POINTS:
        return array
    parts: list[np.ndarray] = np.array_split(array, MAX_POINTS)
    return np.stack([part.mean(0) for part in parts])
