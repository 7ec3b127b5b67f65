"""Where the stages of a run keep their files, and the records that say what is finished."""

import functools
import hashlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

from paddleseg.utils import logger

from paddle_csrl import parallel
from paddle_csrl.errors import UserError
from paddle_csrl.utils import read_json, write_json

#: A result that took longer, in seconds, is moved aside rather than deleted.
KEPT_SECONDS = 60.0


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
                 shared_stages: Sequence[str] = ("segmentor", "features"), restart: bool = False):
        self.save_dir, self.outputs, self.restart = save_dir, dict(outputs), restart
        #: What a stage that begins is made from, by its name; goes into its record.
        self.origins: dict[str, dict[str, Any]] = {}
        self.shared_dir = shared_dir
        self.shared_stages = tuple(shared_stages) if shared_dir else ()

    def folder(self, stage: str) -> str:
        parent = self.shared_dir if stage in self.shared_stages else self.save_dir
        return os.path.join(str(parent), stage)

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
        """Read a stage's ``stage.json``: ``finished``, ``format``, ``inputs``, ``made``."""
        content = read_json(self._record_path(stage))
        return content if isinstance(content, dict) else {}

    def is_finished(self, stage: str) -> bool:
        """Tell whether the stage has come to its end, from whatever inputs."""
        return bool(self.record(stage).get("finished")) and os.path.isfile(self.output(stage))

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
            if not resumed:
                self.check_folder(stage)
                self._clear(stage)
            os.makedirs(self.folder(stage), exist_ok=True)
            self._write_record(stage, {"finished": False, **self.origins.get(stage, {})})
        parallel.barrier()

    def finish(self, stage: str, **record: Any) -> None:
        """Mark the stage as finished; ``record`` says from what and how."""
        if parallel.is_first():
            self._write_record(stage, {"finished": True, **record})
        parallel.barrier()
        logger.info(f"[{stage}] finished: {self.output(stage)}")

    def mark_unfinished(self, stage: str) -> None:
        """Have the stage run again; what it took is still known."""
        if parallel.is_first():
            self._write_record(stage, {**self.record(stage), "finished": False})

    def _record_path(self, stage: str) -> str:
        return os.path.join(self.folder(stage), "stage.json")

    def _write_record(self, stage: str, content: dict[str, Any]) -> None:
        write_json(self._record_path(stage), content)

    def _clear(self, stage: str) -> None:
        """Take the stage's earlier result away: what took long is kept under another name."""
        folder = self.folder(stage)
        if not os.path.isdir(folder):
            return
        if self.restart or self._seconds_spent(stage) <= KEPT_SECONDS:
            shutil.rmtree(folder)
            return
        kept = f"{folder}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
        os.rename(folder, kept)
        logger.warning(f"[{stage}] the earlier result is kept in {kept}; --restart deletes it "
                       f"instead")

    def _seconds_spent(self, stage: str) -> float:
        """Tell how long the stage took or, unfinished, how far apart its files were written.

        A finished one that does not say took for ever.
        """
        record = self.record(stage)
        made = record.get("made") or {}
        if made or record.get("finished"):
            return float(made.get("seconds", float("inf")))
        files = [os.path.join(parent, name) for parent, _, names in os.walk(self.folder(stage))
                 for name in names]
        times = [os.path.getmtime(path) for path in files]
        return max(times) - min(times) if times else 0.0


def checksum(path: str) -> str:
    """SHA-256 of a file, in hexadecimal; read again only once the file has changed."""
    status = os.stat(path)
    return _checksum(path, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _checksum(path: str, *status: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
