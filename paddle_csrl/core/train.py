"""The stages in order, each skipped where its result is already there."""

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any

import paddle
import yaml
from paddleseg.utils import logger, utils

from paddle_csrl import parallel
from paddle_csrl.classes import FILE_NAME, ClassTable
from paddle_csrl.core import preflight
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation.score import audit_line, score, visualdl_line, warn_of_leaks
from paddle_csrl.provenance import how_made
from paddle_csrl.reports.run_report import FILE_NAME as PAGE
from paddle_csrl.reports.run_report import write_page
from paddle_csrl.run import SELF_TRAINING, Run
from paddle_csrl.stages.classifier import train_classifier
from paddle_csrl.stages.features import extract_features
from paddle_csrl.stages.fit import load_weights
from paddle_csrl.stages.generator import train_generator
from paddle_csrl.stages.projection import fold_projection
from paddle_csrl.stages.segmentor import train_segmentor
from paddle_csrl.stages.self_training import train_on_pseudo_labels
from paddle_csrl.utils import atomic_path, write_json

_RUN_STAGE = {"segmentor": train_segmentor, "features": extract_features,
              "generator": train_generator, "classifier": train_classifier,
              SELF_TRAINING: train_on_pseudo_labels}
_RUN_PROJECTION_STAGE = {"segmentor": train_segmentor, "classifier": fold_projection}


def run_pipeline(run: Run, stage: str | None = None) -> dict[str, Any]:
    """Run all stages, or one, and score the final model if it was made.

    Args:
        run: the run.
        stage: one of ``run.stages``; all of them by default.

    Returns:
        The content of ``metrics.json``; empty if the final model was not reached.

    Raises:
        UserError: the run has no such ``stage``, or an earlier one that it needs is missing or
            out of date.
    """
    start = time.time()
    warn_of_leaks(run.config)
    stages = [stage] if stage else list(run.stages)
    run_stages(run, stages)
    write_config(run)
    logger.info(audit_line(run.builder))
    if stages[-1] != run.stages[-1]:
        return {}
    model = run.builder.model
    load_weights(model, run.final_model)
    log_dir = os.path.join(run.save_dir, "scores") if run.config.option("use_vdl", True) else None
    metrics = score(run.builder, model, os.path.join(run.save_dir, "metrics.json"),
                    os.path.join(run.save_dir, "predictions"), log_dir)
    logger.info(f"model: {run.final_model}, made in {time.time() - start:.0f} s")
    if log_dir:
        logger.info(f"curves: {visualdl_line(run.save_dir)}")
    _report(run)
    warn_of_leaks(run.config)
    return metrics


def _report(run: Run) -> None:
    """Write ``report.html``; a run is finished without it, and an old one would mislead."""
    if not parallel.is_first():
        return
    try:
        logger.info(f"report: {write_page(run.save_dir)}")
    except Exception as error:  # whatever it is, the model and its scores are there
        with contextlib.suppress(OSError):
            os.remove(os.path.join(run.save_dir, PAGE))
        logger.warning(f"no {PAGE} was written ({type(error).__name__}: "
                       f"{' '.join(str(error).split())}); the run is finished, and `python "
                       f"tools/visualize.py report --run {run.save_dir}` tries again")


def run_stages(run: Run, stages: Sequence[str]) -> None:
    """Run consecutive ``stages``, except those that are finished and up to date.

    Raises:
        UserError: the run has no such stage, or one before the first of them is missing or out
            of date.
    """
    unknown = [stage for stage in stages if stage not in run.stages]
    if unknown:
        reason = "a `projection`" if run.config.projection else "no `self_training`"
        raise UserError(f"--stage {unknown[0]}: {run.config.path} has {reason} and its stages are "
                        f"{', '.join(run.stages)}; name one of them")
    for earlier in run.stages[:run.stages.index(stages[0])]:
        run.require(earlier)
    preflight.check(run, stages)
    for stage in stages:
        _run_unless_finished(run, stage)


def _run_unless_finished(run: Run, stage: str) -> None:
    changes = run.changes(stage)
    final_is_missing = stage == run.stages[-1] and not run.has_final_model()
    if changes == [] and not final_is_missing and not run.resumes(stage):
        logger.info(f"[{stage}] up to date: {run.output(stage)}")
        return
    if changes:
        logger.info(f"[{stage}] runs again, for these changed: {', '.join(changes)}")
    inputs = run.inputs(stage)
    start = time.time()
    # A checkpoint knows parameters by the names that Paddle counts up, which must therefore not
    # depend on what else was built in this process.
    with paddle.utils.unique_name.guard():
        (_RUN_PROJECTION_STAGE if run.config.projection else _RUN_STAGE)[stage](run)
    seconds = time.time() - start
    run.finish(stage, inputs, how_made(seconds))
    logger.info(f"[{stage}] took {seconds:.0f} s")


def write_config(run: Run) -> None:
    """Write the whole config and the classes beside the results.

    The one makes them again; with both, the model predicts without the data.
    """
    if parallel.is_first():
        with atomic_path(os.path.join(run.save_dir, "config.yml")) as temporary:
            with open(temporary, "w", encoding="utf-8") as file:
                yaml.dump(run.config.given, file, Dumper=utils.NoAliasDumper,
                          allow_unicode=True, sort_keys=False)
        write_json(os.path.join(run.save_dir, FILE_NAME), ClassTable.of(run.builder).describe())
