"""Training and scoring the cells of a comparison, each in a folder of its own."""

import itertools
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from paddle import nn
from paddleseg.utils import logger

from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.compare.curve import COSTS, curve
from paddle_csrl.compare.plan import Cell, Plan
from paddle_csrl.config.schema import AUTO
from paddle_csrl.core.train import run_stages, write_config
from paddle_csrl.errors import is_unwritable, one_line, user_message
from paddle_csrl.evaluation.layers import sampled_margins, score_layers
from paddle_csrl.evaluation.score import describe
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.models.last_layer import load_layer, read_layer
from paddle_csrl.pretraining import pretraining_of
from paddle_csrl.run import Run
from paddle_csrl.run_folder import SHARED_STAGES
from paddle_csrl.stages.base import changed_inputs
from paddle_csrl.stages.calibration import cost_calibrations, margins_of
from paddle_csrl.utils import progress, read_json, write_json
from paddle_csrl.utils.io import temporary_path
from paddle_csrl.utils.lock import FolderInUse
from paddle_csrl.utils.record import checksum

#: What of a config a score depends on beside the model, at the top level and in `zero_shot`.
_OF_SCORING = ("val_dataset", "test_config", "precision", "amp_level")
_OF_CLASSES = ("class_names", "label_names", "classifier_layer")


def run_cells(plan: Plan, cells: Sequence[Cell], retry_failed: bool = False,
              on_scored: Callable[[], object] | None = None) -> None:
    """Train and score ``cells``, except those that are finished with the same settings.

    A cell that fails leaves its reason in ``failure.json`` and the others go on.

    Args:
        plan: the comparison.
        cells: in groups by split and stage-1 seed, as ``Plan.cells`` returns them.
        retry_failed: run cells again that failed with the same settings.
        on_scored: called whenever a group has been scored.

    Raises:
        UserError: the data of a split are missing, or it names a class they do not have; or another
            process is at work on the same split and stage-1 seed.
    """
    for cell in {cell.split: cell for cell in cells}.values():
        Run(plan.stage1_config(cell.split, cell.stage1_seed)).inputs("segmentor")
    for key, group in itertools.groupby(_with_progress(plan, cells, retry_failed),
                                        lambda cell: (cell.split, cell.stage1_seed)):
        _Group(plan, *key).run(group, retry_failed)
        if on_scored:
            on_scored()


def read_scores(plan: Plan, cell: Cell) -> dict[str, Any]:
    """Read the record of a cell under its present settings.

    Returns:
        The content of ``scores.json``; ``{"error": reason}`` if it failed; empty if neither.
    """
    for name in ("scores.json", "failure.json"):
        record = read_json(os.path.join(plan.cell_dir(cell), name))
        if isinstance(record, dict) and record.get("config") == plan.digest(cell):
            return record
    return {}


def _with_progress(plan: Plan, cells: Sequence[Cell], retry_failed: bool) -> Iterator[Cell]:
    """All ``cells``, with progress over those to run.

    The others take no time: counted as well they would make the time left look short.
    """
    records = {cell: read_scores(plan, cell) for cell in cells}
    to_run = [cell for cell, record in records.items()
              if not record or ("error" in record and retry_failed)]
    if len(to_run) < len(cells):
        logger.info(f"[compare] {len(cells) - len(to_run)} of {len(cells)} cells are recorded")
    bar, waiting = iter(progress(to_run, "cells")), set(to_run)
    for cell in cells:
        if cell in waiting:
            next(bar)
        yield cell
    next(bar, None)


