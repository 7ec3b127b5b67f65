"""VisualDL records: named loss terms, scores over time, pictures and relation matrices.

VisualDL brings a client of a cloud along, which forks: who records or reads imports this then.
"""

import contextlib
import glob
import io
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from visualdl import LogReader, LogWriter
from visualdl.writer.record_writer import RecordFileWriter

_LOSS_TAG = "Train/loss_"
_LOG_FILES = "vdlrecords."


class StageLogWriter(LogWriter):
    """A VisualDL log that knows the loss terms by name.

    PaddleSeg's trainer numbers the terms (``Train/loss_0`` …); here they carry the name of their
    loss.

    Args:
        logdir (str): folder of the log.
        loss_names (sequence of str): names of the terms, in the order of the config.
        position (dict, optional): where an earlier writer was, as its ``position`` said. The log
            goes on from there, and what came later is cut off.
    """

    def __init__(self, logdir: str, loss_names: Sequence[str] = (),
                 position: dict[str, Any] | None = None):
        self._failure: OSError | None = None
        self.loss_names, self._goes_on = loss_names, False
        name = os.path.basename(position["file"]) if position else ""  # of a file that may be odd
        path = os.path.join(logdir, name) if name.startswith(_LOG_FILES) else ""
        if position and os.path.isfile(path):
            self._goes_on = True
            os.truncate(path, min(position["size"], os.path.getsize(path)))
        with contextlib.redirect_stdout(io.StringIO()):  # it says that the file is there
            super().__init__(logdir, file_name=os.path.basename(path) if self._goes_on else "")

    def add_meta(self, *args: Any, **kwargs: Any) -> None:
        if not self._goes_on:  # the file has it
            super().add_meta(*args, **kwargs)

    def position(self) -> dict[str, Any]:
        """Return the name of the file and how many bytes it has with all that was recorded."""
        self.flush()
        self._require_written()
        path = self._get_file_writer().get_filename()
        return {"file": os.path.basename(path), "size": os.path.getsize(path)}

    def _get_file_writer(self) -> RecordFileWriter:
        """Have the file of the log, whose errors VisualDL's writing thread swallows, keep them."""
        is_new = self._file_writer is None
        writer = super()._get_file_writer()
        if is_new:
            file = writer._general_file_writer
            file.write = partial(self._write, file.write)
        return writer

    def _write(self, write: Callable[[bytes], None], content: bytes) -> None:
        try:
            if not self._failure:
                write(content)
        except OSError as error:
            error.filename = self.file_name
            self._failure = error

    def _require_written(self) -> None:
        if self._failure:
            raise self._failure

    def close(self) -> None:
        """Write what is still to be written, or raise ``OSError``."""
        super().close()
        self._require_written()

    def add_scalar(self, tag: str, value: float, step: int, walltime: int | None = None) -> None:
        self._require_written()
        value = float(np.asarray(value).reshape(-1)[0])
        if tag.startswith(_LOSS_TAG):
            tag = f"Train/{self.loss_names[int(tag[len(_LOSS_TAG):])]}"
        super().add_scalar(tag=tag, value=value, step=step, walltime=walltime)
        if tag == "Train/loss" and len(self.loss_names) == 1:
            super().add_scalar(tag=f"Train/{self.loss_names[0]}", value=value, step=step,
                               walltime=walltime)

    def add_scores(self, scores: dict, class_names: Sequence[str], step: int,
                   pictures: Sequence[np.ndarray] = ()) -> None:
        """Record what ``ZeroShotEvaluator.compute`` returned, as fractions, and ``pictures``."""
        for key in ("seen_miou", "unseen_miou", "miou", "hiou"):
            self.add_scalar(f"Evaluate/{key}", scores[key], step)
        for name, iou in zip(class_names, scores["class_iou"]):
            self.add_scalar(f"IoU/{name.replace(' ', '_')}", iou, step)
        for number, picture in enumerate(pictures):
            self.add_picture(f"Predictions/{number}", picture, step)

    def add_picture(self, tag: str, picture: np.ndarray, step: int) -> None:
        """Record an RGB picture, uint8 [H, W, 3]."""
        self.add_image(tag=tag, img=picture, step=step)


def read_scalars(folder: str) -> dict[str, list[tuple[int, float]]]:
    """Read the record of ``StageLogWriter`` in ``folder``: (iteration, value) pairs by tag.

    Where a resumed training has left several files, the later one counts.
    """
    values: dict[str, dict[int, float]] = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), f"{_LOG_FILES}*.log"))):
        reader = LogReader(file_path=path)
        for tag in reader.get_tags().get("scalar", []):
            values.setdefault(tag, {}).update(
                (item.id, item.value) for item in reader.get_data("scalar", tag))
    return {tag: sorted(points.items()) for tag, points in values.items()}
