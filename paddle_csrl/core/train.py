"""The stages in order, each skipped where its result is already there."""

import contextlib
import glob
import os
import time
from collections.abc import Sequence
from typing import Any

import paddle
from paddleseg.utils import logger

from paddle_csrl import parallel, stopping
from paddle_csrl.classes import CLASSES_FILE
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.core import preflight
from paddle_csrl.errors import is_unwritable, one_line
from paddle_csrl.evaluation.pictures import can_draw
from paddle_csrl.evaluation.score import (
    audit_line,
    recorded_score,
    score,
    visualdl_line,
    warn_of_leaks,
)
from paddle_csrl.reports.run_report import REPORT_FILE, write_page
from paddle_csrl.run import CONFIG_FILE, Run
from paddle_csrl.stages.checkpoints import read_record
from paddle_csrl.utils import write_json, write_text
from paddle_csrl.utils.provenance import how_made
from paddle_csrl.utils.record import checksum
from paddle_csrl.utils.weights import load_state, require_finite
from paddle_csrl.utils.yaml_files import dump_yaml


def train(config: str, *, save_dir: str | None = None, stage: str | None = None,
          opts: Sequence[str] = (), resume_model: str | None = None,
          restart: bool = False, resume: bool = False) -> dict[str, Any]:
    """Train a zero-shot segmentor: all stages, or one, then the GZS3 scores.

    Stages that are finished and up to date are not run again, and one that was stopped goes on
    from its newest whole checkpoint.

    Example:
        >>> metrics = train("configs/csrl_shapes.yml", save_dir="output/demo")
        >>> print(f"hIoU {100 * metrics['hiou']:.1f} %")
        hIoU ... %

    Args:
        config: path of the YAML file.
        save_dir: where everything is written; by default as the config says.
        stage: the stage to run, such as ``generator``; all by default.
        opts: overrides of the config, each ``key.subkey=value``.
        resume_model: a checkpoint folder ``<stage>/iter_N`` to go on from.
        restart: run stages again that are up to date, and delete their earlier results.
        resume: insist that there is something to go on from; iterations, schedule and the like
            may be others then.

    Returns:
        The content of ``metrics.json``, scores in [0, 1]; empty if ``stage`` ends before the
        final model.

    Raises:
        UserError: a mistake in the config or the data.
    """
    run = Run(ZeroShotConfig(config, opts=opts, overrides={"save_dir": save_dir}),
              resume_model=resume_model, restart=restart, resume=resume)
    return train_run(run, stage)


def train_run(run: Run, stage: str | None = None) -> dict[str, Any]:
    """Run all stages of ``run``, or one, and score the final model if it was made, as ``train``."""
    with run.held():
        return _train_and_score(run, stage)


def _train_and_score(run: Run, stage: str | None) -> dict[str, Any]:
    start, use_vdl = time.time(), run.config.settings.use_vdl
    warn_of_leaks(run.config)
    stages = [stage] if stage else list(run.stages)
    has_run = run_stages(run, stages)
    if run.model_stage in stages or not os.path.isfile(run.final_model):
        write_config(run)
    elif has_run and parallel.is_first():  # what is beside a model says how to read it
        logger.warning(f"{run.final_model}, {CONFIG_FILE} and {CLASSES_FILE} stay those of an "
                       f"earlier training until --stage {run.model_stage} has run")
    logger.info(audit_line(run.builder))
    if run.model_stage not in stages:
        return {}
    recorded = None if has_run else _recorded_score(run)
    metrics = recorded or _score(run)
    logger.info(f"model: {run.final_model}"
                + (f", made in {time.time() - start:.0f} s" if has_run else ""))
    if use_vdl:
        logger.info(f"curves: {visualdl_line(run.save_dir)}")
    if recorded:
        logger.info(f"report: {os.path.join(run.save_dir, REPORT_FILE)}")
    else:
        _report(run)
    warn_of_leaks(run.config)
    return metrics


def _score(run: Run) -> dict[str, Any]:
    """Score the final model; write ``metrics.json``, pictures and curves.

    Those of an earlier model, and its report, go first: were this stopped, they would pass for new.
    """
    out, pictures, log = _left_by_scoring(run)
    parallel.barrier()  # no process is still looking for them
    if parallel.is_first():
        for path in (out, os.path.join(run.save_dir, REPORT_FILE),
                     *glob.glob(os.path.join(glob.escape(pictures), "[0-9]*.png"))):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
    return score(run.builder, run.builder.trained_segmentor(run.final_model), out, pictures,
                 log if run.config.settings.use_vdl else None, made_from=_scored(run))


