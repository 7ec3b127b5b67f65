"""Heat maps of the relations between classes."""

import re
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from paddle_csrl.errors import UserError
from paddle_csrl.visualize.drawing import (
    FAINT,
    FONT_SIZE,
    INK,
    MARGIN,
    PAPER,
    TITLE_SIZE,
    Canvas,
    shorten,
    text_width,
    wrap,
)

_NAME_ROOM = 190
_BAR_WIDTH = 14
_FIGURE_CELL, _NOTE_SIZE = 38, 13

# Blue - white - red with equal lightness on both sides (after ColorBrewer's RdBu).
_DIVERGING = np.float32([(5, 48, 97), (33, 102, 172), (103, 169, 207), (209, 229, 240),
                         (247, 247, 247), (253, 219, 199), (239, 138, 98), (178, 24, 43),
                         (103, 0, 31)])


def relation_heatmap(matrix: np.ndarray, row_names: Sequence[str], col_names: Sequence[str],
                     title: str = "", vmin: float = -1.0, vmax: float = 1.0) -> np.ndarray:
    """A heat map of the relations between classes, with names, values and a colour bar.

    Blue - white - red where vmin < 0 < vmax (white is the middle of the range), else cividis.
    Values outside the range take the colour of its end; what is not a number is hatched.

    Args:
        matrix (np.ndarray): float [R, K], such as cosines [U, S].
        row_names (list[str]): R names.
        col_names (list[str]): K names.
        title (str, optional): written above.
        vmin (float): lower end of the colours.
        vmax (float): upper end of the colours.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UserError: the matrix is empty or does not fit the names, or vmin >= vmax.
    """
    matrix = _checked(matrix, row_names, col_names, vmin, vmax)
    rows, columns = matrix.shape
    cell = int(np.clip(900 // max(rows, columns), 18, 44))
    row_names, col_names = _short(row_names), _short(col_names)
    left = MARGIN + _widest(row_names) + 8
    top = MARGIN + (TITLE_SIZE + 12 if title else 0) + _widest(col_names) + 8
    bar_left, bar_height = left + columns * cell + 18, max(rows * cell, 120)
    width = max(bar_left + _bar_room(vmin, vmax) + MARGIN,
                2 * MARGIN + int(np.ceil(text_width(title, TITLE_SIZE))))
    canvas = Canvas(width, top + bar_height + MARGIN + 4)
    canvas.text((MARGIN, MARGIN), title, size=TITLE_SIZE, anchor="la")
    _draw_map(canvas, matrix, (left, top), cell, vmin, vmax)
    _draw_row_names(canvas, row_names, (left, top), cell)
    _draw_col_names(canvas, col_names, (left, top), cell)
    _draw_bar(canvas, (bar_left, top), bar_height, vmin, vmax)
    return canvas.pixels


def relation_panel(semantic: np.ndarray, generated: np.ndarray, row_names: Sequence[str],
                   col_names: Sequence[str],
                   titles: Sequence[str] = ("Semantic relations", "Generated relations"),
                   vmin: float = -1.0, vmax: float = 1.0) -> np.ndarray:
    """Two heat maps of the same classes: side by side, or one over the other if they are wide.

    Args:
        semantic (np.ndarray): float [R, K].
        generated (np.ndarray): float [R, K].
        row_names, col_names, vmin, vmax: as for ``relation_heatmap``.
        titles (list[str]): one for each map.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UserError: as ``relation_heatmap``.
    """
    maps = [relation_heatmap(matrix, row_names, col_names, title, vmin, vmax)
            for matrix, title in zip((semantic, generated), titles)]
    side = int(len(col_names) <= 2 * len(row_names))
    length = max(picture.shape[1 - side] for picture in maps)
    padded = []
    for picture in maps:
        margins = [(0, 0), (0, 0), (0, 0)]
        margins[1 - side] = (0, length - picture.shape[1 - side])
        padded.append(np.pad(picture, margins, constant_values=255))
    return np.concatenate(padded, axis=side)


def relation_figure(panels: Mapping[str, np.ndarray], row_names: Sequence[str],
                    col_names: Sequence[str], captions: Mapping[str, str],
                    notes: Sequence[str] = (), vmin: float = -1.0, vmax: float = 1.0) -> Canvas:
    """Heat maps of the same classes in several spaces, under one another on one colour scale.

    Args:
        panels (dict[str, np.ndarray]): float [R, K] by title.
        row_names, col_names, vmin, vmax: as for ``relation_heatmap``.
        captions (dict[str, str]): the line under a panel, by its title.
        notes (list[str]): what is said below all panels.

    Returns:
        Canvas: to be saved as PNG and SVG.

    Raises:
        UserError: as ``relation_heatmap``, or there is no panel.
    """
    if not panels:
        raise UserError("a figure of relations needs at least one panel")
    matrices = {title: _checked(matrix, row_names, col_names, vmin, vmax)
                for title, matrix in panels.items()}
    row_names, col_names = _short(row_names), _short(col_names)
    cell = _FIGURE_CELL
    left = MARGIN + _widest(row_names) + 8
    map_width, map_height = len(col_names) * cell, len(row_names) * cell
    texts = [*matrices, *captions.values()]
    room = max(left - MARGIN + map_width,
               *(int(np.ceil(text_width(text, TITLE_SIZE))) for text in texts))
    lines = [line for note in notes for line in wrap(note, _NOTE_SIZE, room)]
    head, foot = TITLE_SIZE + 14, 42
    names_height = _widest(col_names) + 8
    height = (MARGIN + names_height + len(matrices) * (head + map_height + foot)
              + len(lines) * (_NOTE_SIZE + 6) + MARGIN)
    bar_left = MARGIN + room + 18  # beside all text, for it may be longer than a map is high
    canvas = Canvas(bar_left + _bar_room(vmin, vmax) + MARGIN, height)

    y = MARGIN
    for number, (title, matrix) in enumerate(matrices.items()):
        canvas.text((MARGIN, y), title, size=TITLE_SIZE, anchor="la", bold=True)
        y += head
        if number == 0:
            y += names_height
            _draw_col_names(canvas, col_names, (left, y), cell)
            _draw_bar(canvas, (bar_left, y), max(map_height, 120), vmin, vmax)
        _draw_map(canvas, matrix, (left, y), cell, vmin, vmax)
        _draw_row_names(canvas, row_names, (left, y), cell)
        canvas.text((MARGIN, y + map_height + 12), captions.get(title, ""), FAINT)
        y += map_height + foot
    for line in lines:
        canvas.text((MARGIN, y), line, FAINT, _NOTE_SIZE, anchor="la")
        y += _NOTE_SIZE + 6
    return canvas


def _checked(matrix: np.ndarray, row_names: Sequence[str], col_names: Sequence[str],
             vmin: float, vmax: float) -> np.ndarray:
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (len(row_names), len(col_names)) or matrix.size == 0:
        raise UserError(f"the relations are {list(matrix.shape)} for {len(row_names)} row and "
                        f"{len(col_names)} column names; both need at least one")
    if not vmin < vmax:
        raise UserError(f"`vmin: {vmin}` must be less than `vmax: {vmax}`")
    return matrix


def _short(names: Sequence[str]) -> list[str]:
    return [shorten(name, FONT_SIZE, _NAME_ROOM) for name in names]


def _widest(names: Sequence[str]) -> int:
    return int(np.ceil(max(text_width(name, FONT_SIZE) for name in names)))


def _draw_row_names(canvas: Canvas, names: Sequence[str], corner: tuple[int, int],
                    cell: int) -> None:
    for row, name in enumerate(names):
        canvas.text((corner[0] - 8, corner[1] + (row + 0.5) * cell), name, anchor="rm")


def _draw_col_names(canvas: Canvas, names: Sequence[str], corner: tuple[int, int],
                    cell: int) -> None:
    for column, name in enumerate(names):
        canvas.upright_text((corner[0] + column * cell + cell // 2, corner[1] - 8), name)


def _color_table(vmin: float, vmax: float) -> np.ndarray:
    """[T, 3]: colours at equal steps from vmin to vmax."""
    if vmin < 0 < vmax:
        return _DIVERGING
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    return cv2.applyColorMap(ramp, cv2.COLORMAP_CIVIDIS)[:, 0, ::-1]


def _colors(values: np.ndarray, vmin: float, vmax: float) -> np.ndarray:
    """uint8 [..., 3]: the colours of ``values``, interpolated between those of the table."""
    table = _color_table(vmin, vmax)
    place = np.clip((np.nan_to_num(values) - vmin) / (vmax - vmin), 0, 1) * (len(table) - 1)
    tones = [np.interp(place, np.arange(len(table)), tone) for tone in table.T]
    return np.rint(np.stack(tones, -1)).astype(np.uint8)


def _draw_map(canvas: Canvas, matrix: np.ndarray, corner: tuple[int, int], cell: int,
              vmin: float, vmax: float) -> None:
    """Draw the cells and, where they are large enough, their values."""
    colors, missing = _colors(matrix, vmin, vmax), np.isnan(matrix)
    canvas.cells(corner, colors, cell, missing)
    if cell < 36:
        return
    luminance = colors @ np.array([0.299, 0.587, 0.114])
    for (row, column), value in np.ndenumerate(matrix):
        if not missing[row, column]:
            place = (corner[0] + (column + 0.5) * cell, corner[1] + (row + 0.5) * cell)
            canvas.text(place, _cell_text(value), INK if luminance[row, column] > 140 else PAPER,
                        size=13, anchor="mm")


def _cell_text(value: float) -> str:
    """At most two decimals, without the zero before the point: .25, -.03, 1.00, 12.3."""
    if abs(value) >= 10:
        return f"{value:.3g}"
    return re.sub(r"^(-?)0\.", r"\1.", f"{round(value, 2) + 0.0:.2f}")  # + 0.0 turns -0 into 0


def _bar_ends(vmin: float, vmax: float) -> list[str]:
    return [f"{value:.3g}" for value in (vmin, (vmin + vmax) / 2, vmax)]


def _bar_room(vmin: float, vmax: float) -> int:
    """Width of a colour bar with its values, in pixels."""
    return _BAR_WIDTH + 8 + _widest(_bar_ends(vmin, vmax))


def _draw_bar(canvas: Canvas, corner: tuple[int, int], height: int, vmin: float,
              vmax: float) -> None:
    """A colour bar with its lowest, middle and highest value."""
    left, top = corner
    canvas.ramp(corner, _BAR_WIDTH, _colors(np.linspace(vmax, vmin, height), vmin, vmax))
    for share, text in zip((1.0, 0.5, 0.0), _bar_ends(vmin, vmax)):
        canvas.text((left + _BAR_WIDTH + 8, top + share * (height - 1)), text, FAINT)
