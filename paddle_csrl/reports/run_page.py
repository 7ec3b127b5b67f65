"""``report.html``: everything a finished run left behind, on one page that needs no other file.

It is made from the run's folder alone: neither data nor a model is loaded.
"""

import glob
import os
from typing import Any

import cv2

from paddle_csrl.errors import UserError
from paddle_csrl.run import SELF_TRAINING, STAGES
from paddle_csrl.utils import read_json, write_text
from paddle_csrl.utils.visualdl import read_scalars
from paddle_csrl.visualize import page
from paddle_csrl.visualize.curves import Series, curve_plot

FILE_NAME = "report.html"

_SCORES = {"seen_miou": "seen mIoU", "unseen_miou": "unseen mIoU", "miou": "mIoU",
           "hiou": "hIoU", "pixel_accuracy": "pixel accuracy"}
_NO_LOSSES = ("Train/lr", "Train/batch_cost", "Train/reader_cost")
_NONE = "–"


def write_page(folder: str, save_dir: str | None = None) -> str:
    """Write ``report.html`` from the files of the run in ``folder`` and return its path.

    Args:
        folder: such as output/demo.
        save_dir: where the page goes; by default into ``folder``.

    Raises:
        UserError: no run has come to its scores there.
    """
    path = os.path.join(save_dir or folder, FILE_NAME)
    write_text(path, html(folder))
    return path


def html(folder: str) -> str:
    """The page of the run in ``folder``.

    Raises:
        UserError: as ``write_page``.
    """
    metrics = read_json(os.path.join(folder, "metrics.json"))
    if not _is_whole(metrics):
        raise UserError(f"{folder} has no whole metrics.json; name the folder of a finished run, "
                        f"such as output/demo")
    records = _stage_records(folder)
    return page.html(f"Run {os.path.basename(os.path.abspath(folder))}", [
        *_scores(metrics), *_classes(metrics), *_pictures(folder), *_relations(folder),
        *_curves(folder, records), *_making(folder, metrics, records)])


def _is_whole(metrics: Any) -> bool:
    """Whether it is the content of a ``metrics.json``."""
    classes = metrics.get("classes") if isinstance(metrics, dict) else None
    return isinstance(classes, list) and "images" in metrics and all(
        isinstance(item, dict) and {"name", "seen", "iou"} <= set(item) for item in classes)


def _stage_records(folder: str) -> dict[str, dict[str, Any]]:
    """The content of ``stage.json`` of every stage that has come to its end, in order."""
    records = {stage: read_json(os.path.join(folder, stage, "stage.json"))
               for stage in (*STAGES, SELF_TRAINING)}
    return {stage: record for stage, record in records.items()
            if isinstance(record, dict) and record.get("finished")}


def _scores(metrics: dict[str, Any]) -> list[str]:
    unseen = [item["name"] for item in metrics["classes"] if not item["seen"]]
    marks = []
    if metrics.get("leaks"):
        marks.append(page.warning(f"LEAKS: {metrics['leaks']}."))
    if metrics.get("transductive"):
        marks.append(page.warning("Transductive: images of unseen classes took part in training, "
                                  "without their labels."))
    return [page.paragraph(f"{len(unseen)} unseen of {len(metrics['classes'])} classes: "
                           f"{', '.join(unseen)}. Scores in percent over {metrics['images']} "
                           f"validation images; hIoU is the harmonic mean of seen and unseen "
                           f"mIoU."),
            *marks, page.heading("Scores"),
            page.table(["", *_SCORES.values()],
                       [["this run", *(_percent(metrics.get(key)) for key in _SCORES)]])]


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{100 * share:.2f}"


def _classes(metrics: dict[str, Any]) -> list[str]:
    rows = [(item["name"] if item["seen"] else f"{item['name']} *", item["iou"])
            for item in metrics["classes"]]
    return [page.heading("IoU by class, in percent"), page.bars(rows),
            page.paragraph(f"* striped: unseen in training. {_NONE}: no pixel of the class, "
                           f"neither in the truth nor predicted.")]


