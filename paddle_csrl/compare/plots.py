"""Plots of a comparison as SVG: scores by method and split, and differences to the reference."""

import math
from collections.abc import Sequence

import numpy as np

from paddle_csrl.compare.results import Results
from paddle_csrl.compare.statistics import Interval
from paddle_csrl.visualize.svg import (
    BOTTOM,
    CHARACTER,
    FAINT,
    GRID,
    INK,
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

_HEIGHT = 340
_ROW = 18
_PANEL = 230


def all_plots(results: Results) -> dict[str, str]:
    """SVG texts by file name; only what there are results for."""
    plots = {"hiou.svg": score_plot(results), "hiou_differences.svg": difference_plot(results),
             "hiou_by_seen_classes.svg": seen_classes_plot(results),
             "seen_unseen.svg": curve_plot(results)}
    if results.plan.calibrations:
        plots["ausuc_differences.svg"] = difference_plot(results, "ausuc")
    return {name: text for name, text in plots.items() if text}


def score_plot(results: Results, key: str = "hiou") -> str:
    """Every cell's score, by split and method, with the mean as a bar."""
    values = {(split, method): results.finished(split, method)[key].dropna().tolist()
              for split in results.plan.splits for method in results.plan.methods}
    found = [value for group in values.values() for value in group]
    if not found:
        return ""
    splits, methods = list(results.plan.splits), list(results.plan.methods)
    step = max(22, 90 // len(methods))
    widths = [max(step * len(methods), CHARACTER * len(split)) + 24 for split in splits]
    names = [results.label(method) for method in methods]
    width = max(LEFT + sum(widths) + RIGHT, legend_width(names))
    drawing = Drawing(width, _HEIGHT, f"{results.scores[key]} by split and method")
    scale = Scale(*padded(min(found), max(found)), _HEIGHT - BOTTOM, TOP)
    legend(drawing, names, range(len(names)))
    horizontal_grid(drawing, scale, f"{results.scores[key]}, %", width)
    left = LEFT
    for split, room in zip(splits, widths):
        first = left + (room - step * (len(methods) - 1)) / 2
        for index, method in enumerate(methods):
            x = first + step * index
            group = values[split, method]
            for value, shift in zip(group, _spread(len(group), step)):
                drawing.marker(index, x + shift, scale(value), opacity=0.55)
            if group:
                y = scale(sum(group) / len(group))
                drawing.line(x - 0.4 * step, y, x + 0.4 * step, y, INK, 2)
        drawing.text(left + room / 2, _HEIGHT - 12, split, "middle")
        left += room
        if split != splits[-1]:
            drawing.line(left, TOP, left, _HEIGHT - BOTTOM, GRID)
    return drawing.render()


def difference_plot(results: Results, key: str = "hiou") -> str:
    """Mean paired differences with their intervals: methods, each with its splits and over all."""
    methods = [method for method in results.plan.methods if method != results.plan.reference]
    blocks = []
    for method in methods:
        difference = results.difference(method, key)
        rows = [(split, interval) for split, interval in difference.splits.items()]
        if len(rows) > 1:
            rows.append(("over splits", difference.over_splits))
        if rows:
            blocks.append((method, rows))
    if not blocks:
        return ""
    intervals = [interval for _, rows in blocks for _, interval in rows]
    labels = [name for _, rows in blocks for name, _ in rows]
    left = 28 + CHARACTER * max(map(len, [*labels, *(results.label(m) for m, _ in blocks)]))
    height = 62 + sum(_ROW * (len(rows) + 1) + 8 for _, rows in blocks) + 34
    width = left + 470
    against = f"{results.scores[key]} against {results.label(results.plan.reference)}"
    drawing = Drawing(width, height, against)
    scale = Scale(*padded(*_shown_range(intervals)), left, width - 70)
    drawing.text(14, 22, f"{against}, in points: mean and 95 % interval", bold=True)
    for tick in scale.ticks():
        drawing.line(scale(tick), 40, scale(tick), height - 34, INK if tick == 0 else GRID)
        drawing.text(scale(tick), height - 16, number(tick), "middle", FAINT)
    y = 56.0
    for method, rows in blocks:
        drawing.text(14, y, results.label(method), bold=True)
        for name, interval in rows:
            y += _ROW
            over_all = name == "over splits"
            drawing.text(24, y, name, bold=over_all)
            _interval(drawing, scale, interval, y - 4, 3 if over_all else 1.5)
            drawing.marker(list(results.plan.methods).index(method), scale(interval.mean), y - 4,
                           5.5 if over_all else 4)
            drawing.text(width - 62, y, f"n = {interval.n}", color=FAINT)
        y += _ROW + 8
    return drawing.render()


def seen_classes_plot(results: Results, key: str = "hiou") -> str:
    """Mean differences against the number of seen classes, if that differs between splits."""
    sizes = {split: sum(not unseen for unseen in results.classes(split).values())
             for split in results.plan.splits if results.classes(split)}
    methods = [method for method in results.plan.methods if method != results.plan.reference]
    series = {method: sorted((sizes[split], interval)
                             for split, interval in results.difference(method, key).splits.items())
              for method in methods}
    intervals = [interval for points in series.values() for _, interval in points]
    if len(set(sizes.values())) < 2 or not intervals:
        return ""
    names = [results.label(method) for method in methods]
    width = max(620, legend_width(names))
    drawing = Drawing(width, _HEIGHT, f"{results.scores[key]} gain by number of seen classes")
    across = Scale(*padded(min(sizes.values()), max(sizes.values()), 0.1), LEFT, width - RIGHT)
    up = Scale(*padded(*_shown_range(intervals)), _HEIGHT - BOTTOM - 8, TOP)
    indices = [list(results.plan.methods).index(method) for method in methods]
    legend(drawing, names, indices)
    horizontal_grid(drawing, up, f"{results.scores[key]} against "
                                 f"{results.label(results.plan.reference)}, points", width)
    for size in sorted(set(sizes.values())):
        drawing.text(across(size), _HEIGHT - 24, str(size), "middle", FAINT)
    drawing.text(width / 2, _HEIGHT - 8, "number of seen classes", "middle", FAINT)
    for place, (index, method) in enumerate(zip(indices, methods)):
        shift = 9 * (place - (len(methods) - 1) / 2)
        for size, interval in series[method]:
            x = across(size) + shift
            low, high = _clipped(interval, up)
            drawing.line(x, up(low), x, up(high), FAINT, 1.5)
            drawing.marker(index, x, up(interval.mean))
    return drawing.render()


def curve_plot(results: Results) -> str:
    """A panel per split: unseen against seen mIoU at every calibration, means over the cells.

    The mark of a method is where its own calibration is.
    """
    curves = {(split, method): curve
              for split in results.plan.splits for method in results.plan.methods
              if (curve := results.curve(split, method)) is not None}
    if not curves:
        return ""
    names = [results.label(method) for method in results.plan.methods]
    splits = [split for split in results.plan.splits
              if any(key[0] == split for key in curves)]
    width = max(LEFT + _PANEL * len(splits) + RIGHT, legend_width(names))
    drawing = Drawing(width, _HEIGHT, "Unseen against seen mIoU along the calibration")
    legend(drawing, names, range(len(names)))
    top = max(float(np.nanmax(points[:, 1])) for points in curves.values())
    up = Scale(0, padded(0, top)[1], _HEIGHT - BOTTOM - 16, TOP)
    horizontal_grid(drawing, up, "unseen mIoU, %", width)
    for place, split in enumerate(splits):
        left = LEFT + _PANEL * place
        own = {method: points for (of, method), points in curves.items() if of == split}
        right = max(float(np.nanmax(points[:, 0])) for points in own.values())
        across = Scale(0, padded(0, right)[1], left, left + _PANEL - 24)
        for tick in across.ticks(4):
            drawing.text(across(tick), _HEIGHT - 36, number(tick), "middle", FAINT)
        drawing.text(left + _PANEL / 2, _HEIGHT - 20, "seen mIoU, %", "middle", FAINT)
        drawing.text(left + _PANEL / 2, _HEIGHT - 4, split, "middle", bold=True)
        for method, points in own.items():
            index = list(results.plan.methods).index(method)
            drawing.path(index, [(across(x), up(y)) for x, y in points])
            drawing.marker(index, across(results.summary(split, method, "seen_miou").mean),
                           up(results.summary(split, method, "unseen_miou").mean), 5)
    return drawing.render()


def _shown_range(intervals: Sequence[Interval]) -> tuple:
    """Zero, all means, and of the intervals what does not dwarf them."""
    means = [interval.mean for interval in intervals] + [0.0]
    reach = 2.5 * max(max(means) - min(means), 1.0)
    low = min(_or(interval.low, interval.mean) for interval in intervals)
    high = max(_or(interval.high, interval.mean) for interval in intervals)
    return (max(min(low, *means), min(means) - reach), min(max(high, *means), max(means) + reach))


def _or(value: float, other: float) -> float:
    return other if math.isnan(value) else value


def _clipped(interval: Interval, scale: Scale) -> tuple:
    return (max(_or(interval.low, interval.mean), scale.low),
            min(_or(interval.high, interval.mean), scale.high))


def _interval(drawing: Drawing, scale: Scale, interval: Interval, y: float, width: float) -> None:
    """A horizontal interval; its ends are closed where they are on the axis, else pointed."""
    if interval.n < 2:
        return
    low, high = _clipped(interval, scale)
    drawing.line(scale(low), y, scale(high), y, FAINT, width)
    for end, true_end, direction in ((low, interval.low, 1), (high, interval.high, -1)):
        x = scale(end)
        if end == true_end:
            drawing.line(x, y - 4, x, y + 4, FAINT, width)
        else:
            drawing.line(x, y, x + 6 * direction, y - 4, FAINT, width)
            drawing.line(x, y, x + 6 * direction, y + 4, FAINT, width)


def _spread(count: int, step: float) -> list[float]:
    """Shifts that keep ``count`` points of a column apart."""
    if count < 2:
        return [0.0] * count
    return [0.5 * step * (index / (count - 1) - 0.5) for index in range(count)]
