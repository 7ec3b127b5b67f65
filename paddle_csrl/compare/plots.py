"""Plots of a comparison as SVG: scores by method and split, and differences to the reference."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from paddle_csrl.compare.results import Results
from paddle_csrl.compare.statistics import Interval
from paddle_csrl.visualize import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT, _ROW, _PANEL, _WIDTH = 250, 18, 210, 1080  # pixels; a page is a little wider
_OVER_SPLITS = "over splits"


@drawing.style()
def all_plots(results: Results) -> dict[str, str]:
    """SVG texts by file name; only what there are results for."""
    plots = {"hiou.svg": _scores(results), "hiou_differences.svg": _differences(results),
             "hiou_by_seen_classes.svg": _by_seen_classes(results),
             "seen_unseen.svg": _curves(results)}
    if results.plan.calibrations:
        plots["ausuc_differences.svg"] = _differences(results, "ausuc")
    return {name: text for name, text in plots.items() if text}


def _scores(results: Results) -> str:
    """Every cell's hIoU, by split and method, with the mean as a bar."""
    splits, methods = list(results.plan.splits), list(results.plan.methods)
    columns = len(methods) + 1  # of a split, one of them empty
    room = max(110, min(22 * columns, _WIDTH / len(splits)), *(drawing.text_width(split) + 16
                                                               for split in splits))
    axes = drawing.new_axes(room * len(splits), _HEIGHT, "hIoU, %")
    for place, split in enumerate(splits):
        for index, method in enumerate(methods):
            values = results.finished(split, method)["hiou"].dropna()
            x = place * columns + index
            reach = 0.25 if len(values) > 1 else 0
            axes.plot(x + np.linspace(-reach, reach, len(values)), values, alpha=0.55,
                      **drawing.mark(index))
            if len(values):
                axes.hlines(values.mean(), x - 0.4, x + 0.4, drawing.INK)
    if not axes.collections:
        return ""
    for place in range(1, len(splits)):
        axes.axvline(place * columns - 1, color=drawing.GRID)
    axes.set_xlim(-1, len(splits) * columns - 1)
    axes.set_xticks(np.arange(len(splits)) * columns + (columns - 2) / 2, splits)
    return _named(axes, results, methods, "hIoU by split and method")


def _differences(results: Results, key: str = "hiou") -> str:
    """Mean paired differences with their intervals: methods, each with its splits and over all."""
    blocks = {}
    for method in results.compared:
        difference = results.difference(method, key)
        if difference.splits:
            blocks[method] = dict(difference.splits)
        if len(difference.splits) > 1:
            blocks[method][_OVER_SPLITS] = difference.over_splits
    if not blocks:
        return ""
    intervals = [interval for rows in blocks.values() for interval in rows.values()]
    against = f"{results.scores[key]} against {results.label(results.plan.reference)}"
    axes = drawing.new_axes(400, _ROW * (len(intervals) + 1.4 * len(blocks)),
                            f"{against}, in points: mean and 95 % interval")
    axes.set_xlim(_shown_range(intervals))
    labels, y = {}, 0.0
    for method, rows in blocks.items():
        labels[y] = results.label(method)
        for name, interval in rows.items():
            y += 1
            labels[y] = name
            _interval(axes, y, interval, drawing.mark(_index(results, method)),
                      weight=2 if name == _OVER_SPLITS else 1)
        y += 1.4
    axes.set_ylim(y - 0.6, -0.8)
    axes.set_yticks(list(labels), list(labels.values()))
    for label in axes.get_yticklabels():
        is_split = label.get_text() in results.plan.splits
        label.set(color=drawing.INK, weight="normal" if is_split else "bold")
    axes.tick_params(length=0)
    axes.grid(False, axis="y")
    axes.grid(axis="x")
    axes.axvline(0, color=drawing.INK, linewidth=1, zorder=1)
    axes.spines["left"].set_visible(False)
    return drawing.Picture(axes, against).svg


