"""Checkpoints: all that a training needs to go on as if it had never been stopped.

A checkpoint is a folder ``iter_N`` with ``model.pdparams`` and ``model.pdopt``, as PaddleSeg's
trainer writes them, and a record ``checkpoint.json``. It is written aside and renamed, and it is
whole if its files have the checksums of its record.
"""

import glob
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import paddle
from paddleseg.utils import logger

from paddle_csrl import parallel, stopping
from paddle_csrl.errors import UserError
from paddle_csrl.stages.progress import ProgressLog, Step
from paddle_csrl.utils import atomic_path, read_json, write_text
from paddle_csrl.utils.io import temporary_path
from paddle_csrl.utils.randomness import preserved, random_state, set_random_state
from paddle_csrl.utils.record import checksum
from paddle_csrl.utils.weights import load_state, load_weights

if TYPE_CHECKING:
    from paddle_csrl.utils.visualdl import StageLogWriter

_RECORD = "checkpoint.json"
#: The checksum of the rest of the record, in it.
_OWN = "checksum"
_WEIGHTS, _OPTIMIZER = "model.pdparams", "model.pdopt"
BEST = "best_model"

#: Looks at a model at an iteration; may return a score by which the best checkpoint is kept.
Evaluate = Callable[["StageLogWriter | None", int], float | None]


def iterations_done(folder: str) -> int:
    """The number at the end of a checkpoint folder's name."""
    return int(os.path.normpath(folder).rsplit("_", 1)[-1])


def is_checkpoint(folder: str) -> bool:
    """Tell whether training can go on from a folder, be it an earlier version's."""
    files = (os.path.join(folder, name) for name in (_WEIGHTS, _OPTIMIZER))
    return folder.rsplit("_", 1)[-1].isdigit() and all(map(os.path.isfile, files))


def read_record(folder: str | None) -> dict[str, Any]:
    """Read a checkpoint's record; empty where it has none that is whole, as of earlier versions.

    ``files``, their checksums; ``seconds`` that the training has taken; ``random``, the state of
    random numbers; ``terms`` and ``log``, for ``ProgressLog`` and ``StageLogWriter``; whether it
    was ``evaluated``; whether a signal alone had it saved, ``interim``; the ``best`` so far, its
    ``iteration``, ``score`` and ``checksum``, and what it was ``chosen_by``.
    """
    record = read_json(os.path.join(folder, _RECORD)) if folder else None
    if not isinstance(record, dict) or record.pop(_OWN, None) != _digest(record):
        return {}
    return record


def write_record(folder: str, record: Mapping[str, Any]) -> None:
    """Write a checkpoint's record, values for JSON, with its checksum.

    On one line, for the states of random numbers are thousands of them.
    """
    write_text(os.path.join(folder, _RECORD), json.dumps({**record, _OWN: _digest(record)}) + "\n",
               lasting=True)