def _recorded_score(run: Run) -> dict[str, Any] | None:
    """Return the scores of the final model if all is there that scoring would write again."""
    out, pictures, log = _left_by_scoring(run)
    left = [out, os.path.join(run.save_dir, REPORT_FILE), *[pictures] * can_draw(run.classes),
            *[log] * run.config.settings.use_vdl]
    if not all(map(os.path.exists, left)):
        return None
    return recorded_score(run.builder, out, _scored(run))


def _left_by_scoring(run: Run) -> list[str]:
    return [os.path.join(run.save_dir, name) for name in ("metrics.json", "predictions", "scores")]


def _scored(run: Run) -> dict[str, str]:
    """Return what a score is made from, besides the config."""
    return {"model": checksum(run.final_model), "images": run.builder.fingerprint("val")}


def _report(run: Run) -> None:
    """Write ``report.html``; a run is finished without it, and an old one would mislead."""
    if not parallel.is_first():
        return
    try:
        logger.info(f"report: {write_page(run.save_dir)}")
    except Exception as error:  # whatever it is, the model and its scores are there
        if is_unwritable(error):
            raise
        with contextlib.suppress(OSError):
            os.remove(os.path.join(run.save_dir, REPORT_FILE))
        logger.warning(f"no {REPORT_FILE} was written ({type(error).__name__}: "
                       f"{one_line(error)}); the run is finished, and `python "
                       f"tools/visualize.py report --run {run.save_dir}` tries again")


def run_stages(run: Run, stages: Sequence[str]) -> bool:
    """Run consecutive ``stages``, except those that are finished and up to date.

    Returns:
        Whether any of them ran.

    Raises:
        UserError: the run has no such stage, an earlier one is missing or out of date, or another
            process is at work in the folder.
    """
    for stage in stages:
        run.stage(stage)
    with run.held():
        for earlier in run.stages[:run.stages.index(stages[0])]:
            run.require_current(earlier)
        run.forget()
        preflight.check(run, stages)
        has_run = False
        for stage in stages:
            stopping.end_if_told()
            has_run |= _run_unless_current(run, stage, insists=run.resume and not has_run)
        run.forget()
    return has_run


def _run_unless_current(run: Run, name: str, insists: bool) -> bool:
    """Run a stage if need be and tell whether; ``insists`` is that of ``Run.goes_on_from``."""
    stage, context, changes = run.stage(name), run.context, run.changes(name)
    checkpoint = context.resume_model = run.goes_on_from(name, insists)
    context.makes_model = name == run.model_stage
    has_all = changes == [] and (run.has_final_model() or not context.makes_model)
    if has_all and not checkpoint and not run.restart:
        run.bring_up_record(name)
        logger.info(f"[{name}] up to date: {run.output(name)}")
        return False
    damage = run.damage(name)
    if damage:
        logger.warning(f"[{name}] runs again: {damage}")
    if checkpoint:
        logger.info(f"[{name}] goes on from {checkpoint}")
    elif changes:
        logger.info(f"[{name}] runs again, for these changed: {', '.join(changes)}")
    made_from, start = {"format": stage.format, "inputs": run.inputs(name)}, time.time()
    start -= read_record(checkpoint).get("seconds", 0)
    origin = run.resumes(name) or (run.record(name).get("resumed_from") if checkpoint else None)
    if origin:
        made_from["resumed_from"] = origin
    run.origins[name] = made_from
    # A checkpoint knows parameters by the names that Paddle counts up, which must therefore not
    # depend on what else was built in this process.
    with paddle.utils.unique_name.guard():
        found = stage.run(context) or {}
    if run.output(name).endswith(".pdparams"):
        require_finite(load_state(run.output(name)), run.output(name))
    seconds = time.time() - start
    run.finish(name, **made_from, **found, made=how_made(
        seconds, run.config.settings.num_workers))
    for other in run.foreign_makers() if context.makes_model else ():
        run.mark_unfinished(other)
    logger.info(f"[{name}] took {seconds:.0f} s")
    return True


def write_config(run: Run) -> None:
    """Write the whole config and the classes beside the results.

    The one makes them again; with both, the model predicts without the data.
    """
    if parallel.is_first():
        write_text(os.path.join(run.save_dir, CONFIG_FILE), dump_yaml(run.config.given))
        write_json(os.path.join(run.save_dir, CLASSES_FILE), run.classes.describe())