def _interval(axes: "Axes", y: float, interval: Interval, shape: dict, weight: int) -> None:
    """A mean and its interval, whose ends are pointed where they are outside of the axis."""
    low, high = axes.get_xlim()
    axes.hlines(y, interval.low, interval.high, drawing.FAINT, linewidth=1.2 * weight)
    for end, pointed in ((interval.low, "<"), (interval.high, ">")):
        axes.plot(np.clip(end, low, high), y, "|" if low <= end <= high else pointed,
                  color=drawing.FAINT, markeredgewidth=1.2 * weight, clip_on=False)
    axes.plot(interval.mean, y, markersize=4.5 + 1.5 * weight, **shape)
    axes.text(1.02, y, f"n = {interval.n}", transform=axes.get_yaxis_transform(), va="center",
              color=drawing.FAINT)


def _by_seen_classes(results: Results) -> str:
    """Mean differences of hIoU against the number of seen classes, if splits differ in that."""
    sizes = {split: sum(not unseen for unseen in classes.values())
             for split in results.plan.splits if (classes := results.classes(split))}
    ticks = sorted(set(sizes.values()))
    methods = results.compared
    series = [results.difference(method).splits for method in methods]
    intervals = [interval for points in series for interval in points.values()]
    if len(ticks) < 2 or not intervals:
        return ""
    reference = results.label(results.plan.reference)
    axes = drawing.new_axes(540, _HEIGHT, f"hIoU against {reference}, points")
    shift = min((ticks[-1] - ticks[0]) / 45, 0.6 * np.diff(ticks).min() / len(methods))
    for place, (method, points) in enumerate(zip(methods, series)):
        for split, interval in points.items():
            x = sizes[split] + shift * (place - (len(methods) - 1) / 2)
            axes.vlines(x, interval.low, interval.high, drawing.FAINT)
            axes.plot(x, interval.mean, **drawing.mark(_index(results, method)))
    axes.axhline(0, color=drawing.FAINT, linewidth=1, zorder=1)
    axes.set_ylim(_shown_range(intervals))
    axes.set_xticks(ticks)
    axes.set_xlabel("number of seen classes")
    return _named(axes, results, methods, "hIoU gain by number of seen classes")


def _curves(results: Results) -> str:
    """A panel per split: unseen against seen mIoU at every calibration, means over the cells.

    The mark of a method is where its own calibration is.
    """
    methods = list(results.plan.methods)
    panels = {split: {method: curve for method in methods
                      if (curve := results.curve(split, method)) is not None}
              for split in results.plan.splits}
    panels = {split: curves for split, curves in panels.items() if curves}
    if not panels:
        return ""
    first = axes = drawing.new_axes(_PANEL, _HEIGHT, "unseen mIoU, %")
    for place, (split, curves) in enumerate(panels.items()):
        if place:
            axes = first.figure.add_axes((1.1 * place, 0, 1, 1), sharey=first)
            axes.tick_params(labelleft=False)
        for method, points in curves.items():
            own = [results.summary(split, method, key).mean for key in ("seen_miou", "unseen_miou")]
            axes.plot(*points.T, **drawing.line(_index(results, method)) | {"marker": ""})
            axes.plot(*own, markersize=8, **drawing.mark(_index(results, method)))
        axes.set_xlim(left=0)
        axes.set_xlabel("seen mIoU, %")
        axes.text(0.5, -0.24, split, transform=axes.transAxes, ha="center", weight="bold")
    first.set_ylim(bottom=0)
    return _named(first, results, methods, "Unseen against seen mIoU along the calibration",
                  room=1.1 * _PANEL * len(panels))


def _index(results: Results, method: str) -> int:
    return list(results.plan.methods).index(method)


def _named(axes: "Axes", results: Results, methods: Sequence[str], title: str,
           room: float = 0) -> str:
    """The SVG, with a legend of the methods."""
    drawing.legend_above(axes, [results.label(method) for method in methods],
                         [_index(results, method) for method in methods], room)
    return drawing.Picture(axes, title).svg


def _shown_range(intervals: Sequence[Interval]) -> tuple[float, float]:
    """Zero, all means, and of the intervals what does not dwarf them, with some room."""
    means = [interval.mean for interval in intervals] + [0.0]
    reach = 2.5 * max(max(means) - min(means), 1.0)
    low = max(np.nanmin([*(interval.low for interval in intervals), *means]), min(means) - reach)
    high = min(np.nanmax([*(interval.high for interval in intervals), *means]), max(means) + reach)
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room