def _digest(record: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of a record, before it is written or after it is read."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def torn_file(folder: str) -> str | None:
    """Return the first file of a checkpoint that is not as it was saved, or None."""
    for name, digest in read_record(folder).get("files", {}).items():
        path = os.path.join(folder, name)
        if not os.path.isfile(path) or checksum(path) != digest:
            return path
    return None


def saved_in(folder: str) -> list[str]:
    """Return the checkpoint folders in a stage's folder, the newest last, whole or not."""
    found = glob.glob(os.path.join(glob.escape(folder), "iter_*"))
    return sorted((path for path in found if path.rsplit("_", 1)[-1].isdigit()),
                  key=iterations_done)


def newest_checkpoint(folder: str) -> str | None:
    """Return the newest whole checkpoint in a stage's folder; torn ones are named and passed over.
    """
    for path in reversed(saved_in(folder)):
        torn = torn_file(path) if read_record(path) else os.path.join(path, _RECORD)
        if torn is None:
            return path
        logger.warning(f"{path} is passed over, for {os.path.basename(torn)} is missing or not as "
                       f"it was saved")
    return None


def _load_optimizer(builder: Any, path: str) -> None:
    """Load the state of an optimizer, which Paddle does as far as names fit, or not at all."""
    state = load_state(path)
    names = tuple(parameter.name for parameter in builder.model.parameters())
    foreign = [key for key, value in state.items()
               if isinstance(value, paddle.Tensor) and not key.startswith(names)]
    if foreign:
        raise UserError(f"{path} does not fit {type(builder.model).__name__} of this config: "
                        f"{len(foreign)} entries are of other parameters, the first is "
                        f"{foreign[0]}; use the config it was trained with")
    builder.optimizer.set_state_dict(state)


class Checkpoints:
    """Saves a training into the folder of its stage, and takes it up from there.

    It is called after every iteration, by every process, and saves every ``interval`` iterations
    and at the ``last``, where it also evaluates, and when the program was told to stop.

    Args:
        folder: of the stage.
        interval: iterations between checkpoints.
        last: the last iteration.
        keep: how many checkpoints stay; 0 for all.
        log: has what is stored of a line begun.
        writer: the first process's record for VisualDL, if there is one.
        evaluate: leaves no trace in the training. Called by every process.
        chosen_by: tells on what, and how, it evaluates; scores are compared with their like alone.
        previous: record of the checkpoint that is taken up.
        beside: further state dicts to be saved, by the name of their file.
        check: called before anything is saved, by every process; raises what stands against it.
    """

    def __init__(self, folder: str, interval: int, last: int, keep: int, log: ProgressLog,
                 writer: "StageLogWriter | None" = None, evaluate: Evaluate | None = None,
                 chosen_by: str | None = None, previous: Mapping[str, Any] | None = None,
                 beside: Mapping[str, dict[str, Any]] | None = None,
                 check: Callable[[], None] = lambda: None):
        self.folder, self.interval, self.last, self.keep = folder, interval, last, keep
        self.log, self.writer, self.evaluate, self.beside = log, writer, evaluate, beside or {}
        self.check, self.chosen_by = check, chosen_by
        previous = previous or {}
        self.best: dict[str, Any] | None = previous.get("best") if evaluate else None
        if self.best and self.best.get("chosen_by", chosen_by) != chosen_by:  # 0.1.0 does not say
            logger.warning(f"the best checkpoint so far, iter_{self.best['iteration']}, was chosen "
                           f"by other scores: it is chosen among those to come")
            self.best = None
        self._began = time.time() - previous.get("seconds", 0.0)
        self._interim: str | None = None

    def take_up(self, checkpoint: str, builder: Any) -> int:
        """Give model and optimizer of ``builder`` their state, and return the iterations done."""
        done, record = iterations_done(checkpoint), read_record(checkpoint)
        load_weights(builder.model, os.path.join(checkpoint, _WEIGHTS))
        _load_optimizer(builder, os.path.join(checkpoint, _OPTIMIZER))
        if not record:
            logger.warning(f"{checkpoint} holds no random state, as those of earlier versions: "
                           f"training goes on with another order of images and other noise than "
                           f"without the stop")
        elif not set_random_state(record["random"]):
            logger.warning(f"{checkpoint} holds no random state of Paddle, which this release does "
                           f"not tell: training goes on with other noise than without the stop")
        if parallel.is_first():
            for path in saved_in(self.folder):
                if iterations_done(path) > done:
                    logger.warning(f"{path} is deleted, for the training goes on from {checkpoint}")
                    shutil.rmtree(path)
            if record:
                self._keep_best(checkpoint)
                self._adopt(checkpoint)
        if record and self._is_due(done) and not record["evaluated"]:
            self._evaluate(done)
        self._interim = self._path(done) if record.get("interim") else None
        return done

    def _adopt(self, checkpoint: str) -> None:
        """Copy a checkpoint from elsewhere, so that the folder has what it goes on from."""
        path = self._path(iterations_done(checkpoint))
        if os.path.realpath(path) != os.path.realpath(checkpoint):
            self._replace(path, lambda aside: shutil.copytree(checkpoint, aside))

    def __call__(self, step: Step) -> None:
        start, number = time.monotonic(), self._told()
        if number or self._is_due(step.iteration):
            self._save(step)
        if number:
            raise stopping.Stopped(number, f"stopped at iteration {step.iteration}, saved as "
                                           f"{self._path(step.iteration)}; the same command goes "
                                           f"on from there")
        if self._is_due(step.iteration):
            self._evaluate(step.iteration)
        self.log.leave_out(time.monotonic() - start)

    def _told(self) -> int:
        """The signal to stop at, on every process at the same iteration."""
        return int(parallel.largest_at_once(stopping.told()))

    def _is_due(self, iteration: int) -> bool:
        return iteration % self.interval == 0 or iteration == self.last

    def _path(self, iteration: int) -> str:
        return os.path.join(self.folder, f"iter_{iteration}")

    def _save(self, step: Step) -> None:
        self.check()
        if parallel.is_first():
            self._replace(self._path(step.iteration), lambda aside: self._write(aside, step))
            if self._is_due(step.iteration) and not self.evaluate:
                self._prune()
        parallel.barrier()

    def _replace(self, path: str, write: Callable[[str], object]) -> None:
        """Have ``write`` make a folder aside, which then takes the place of ``path``."""
        aside = temporary_path(path)
        try:
            write(aside)
            shutil.rmtree(path, ignore_errors=True)  # torn, or of a training given up
            os.rename(aside, path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _write(self, folder: str, step: Step) -> None:
        os.makedirs(folder)
        states = {_WEIGHTS: step.builder.model.state_dict(),
                  _OPTIMIZER: step.builder.optimizer.state_dict(), **self.beside}
        for name, state in states.items():
            paddle.save(state, os.path.join(folder, name))
        write_record(folder, {
            "files": {name: checksum(os.path.join(folder, name)) for name in states},
            "interim": not self._is_due(step.iteration),
            "seconds": time.time() - self._began, "evaluated": not self.evaluate,
            "log": self.writer and self.writer.position(), "best": self.best,
            "terms": self.log.terms.read(), "random": random_state()})

    def _evaluate(self, iteration: int) -> None:
        """Evaluate what is saved already, so that nothing is lost if it is interrupted."""
        if not self.evaluate:
            return
        with preserved(), stopping.at_once():
            score = self.evaluate(self.writer, iteration)
        parallel.barrier()  # it may be the first process alone that took its time
        if not parallel.is_first():
            return
        path = self._path(iteration)
        record = read_record(path)
        if score is not None and score > (self.best["score"] if self.best else -1.0):
            self.best = {"iteration": iteration, "score": score, "chosen_by": self.chosen_by,
                         "checksum": record["files"][_WEIGHTS]}
        write_record(path, {
            **record, "evaluated": True, "best": self.best,
            "log": self.writer and self.writer.position()})
        if score is not None and self.best:
            self._keep_best(path)
            logger.info(f"[EVAL] The model with the best validation mIoU "
                        f"({self.best['score']:.4f}) was saved at iter {self.best['iteration']}.")
        self._prune()

    def _keep_best(self, checkpoint: str) -> None:
        """Make sure that the weights of the best so far are there; else it is chosen anew."""
        if not self.best:
            return
        own, beside = os.path.join(self.folder, BEST, _WEIGHTS), os.path.dirname(checkpoint)
        for path in (own, *(os.path.join(beside, name, _WEIGHTS)
                            for name in (f"iter_{self.best['iteration']}", BEST))):
            if os.path.isfile(path) and checksum(path) == self.best["checksum"]:
                break
        else:
            logger.warning(f"the weights of the best checkpoint so far, iter_"
                           f"{self.best['iteration']}, are gone: it is chosen among those to come")
            self.best = None
            return
        if path != own:
            with atomic_path(own) as temporary:
                shutil.copyfile(path, temporary)

    def _prune(self) -> None:
        """Delete what is more than ``keep``, and what was saved at a stop that is over."""
        saved = [path for path in saved_in(self.folder) if path != self._interim]
        for path in [self._interim, *(saved[:-self.keep] if self.keep else [])]:
            if path:
                shutil.rmtree(path)
        self._interim = None