class _Group:
    """The cells of one split and stage-1 seed, which share a segmentor and a feature bank."""

    def __init__(self, plan: Plan, split: str, stage1_seed: int):
        self.plan = plan
        self.base = Run(plan.stage1_config(split, stage1_seed))
        self.stage1_inputs = self.base.inputs("segmentor")
        self.stage1_error: Exception | None = None
        self.stage1_is_made = False
        #: Folders of finished generators by what they were made from.
        self.generators: dict[str, str] = {}

    def run(self, cells: Iterable[Cell], retry_failed: bool) -> None:
        shared: list[tuple[Cell, Run]] = []
        with self.base.held():
            for cell in cells:
                if "error" in read_scores(self.plan, cell) and not retry_failed:
                    continue
                self._attempt([cell], partial(self._train, cell, shared))
            if shared:
                self._attempt([cell for cell, _ in shared], partial(self._score_shared, shared))

    def _attempt(self, cells: list[Cell], action: Callable[[], None]) -> None:
        """Do ``action``; if it fails, record why for ``cells``."""
        try:
            action()
        except Exception as error:
            if isinstance(error, FolderInUse) or is_unwritable(error):
                raise  # no fault of the cell's
            reason = user_message(error)
            if reason is None:
                logger.error(traceback.format_exc())
                text = one_line(error) or "no message"
                reason = f"{type(error).__name__}: {text[-300:]}"
            for cell in cells:
                logger.error(f"[compare] {cell} failed: {reason}")
                self._remove(cell, "scores.json")
                write_json(self._path(cell, "failure.json"),
                           {"config": self.plan.digest(cell), "error": reason})

    def _train(self, cell: Cell, shared: list[tuple[Cell, Run]]) -> None:
        """Train what is missing of a cell; queue it in ``shared`` or score it at once."""
        run = self._run_of(cell)
        stages = [stage for stage in run.stages if stage not in run.shared_stages]
        if not (run.has_final_model() and all(map(run.is_current, run.stages))):
            self._remove(cell, "scores.json")
            start = time.time()
            self._take_generator(run)
            run_stages(run, stages)
            write_config(run)
            logger.info(f"[compare] {cell}: trained in {time.time() - start:.0f} s")
        if "generator" in stages:
            self.generators.setdefault(_key(run), run.folder("generator"))
        _drop_checkpoints(run, stages)
        if self._is_scored(cell, run):
            return
        if not run.shared_dir:
            model = run.builder.trained_segmentor(run.final_model)
            layer = read_layer(run.builder.classification_layer(model)[1])
            self._score(run.builder, model, [(cell, run, layer)])
        elif self._is_scored_alike(run):
            shared.append((cell, run))
        else:
            self._score(run.builder, self.base.context.segmentor,
                        [(cell, run, load_layer(run.final_layer))])

    def _is_scored_alike(self, run: Run) -> bool:
        """Tell whether a cell is scored on the images and in the way of the shared stages.

        Without ``do_eval``, or with ``segmentor_weights``, stage 1 is the same whatever these are.
        """
        own, base = run.config.given, self.base.config.given
        return all(own.get(key) == base.get(key) for key in _OF_SCORING) and all(
            own["zero_shot"].get(key) == base["zero_shot"].get(key) for key in _OF_CLASSES)

    def _take_generator(self, run: Run) -> None:
        """Copy the generator of another cell if that of ``run`` would be made from the same.

        Methods with the trained and the closed-form layer differ after it alone.
        """
        if "features" not in run.shared_stages or os.path.isdir(run.folder("generator")):
            return
        made = self.generators.get(_key(run))
        if made is None:
            return
        os.makedirs(run.save_dir, exist_ok=True)
        with run.held():
            copy = temporary_path(run.folder("generator"))
            shutil.copytree(made, copy)
            os.rename(copy, run.folder("generator"))
        logger.info(f"[compare] the generator is that of {os.path.dirname(made)}")

    def _run_of(self, cell: Cell) -> Run:
        """The run of a cell, on the shared stages as far as they are made from its settings."""
        run = Run(self.plan.cell_config(cell), shared_dir=self.base.save_dir)
        if "generator" not in run.stages or changed_inputs(
                run.inputs("segmentor"), self.stage1_inputs):
            return Run(self.plan.cell_config(cell, own_stage1=True))
        self._make_stage1()
        if run.changes("features"):
            return Run(self.plan.cell_config(cell), shared_dir=self.base.save_dir,
                       shared_stages=("segmentor",))
        return run

    def _make_stage1(self) -> None:
        if self.stage1_error:
            raise self.stage1_error
        if self.stage1_is_made:
            return
        try:
            if not all(map(self.base.is_current, SHARED_STAGES)):
                run_stages(self.base, SHARED_STAGES)
                write_config(self.base)
        except Exception as error:
            self.stage1_error = error
            raise
        self.stage1_is_made = True

    def _score_shared(self, shared: list[tuple[Cell, Run]]) -> None:
        self._score(self.base.builder, self.base.context.segmentor,
                    [(cell, run, load_layer(run.final_layer)) for cell, run in shared])

    def _score(self, builder: ZeroShotBuilder, segmentor: nn.Layer,
               cells: list[tuple[Cell, Run, dict[str, np.ndarray]]]) -> None:
        """Score cells by their layers, as they are and along their curves.

        Without a random part the layers of all seeds are one, which is scored once.
        """
        calibrations = [self._calibrations(builder, segmentor, run, layer)
                        for _, run, layer in cells]
        shifts = [[value - run.calibration for value in own]
                  for (_, run, _), own in zip(cells, calibrations)]
        alike = [(*shift, *(value.tobytes() for value in layer.values()))
                 for shift, (_, _, layer) in zip(shifts, cells)]
        places = {key: alike.index(key) for key in alike}
        scores = dict(zip(places, score_layers(
            builder, segmentor, [cells[place][2] for place in places.values()],
            [shifts[place] for place in places.values()])))
        for (cell, run, _), own, key in zip(cells, calibrations, alike):
            self._record(cell, run, own, scores[key])

    def _calibrations(self, builder: ZeroShotBuilder, segmentor: nn.Layer, run: Run,
                      layer: dict[str, np.ndarray]) -> list[float]:
        """Find the δ of a cell's curve, in rising order; none without a bias for them to move."""
        if "bias" not in layer or not self.plan.calibrations:
            return []
        if self.plan.calibrations != AUTO:
            return sorted(map(float, self.plan.calibrations))
        if "features" in run.stages:
            context = self.base.context if "features" in run.shared_stages else run.context
            margins = margins_of(layer, context.bank, context.scale, run.classes.unseen_ids)
            run.forget()
        else:
            margins = sampled_margins(builder, segmentor)
        return [run.calibration + value for value in cost_calibrations(margins, COSTS)]

    def _record(self, cell: Cell, run: Run, calibrations: list[float],
                evaluators: list[ZeroShotEvaluator]) -> None:
        evaluator, *swept = evaluators
        metrics = describe(run.builder, evaluator.compute(),
                           pretraining_of(run.config, run.classes.unseen_names))
        metrics.pop("config")
        if swept:
            metrics["curve"] = curve(self.plan.calibrations, calibrations, evaluator, swept)
        write_json(self._path(cell, "scores.json"), {
            "config": self.plan.digest(cell), "inputs": self._score_inputs(run), **metrics,
            "confusion": evaluator.confusion.tolist()})
        self._remove(cell, "failure.json")

    def _is_scored(self, cell: Cell, run: Run) -> bool:
        recorded, inputs = read_scores(self.plan, cell).get("inputs"), self._score_inputs(run)
        # Before 0.2.0 a record knew its images by their times.
        return recorded in (inputs, {**inputs, "images": run.builder.fingerprint_by_times("val")})

    def _score_inputs(self, run: Run) -> dict[str, Any]:
        """The inputs of a trained cell's scores, besides its config."""
        inputs: dict[str, Any] = {
            "model": checksum(run.result), "segmentor": checksum(run.output("segmentor")),
            "images": run.builder.fingerprint("val")}
        if self.plan.calibrations == AUTO:
            inputs["costs"] = list(COSTS)
        elif self.plan.calibrations:
            inputs["calibrations"] = sorted(map(float, self.plan.calibrations))
        return inputs

    def _path(self, cell: Cell, name: str) -> str:
        return os.path.join(self.plan.cell_dir(cell), name)

    def _remove(self, cell: Cell, name: str) -> None:
        if os.path.exists(self._path(cell, name)):
            os.remove(self._path(cell, name))


def _key(run: Run) -> str:
    """Tell what the generator of a run is made from, as text."""
    return json.dumps(run.inputs("generator"), sort_keys=True, default=str)


def _drop_checkpoints(run: Run, stages: Sequence[str]) -> None:
    for stage in stages:
        for entry in os.scandir(run.folder(stage)):
            if entry.is_dir():
                shutil.rmtree(entry.path)
