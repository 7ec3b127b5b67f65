"""``report.html``: everything a finished run left behind, on one page that needs no other file.

It is made from the run's folder alone: neither data nor a model is loaded. Stages of earlier
configs that are still in the folder are left out. What the page says stands in
``assets/templates/report.html``.
"""

import base64
import glob
import os
from typing import Any, NamedTuple

import cv2
import numpy as np

from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets.label_scan import read_image
from paddle_csrl.errors import UserError
from paddle_csrl.metrics import SCORES
from paddle_csrl.pretraining import recorded, summary
from paddle_csrl.run import CONFIG_FILE
from paddle_csrl.stages import stages_of
from paddle_csrl.utils import read_json, write_text
from paddle_csrl.utils.html import render
from paddle_csrl.utils.record import read_record
from paddle_csrl.visualize.curves import Series, curve_plot

REPORT_FILE = "report.html"

_SCORES = {**SCORES, "pixel_accuracy": "pixel accuracy"}
_NO_LOSSES = ("Train/lr", "Train/batch_cost", "Train/reader_cost")

#: By stage, the content of its ``stage.json``.
Records = dict[str, dict[str, Any]]


class Picture(NamedTuple):
    """A picture within the page: its size in pixels and its content as a ``data:`` address."""
    width: int
    height: int
    uri: str


def write_page(folder: str, save_dir: str | None = None) -> str:
    """Write ``report.html`` from the files of the run in ``folder`` and return its path.

    The page goes into ``save_dir`` if given.

    Raises:
        UserError: no run has come to its scores there, or a picture of it is torn.
    """
    path = os.path.join(save_dir or folder, REPORT_FILE)
    write_text(path, _page(folder))
    return path


def _page(folder: str) -> str:
    metrics = read_json(os.path.join(folder, "metrics.json"))
    if not _is_whole(metrics):
        raise UserError(f"{folder} has no whole metrics.json; name the folder of a finished run, "
                        f"such as output/demo")
    config = os.path.join(folder, CONFIG_FILE)
    records, pretraining = _stage_records(folder, ZeroShotConfig(config)), recorded(metrics)
    cpus = {record["made"].get("mkl") for record in records.values()} - {None}
    pictures = os.path.join(glob.escape(folder), "predictions", "[0-9]*.png")
    return render(
        "report.html", title=f"Run {os.path.basename(os.path.abspath(folder))}", metrics=metrics,
        unseen=[item["name"] for item in metrics["classes"] if not item["seen"]],
        scores={name: metrics.get(key) for key, name in _SCORES.items()},
        pretraining=summary(pretraining) if pretraining else "not recorded",
        named=pretraining["named"] if pretraining else {},
        predictions=[_read_picture(path) for path in sorted(glob.glob(pictures))],
        relations=[_read_picture(path) for path in _relations(folder, records)],
        curves=_curves(folder, records), stages=[_stage_row(*item) for item in records.items()],
        commands=_commands(records), versions=list((metrics.get("versions") or {}).items()),
        notes=[f"CPU: {setting}" for setting in sorted(cpus)],
        config=_read(config))


def _is_whole(metrics: Any) -> bool:
    """Tell whether ``metrics`` is the content of a ``metrics.json``."""
    classes = metrics.get("classes") if isinstance(metrics, dict) else None
    return isinstance(classes, list) and "images" in metrics and all(
        isinstance(item, dict) and {"name", "seen", "iou"} <= set(item) for item in classes)


def _stage_records(folder: str, config: ZeroShotConfig) -> Records:
    """Read the records of finished stages, in order; older ones do not say how ``made``."""
    records = {stage.name: read_record(os.path.join(folder, stage.name)) or {}
               for stage in stages_of(config)}
    return {stage: {"made": {}, "inputs": {}, **record} for stage, record in records.items()
            if record.get("finished")}


def _relations(folder: str, records: Records) -> list[str]:
    """Find the heat maps of stage 2 and, if drawn since, of ``tools/visualize.py relations``."""
    path = os.path.join(folder, "generator", "relations.png")
    if "generator" not in records or not os.path.isfile(path):
        return []
    drawn = os.path.join(folder, "figures", "relations.png")
    is_newer = os.path.isfile(drawn) and os.path.getmtime(drawn) >= os.path.getmtime(path)
    return [path, drawn] if is_newer else [path]


def _read_picture(path: str) -> Picture:
    try:
        image = read_image(path)
    except UserError:
        raise UserError(f"{path} is no whole picture; take it away and make the page again"
                        ) from None
    return Picture(image.shape[1], image.shape[0], data_uri(image))


def data_uri(image: np.ndarray) -> str:
    """Encode uint8 BGR [H, W, 3] as a ``data:`` address: PNG, or JPEG where that is smaller."""
    files = {"png": cv2.imencode(".png", image)[1],
             "jpeg": cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]}
    kind = min(files, key=lambda name: len(files[name]))
    return f"data:image/{kind};base64,{base64.b64encode(files[kind].tobytes()).decode()}"


def _curves(folder: str, records: Records) -> dict[str, list[str]]:
    """Draw what every stage has recorded, as SVG; stages without any are left out."""
    from paddle_csrl.utils.visualdl import read_scalars

    curves = {stage: [plot for title, series in _series(read_scalars(os.path.join(folder, stage)))
                      if (plot := curve_plot(f"{stage}: {title}", series))] for stage in records}
    return {stage: plots for stage, plots in curves.items() if plots}


def _series(scalars: dict[str, list[tuple[int, float]]]) -> list[tuple[str, dict[str, Series]]]:
    """Choose what to plot of a stage's record: titles with their series by name."""
    losses: dict[str, Series] = {
        tag[len("Train/"):]: points for tag, points in scalars.items()
        if tag.startswith("Train/") and tag not in _NO_LOSSES}
    if len(losses) == 2:  # the sum and its only term
        losses.pop("loss", None)
    scores: dict[str, Series] = {
        name: [(iteration, 100 * value) for iteration, value in scalars[f"Evaluate/{key}"]]
        for key, name in {**_SCORES, "selection_miou": "selection score"}.items()
        if f"Evaluate/{key}" in scalars}
    return [*((name, {name: points}) for name, points in losses.items()), ("scores, %", scores)]


def _stage_row(stage: str, record: dict[str, Any]) -> list[str]:
    """Return its name, seed, duration, end, device and number of processes."""
    made = record["made"]
    values = (record["inputs"].get("seed"), _duration(made.get("seconds")),
              *(made.get(key) for key in ("finished_at", "device", "processes")))
    return [stage, *("–" if value is None else str(value) for value in values)]


def _duration(seconds: float | None) -> str | None:
    """Write a duration such as 0:00:07 or 3:20:15."""
    if seconds is None:
        return None
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _commands(records: Records) -> dict[str, list[str]]:
    """Return the stages that each command has run."""
    commands: dict[str, list[str]] = {}
    for stage, record in records.items():
        if command := record["made"].get("command"):
            commands.setdefault(command, []).append(stage)
    return commands


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
