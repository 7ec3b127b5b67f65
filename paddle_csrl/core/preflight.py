"""What is bound to fail is found before anything is trained, which takes hours, or replaced."""

import os
from collections.abc import Sequence

from paddle_csrl.errors import UserError
from paddle_csrl.run import Run
from paddle_csrl.stages.fit import iterations_done
from paddle_csrl.utils import make_folder
from paddle_csrl.utils.weights import load_state


def check(run: Run, stages: Sequence[str]) -> None:
    """Make sure that ``stages`` can be run, and make the run's folder.

    Raises:
        UserError: as ``examine``, or the folder cannot be made.
    """
    examine(run, stages)
    make_folder(run.save_dir, "save_dir")


def examine(run: Run, stages: Sequence[str]) -> None:
    """Look at the data, the model, all sections, the checkpoint to resume and the folders.

    Raises:
        UserError: something is wrong with one of them.
    """
    for stage in run.stages:
        run.stage(stage).check(run.context)
    run.stage(stages[0]).check_start(run.context)
    _check_resumed(run, stages)
    for stage in stages:
        if not run.resumes(stage):
            run.check_folder(stage)


def _check_resumed(run: Run, stages: Sequence[str]) -> None:
    path, weights = run.resume_model, run.config.settings.segmentor_weights
    if not path:
        return
    parent = os.path.basename(os.path.dirname(path))
    if parent in stages and not run.stage(parent).resumable:
        raise UserError(f"--resume_model {path}: stage {parent} cannot go on from a checkpoint; "
                        f"leave the flag out")
    stage = next(filter(run.resumes, stages), None)
    if stage is None:
        raise UserError(f"--resume_model {path} is no checkpoint of --stage {stages[0]}; leave "
                        f"one of the two flags out")
    if stage == "segmentor" and weights:
        raise UserError(f"--resume_model {path} goes on training stage 1, which "
                        f"`segmentor_weights: {weights}` replaces; leave one of the two out")
    iters, done = run.stage(stage).iterations(run.config), iterations_done(path)
    if done >= iters:
        raise UserError(f"--resume_model {path} has done all of `iters: {iters}` of stage {stage}; "
                        f"raise it above {done}")
    for name in ("model.pdparams", "model.pdopt"):
        load_state(os.path.join(path, name))