def _pictures(folder: str) -> list[str]:
    figures = [_figure(path, f"Picture {number}: image, truth and prediction")
               for number, path in enumerate(sorted(glob.glob(os.path.join(
                   glob.escape(folder), "predictions", "[0-9]*.png"))), 1)]
    return [page.heading("Predictions"), page.row(figures)] if figures else []


def _relations(folder: str) -> list[str]:
    path = os.path.join(folder, "generator", "relations.png")
    if not os.path.isfile(path):
        return []
    figures = [_figure(path, "Unseen (rows) against seen classes (columns), as the relation losses "
                             "compare them: between class embeddings and between generated "
                             "features")]
    drawn = os.path.join(folder, "figures", "relations.png")  # by tools/visualize.py relations
    if os.path.isfile(drawn) and os.path.getmtime(drawn) >= os.path.getmtime(path):
        figures.append(_figure(drawn, "The same with real features, which for unseen classes are "
                                      "those of validation images, for display only"))
    return [page.heading("Relations between classes"), *figures]


def _figure(path: str, caption: str) -> str:
    picture = cv2.imread(path)
    if picture is None:
        raise UserError(f"{path} is no whole picture; take it away and make the page again")
    return page.figure(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), caption)


def _curves(folder: str, records: dict[str, dict[str, Any]]) -> list[str]:
    body = []
    for stage in records:
        plots = list(filter(None, (curve_plot(f"{stage}: {title}", series) for title, series
                                   in _series(read_scalars(os.path.join(folder, stage))))))
        body += [page.heading(stage, 3), page.row(plots)] if plots else []
    if not body:
        return [page.heading("Training"), page.paragraph("No curves were recorded.")]
    return [page.heading("Training"),
            page.paragraph("The selection score chooses the checkpoint, on seen classes alone. "
                           "Scores during a later stage are there to be watched: nothing is "
                           "chosen by them. Long curves are means of equal parts."), *body]


def _series(scalars: dict[str, list[tuple[int, float]]]) -> list[tuple[str, dict[str, Series]]]:
    """What to plot of a stage's record: titles with their series by name."""
    losses = {tag[len("Train/"):]: points for tag, points in scalars.items()
              if tag.startswith("Train/") and tag not in _NO_LOSSES}
    if len(losses) == 2:  # the sum and its only term
        losses.pop("loss", None)
    scores = {name: _in_percent(scalars[f"Evaluate/{key}"])
              for key, name in {**_SCORES, "selection_miou": "selection score"}.items()
              if f"Evaluate/{key}" in scalars}
    return [*((name, {name: points}) for name, points in losses.items()), ("scores, %", scores)]


def _in_percent(points: Series) -> Series:
    return [(iteration, 100 * value) for iteration, value in points]


def _making(folder: str, metrics: dict[str, Any],
            records: dict[str, dict[str, Any]]) -> list[str]:
    """How the run was made: stages, commands, versions, config."""
    made = {stage: record.get("made") or {} for stage, record in records.items()}
    rows = [[stage, _text(record["inputs"].get("seed")), _duration(made[stage].get("seconds")),
             _text(made[stage].get("finished_at")), _text(made[stage].get("device")),
             _text(made[stage].get("processes"))] for stage, record in records.items()]
    commands: dict[str, list[str]] = {}
    for stage, how in made.items():
        commands.setdefault(how.get("command", ""), []).append(stage)
    commands.pop("", None)
    versions = [[name, version] for name, version in (metrics.get("versions") or {}).items()]
    notes = sorted({f"CPU: {how['mkl']}" for how in made.values() if how.get("mkl")})
    config = _read(os.path.join(folder, "config.yml"))
    body = [page.heading("How it was made"),
            page.table(["stage", "seed", "took", "finished", "device", "processes"], rows)]
    for command, stages in commands.items():
        body += [page.heading(f"Command of {', '.join(stages)}", 3), page.preformatted(command)]
    body += [page.heading("Versions", 3), page.table(["", "at the scores"], versions),
             *map(page.paragraph, notes)]
    if config:
        body.append(page.details("Whole config (config.yml)", page.preformatted(config)))
    return body


def _text(value: Any) -> str:
    return _NONE if value is None else str(value)


def _duration(seconds: float | None) -> str:
    """Such as 0:00:07 or 3:20:15."""
    if seconds is None:
        return _NONE
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""
