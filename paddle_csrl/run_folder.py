"""Where the stages of a run keep their files, and the records that say what is finished."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from paddleseg.utils import logger

from paddle_csrl import parallel
from paddle_csrl.errors import UserError
from paddle_csrl.utils import lock, write_json
from paddle_csrl.utils.io import is_left_over, temporary_path
from paddle_csrl.utils.record import STAGE_FILE, describe_files, difference, name_aside, read_record

#: The stages that several runs share, unless they say which.
SHARED_STAGES = ("segmentor", "features")
#: A result that took longer, in seconds, is moved aside rather than deleted.
KEPT_SECONDS = 60.0
#: Ends the temporary name under which a stage's folder is deleted.
_OLD = "_old"


class RunFolder:
    """A folder with a folder for each stage, each with a ``stage.json``.

    Args:
        outputs (dict[str, str]): the file that a finished stage leaves, by the stage's name.
        shared_dir (str, optional): folder of the stages that several runs share. Such a run
            ends with its new classification layer alone, not with a copy of the segmentor.
        shared_stages (sequence of str): the stages found there.
        restart (bool): delete the earlier result of a stage that begins, whatever it took.
    """

    def __init__(self, save_dir: str, outputs: Mapping[str, str], shared_dir: str | None = None,
                 shared_stages: Sequence[str] = SHARED_STAGES, restart: bool = False):
        self.save_dir, self.outputs, self.restart = save_dir, dict(outputs), restart
        #: What a stage that begins is made from, by its name; goes into its record.
        self.origins: dict[str, dict[str, Any]] = {}
        self.shared_dir = shared_dir
        self.shared_stages = tuple(shared_stages) if shared_dir else ()

    def folder(self, stage: str) -> str:
        parent = self.shared_dir if stage in self.shared_stages else self.save_dir
        return os.path.join(str(parent), stage)

    def holds(self, stage: str, checkpoint: str) -> bool:
        """Tell whether a checkpoint lies in the stage's folder, not in that of another run."""
        return os.path.realpath(os.path.dirname(checkpoint)) == os.path.realpath(self.folder(stage))

    def output(self, stage: str) -> str:
        """The file that a finished stage leaves for the next ones."""
        return os.path.join(self.folder(stage), self.outputs[stage])

    @property
    def final_model(self) -> str:
        """The state dict of a stock segmentor that the run ends with."""
        return os.path.join(self.save_dir, "model.pdparams")

    @property
    def final_layer(self) -> str:
        """The new classification layer, ``weight`` and ``bias``, where stages are shared."""
        return os.path.join(self.save_dir, "layer.npz")

    @property
    def result(self) -> str:
        """The file that the run ends with."""
        return self.final_layer if self.shared_dir else self.final_model

    @property
    def calibration_record(self) -> str:
        """The file with the calibration of the final layer, where the config does not say it."""
        return os.path.join(self.save_dir, "calibration.json")

    def record(self, stage: str) -> dict[str, Any]:
        """Read a stage's ``stage.json``; empty where there is none or it is not whole.

        It has ``finished``, ``format``, ``inputs``, ``made`` and ``outputs``.
        """
        return read_record(self.folder(stage)) or {}

    def is_finished(self, stage: str) -> bool:
        """Tell whether the stage has finished, from whatever inputs, and its files are whole."""
        return bool(self.record(stage).get("finished")) and not self.damage(stage)

    def made_files(self, stage: str) -> list[str]:
        """Return the files that the stage leaves when it has finished."""
        return [self.output(stage)]

    def damage(self, stage: str) -> str | None:
        """Name a file of a finished stage that is missing, cut or changed since, and say how."""
        folder, record = self.folder(stage), self.record(stage)
        if not record.get("finished"):
            return None
        if not os.path.isfile(self.output(stage)):
            return f"{self.output(stage)} is missing"
        changes = ((path, difference(path, folder, record)) for path in self.made_files(stage))
        return next((f"{path} {change}" for path, change in changes if change), None)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing there, and clear what killed ones have left.

        Raises:
            UserError: another process holds the folder, or it cannot be written to.
        """
        with contextlib.ExitStack() as stack:
            # Of several processes, the first one writes.
            if parallel.is_first() and stack.enter_context(lock.hold(self.save_dir)):
                self._clear_left_over()
            yield

    def _clear_left_over(self) -> None:
        halves = {f"{stage}{end}" for stage in self.outputs for end in ("", _OLD)}
        for entry in list(os.scandir(self.save_dir)):
            if is_left_over(entry.name):
                if not entry.is_dir(follow_symlinks=False):
                    os.remove(entry.path)
                elif entry.name.split(".", 2)[2] in halves:
                    shutil.rmtree(entry.path)
        for stage in self.outputs:
            for parent, folders, names in os.walk(self.folder(stage)):
                for name in filter(is_left_over, names):
                    os.remove(os.path.join(parent, name))
                for name in filter(is_left_over, folders):  # halves of checkpoints
                    shutil.rmtree(os.path.join(parent, name))

    def check_folder(self, stage: str) -> None:
        """Raise ``UserError`` if the stage's folder holds what no stage has written."""
        folder = self.folder(stage)
        if os.path.isdir(folder) and os.listdir(folder) \
                and not os.path.isfile(self._record_path(stage)):
            raise UserError(f"{folder} holds files of something else; choose another --save_dir")

    def begin(self, stage: str, resumed: bool = False) -> None:
        """Clear the stage's folder, unless it is ``resumed``, and mark it as begun."""
        parallel.barrier()  # no process is still reading there
        if parallel.is_first():
            record = {"finished": False, **self.origins.get(stage, {})}
            if resumed:
                self._write_record(stage, record)
            else:
                self.check_folder(stage)
                self._renew(stage, record)
        parallel.barrier()

    def finish(self, stage: str, **record: Any) -> None:
        """Mark the stage as finished; ``record`` says from what and how."""
        if parallel.is_first():
            outputs = describe_files(self.made_files(stage), self.folder(stage))
            self._write_record(stage, {"finished": True, **record, "outputs": outputs})
        parallel.barrier()
        logger.info(f"[{stage}] finished: {self.output(stage)}")

    def mark_unfinished(self, stage: str) -> None:
        """Have the stage run again; what it took is still known."""
        if parallel.is_first():
            self._write_record(stage, {**self.record(stage), "finished": False})

    def _record_path(self, stage: str) -> str:
        return os.path.join(self.folder(stage), STAGE_FILE)

    def _write_record(self, stage: str, content: dict[str, Any]) -> None:
        write_json(self._record_path(stage), content)

    def _renew(self, stage: str, record: dict[str, Any]) -> None:
        """Have a folder with the record alone take the place of the stage's earlier one.

        By renames: at whatever point the process is killed, the stage's folder has its record or
        is not there, and what else is there is known by its name.
        """
        folder = self.folder(stage)
        new, old = temporary_path(folder), temporary_path(f"{folder}{_OLD}")
        with contextlib.ExitStack() as stack:
            for half in (new, old):
                stack.callback(shutil.rmtree, half, ignore_errors=True)
            write_json(os.path.join(new, STAGE_FILE), record)
            if os.path.isdir(folder):
                self._set_aside(stage, old)
            os.rename(new, folder)

    def _set_aside(self, stage: str, name: str) -> None:
        """Rename the stage's folder: to ``name``, to be deleted, or, if it took long, to stay."""
        folder = self.folder(stage)
        if self.restart or self._seconds_spent(stage) <= KEPT_SECONDS:
            os.rename(folder, name)
            return
        kept = name_aside(folder)
        os.rename(folder, kept)
        logger.warning(f"[{stage}] the earlier result is kept in {kept}; --restart deletes it "
                       f"instead")

    def _seconds_spent(self, stage: str) -> float:
        """Tell how long the stage took or, unfinished, how far apart its files were written.

        A finished one that does not say took for ever, and so did one without a whole record.
        """
        folder = self.folder(stage)
        record = read_record(folder)
        if record is None:
            return float("inf") if os.listdir(folder) else 0.0
        made = record.get("made") or {}
        if made or record.get("finished"):
            return float(made.get("seconds", float("inf")))
        files = [os.path.join(parent, name) for parent, _, names in os.walk(folder)
                 for name in names]
        times = [os.path.getmtime(path) for path in files]
        return max(times) - min(times) if times else 0.0
