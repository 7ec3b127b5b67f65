"""Heat maps of the relations between classes."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from paddle_csrl.errors import UserError
from paddle_csrl.visualize.drawing import (
    DPI,
    FAINT,
    HATCH,
    INK,
    Picture,
    new_figure,
    shorten,
    style,
    write,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

#: Pixels: for a name, beside a map, below a map, a cell of a figure, the least one with a value.
_NAME_ROOM, _GAP, _BETWEEN, _FIGURE_CELL, _CELL_WITH_VALUE = 190, 40, 75, 38, 36


def relation_panel(semantic: np.ndarray, generated: np.ndarray, row_names: Sequence[str],
                   col_names: Sequence[str],
                   titles: Sequence[str] = ("Semantic relations", "Generated relations"),
                   vmin: float = -1.0, vmax: float = 1.0) -> np.ndarray:
    """Draw two heat maps of the same classes: side by side, or under one another if they are wide.

    Blue - white - red where vmin < 0 < vmax (white is the middle of the range), else cividis.
    Values outside the range take the colour of its end; what is not a number is hatched.

    Args:
        semantic, generated (np.ndarray): float [R, K], such as cosines [U, S].
        row_names, col_names (list[str]): R and K names.
        titles (list[str]): one for each map.
        vmin, vmax (float): ends of the colours.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UserError: a matrix is empty or does not fit the names, or vmin >= vmax.
    """
    maps = [(title, matrix, "") for title, matrix in zip(titles, (semantic, generated))]
    return _maps(maps, row_names, col_names, vmin=vmin, vmax=vmax,
                 beside=len(col_names) <= 2 * len(row_names)).pixels


def relation_figure(panels: Mapping[str, np.ndarray], row_names: Sequence[str],
                    col_names: Sequence[str], captions: Mapping[str, str],
                    notes: Sequence[str] = (), vmin: float = -1.0, vmax: float = 1.0) -> Picture:
    """Draw heat maps of the same classes in several spaces, under one another on one colour scale.

    ``panels`` are float [R, K] by title, ``captions`` the line under each, ``notes`` what is said
    below all. The others, and the errors, are as for ``relation_panel``.
    """
    if not panels:
        raise UserError("a figure of relations needs at least one panel")
    maps = [(title, matrix, captions.get(title, "")) for title, matrix in panels.items()]
    return _maps(maps, row_names, col_names, notes, vmin=vmin, vmax=vmax, cell=_FIGURE_CELL)


@style()
def _maps(maps: Sequence[tuple[str, np.ndarray, str]], row_names: Sequence[str],
          col_names: Sequence[str], notes: Sequence[str] = (), *, vmin: float, vmax: float,
          cell: int = 0, beside: bool = False) -> Picture:
    """Maps with title and caption, beside or under one another; names that they share stand once.

    ``cell`` is the side of a cell in pixels, 0 for what fits.
    """
    matrices = [_checked(matrix, row_names, col_names, vmin, vmax) for _, matrix, _ in maps]
    cell = cell or int(np.clip(900 // max(matrices[0].shape), 18, 44))
    height, width = (cell * length for length in matrices[0].shape)
    figure, left, top = new_figure(width, height), 0.0, 0.0
    for number, ((title, _, caption), matrix) in enumerate(zip(maps, matrices)):
        axes = figure.add_axes((left / width, -top / height, 1, 1))
        mesh = _draw_cells(axes, matrix, vmin, vmax, has_values=cell >= _CELL_WITH_VALUE)
        above = _write_names(axes, row_names if number == 0 or not beside else (),
                             col_names if number == 0 or beside else (), cell)
        title_width = write(axes, 0, -above, title, weight="bold").width
        write(axes, 0, height + 10, caption, va="top", color=FAINT)
        if number == (len(maps) - 1 if beside else 0):
            long = 1 if caption else max(1, 60 / height)  # within the map where text is below
            bar = axes.inset_axes((1 + 18 / width, 1 - long, 14 / width, long))
            figure.colorbar(mesh, bar, ticks=[vmin, (vmin + vmax) / 2, vmax], format="{x:.3g}")
        if beside:
            left += max(width, title_width) + _GAP
        else:
            top += height + _BETWEEN
    lines = [line for note in notes for line in textwrap.wrap(note, 90)]
    write(axes, 0, height + 44, "\n".join(lines), va="top", color=FAINT, size=8.5)
    return Picture(figure, "Relations between classes")


def _draw_cells(axes: "Axes", matrix: np.ndarray, vmin: float, vmax: float,
                has_values: bool) -> "QuadMesh":
    from matplotlib import colormaps
    colors = colormaps["RdBu_r" if vmin < 0 < vmax else "cividis"].resampled(255)
    mesh = axes.pcolormesh(np.clip(matrix, vmin, vmax), cmap=colors, vmin=vmin, vmax=vmax,
                           edgecolors="white", linewidth=72 / DPI)
    axes.invert_yaxis()
    axes.xaxis.set_visible(False)
    axes.yaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.patch.set(hatch="////", edgecolor=HATCH, linewidth=0)  # shows where a cell is missing
    luminance = mesh.to_rgba(matrix)[..., :3] @ (0.299, 0.587, 0.114)
    for (row, column), value in np.ndenumerate(matrix):
        if has_values and not np.isnan(value):
            axes.text(column + 0.5, row + 0.5, _cell_text(value), ha="center", va="center", size=9,
                      in_layout=False, color=INK if luminance[row, column] > 0.55 else "white")
    return mesh


def _write_names(axes: "Axes", row_names: Sequence[str], col_names: Sequence[str],
                 cell: int) -> float:
    """Write names beside and above a map; return the pixels to what stands above them."""
    for row, name in enumerate(row_names):
        write(axes, -8, (row + 0.5) * cell, shorten(name, _NAME_ROOM), ha="right", va="center")
    boxes = [write(axes, (column + 0.5) * cell, -8, shorten(name, _NAME_ROOM), ha="center",
                   rotation=90) for column, name in enumerate(col_names)]
    return 8 + max((box.height + 8 for box in boxes), default=0)


def _checked(matrix: np.ndarray, row_names: Sequence[str], col_names: Sequence[str],
             vmin: float, vmax: float) -> np.ndarray:
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (len(row_names), len(col_names)) or matrix.size == 0:
        raise UserError(f"the relations are {list(matrix.shape)} for {len(row_names)} row and "
                        f"{len(col_names)} column names; both need at least one")
    if not vmin < vmax:
        raise UserError(f"`vmin: {vmin}` must be less than `vmax: {vmax}`")
    return matrix


def _cell_text(value: float) -> str:
    """At most two decimals, without the zero before the point: .25, -.03, 1.00, 12.3."""
    if abs(value) >= 10:
        return f"{value:.3g}"
    return re.sub(r"^(-?)0\.", r"\1.", f"{round(value, 2) + 0.0:.2f}")  # + 0.0 turns -0 into 0


