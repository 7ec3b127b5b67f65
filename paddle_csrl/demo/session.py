"""All of the page but the web: pictures, their segmentation, and classes that change."""

import contextlib
import itertools
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
from paddleseg.utils import logger, utils

from paddle_csrl.add_class.change import ClassChange, add_classes, trained_run
from paddle_csrl.add_class.layer import prepare
from paddle_csrl.classes import ClassTable
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets.class_names import require_length
from paddle_csrl.datasets.file_format import open_image
from paddle_csrl.deploy.images import ImageReader, Sample
from paddle_csrl.deploy.model import DeployBuilder
from paddle_csrl.errors import UserError, user_message
from paddle_csrl.run import CONFIG_FILE, Run
from paddle_csrl.utils import make_folder
from paddle_csrl.visualize import MAX_CLASSES

#: Largest uploaded picture, in pixels.
MAX_PIXELS = 25_000_000
#: Pixels of a picture on the page; larger ones are made smaller, so that a look takes seconds.
SHOWN_PIXELS = 1 << 20
#: Uploads that are kept; the oldest makes room for the next.
MAX_UPLOADS = 10
#: Pictures that are read at once, for each takes a hundred megabytes for a moment.
_READERS = 2
_THUMBNAIL_SIDE = 160
#: Options with these beginnings say how a layer is made.
_OF_LAYER = ("classifier.", "generator.")
_LONGEST_TITLE = 100
_PERCENT = "\N{NO-BREAK SPACE}%"


class Picture(NamedTuple):
    """An image of the page: its file and what to call it."""
    path: str
    title: str


class Model:
    """A run folder that is ready to predict.

    Args:
        folder (str): of a finished run.
        opts (list[str]): overrides of its config.

    Raises:
        UserError: the folder is none of a finished run, its parts do not fit, or it has more
            classes than a byte tells apart.
    """

    def __init__(self, folder: str, opts: Sequence[str] = ()):
        weights = os.path.join(folder, "model.pdparams")
        config = ZeroShotConfig(os.path.join(folder, CONFIG_FILE), opts=opts)
        builder = DeployBuilder(config, weights)
        self.folder = folder
        self.classes: ClassTable = builder.classes
        if len(self.classes) > MAX_CLASSES:
            raise UserError(f"the page shows at most {MAX_CLASSES} classes, and the model in "
                            f"{folder} has {len(self.classes)}; score it with tools/val.py instead")
        self.read = ImageReader(builder.transforms, SHOWN_PIXELS)
        self.predict = builder.predictor()


class _Task:
    """A change that is being made, and how far it is."""

    def __init__(self, text: str):
        self.text, self.share, self._start = text, 0.0, time.monotonic()

    def note(self, _: str, share: float) -> None:
        self.share = share

    def describe(self) -> dict[str, Any]:
        return {"text": self.text, "share": self.share,
                "seconds": time.monotonic() - self._start}


class DemoSession:
    """A run, the images to look at, and the classes that were added or removed since.

    Methods may be called from any thread. All that computes runs in one thread of the session,
    one thing after the other, so that there is one model and nobody trains under a prediction.

    Args:
        run_dir (str): a finished run; it is not changed.
        save_dir (str, optional): receives a run folder per change of the classes, named 1, 2, 3
            and so on. Default: a temporary folder that holds the newest alone and is removed by
            ``close``.
        opts (list[str]): overrides of the run's config, such as where the data are now.
        device (str): as in PaddleSeg.
        num_images (int): validation images offered, spread evenly over the run's list.

    Raises:
        UserError: as ``Model``, or ``save_dir`` cannot be written to.
    """

    def __init__(self, run_dir: str, save_dir: str | None = None, opts: Sequence[str] = (),
                 device: str = "cpu", num_images: int = 60):
        self.run_dir, self.save_dir, self.opts = run_dir, save_dir, list(opts)
        if save_dir:
            make_folder(save_dir, "--save_dir")
        self._worker = ThreadPoolExecutor(1, initializer=utils.set_device, initargs=(device,))
        self._model = self._worker.submit(Model, run_dir, self.opts).result()
        self._trained: Run | None = None  # of the worker, and open once a class may be added
        self._temporary = tempfile.TemporaryDirectory(prefix="csrl_demo.")
        self._readers = threading.BoundedSemaphore(_READERS)
        self._lock = threading.Lock()  # guards what follows
        self._version = 0
        self._labels: dict[int, np.ndarray] = {}
        self._task: _Task | None = None
        self._message: dict[str, Any] | None = None
        pictures, self._images_note = _pictures_of(run_dir, self.opts, num_images)
        self._pictures = dict(enumerate(pictures))
        self._uploads: list[int] = []

    def close(self) -> None:
        """Wait for what is running and remove the temporary files."""
        if self._task:
            logger.info(f"{self._task.text}: waiting until it is done")
        self._worker.shutdown(cancel_futures=True)
        self._temporary.cleanup()

    def state(self) -> dict[str, Any]:
        """Describe what the page shows apart from pictures, as values for JSON.

        Returns:
            dict: ``run``; ``version`` of the classes, which grows with every change;
            ``classes`` (dicts of ``id``, ``name``, ``color`` RGB, ``unseen``, which may be
            removed); ``images`` (dicts of ``id`` and ``title``) and ``images_note``, why there
            are none; ``task``, what is being done (``text``, ``share`` done 0 to 1,
            ``seconds``), or None; ``message``, how the last one ended (``text``, ``is_error``),
            or None.
        """
        with self._lock:
            classes = self._model.classes
            unseen = set(classes.unseen_ids.tolist())
            return {
                "run": self.run_dir, "version": self._version,
                "task": self._task and self._task.describe(), "message": self._message,
                "images_note": self._images_note,
                "images": [{"id": number, "title": picture.title}
                           for number, picture in self._pictures.items()],
                "classes": [{"id": number, "name": name, "unseen": number in unseen,
                             "color": classes.palette[number].tolist()}
                            for number, name in enumerate(classes.names)]}

    # Images

    def upload(self, title: str, content: bytes) -> int:
        """Take in the file ``content`` and return its image id; the oldest upload may go for it.

        Raises:
            UserError: it is no picture, or one of more than ``MAX_PIXELS``.
        """
        title = os.path.basename(title.replace("\\", "/"))[:_LONGEST_TITLE] or "upload"
        handle, path = tempfile.mkstemp(dir=self._temporary.name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            size = self._size_of_upload(path)
            shown = self._read(path).image.shape[:2]
        except Exception as error:
            os.remove(path)
            if isinstance(error, UserError):
                raise UserError(str(error).replace(path, title)) from None
            raise
        if shown[0] * shown[1] < size[0] * size[1]:
            title += f", made smaller: {shown[1]} x {shown[0]} of {size[0]} x {size[1]} pixels"
        with self._lock:
            number = max(self._pictures, default=-1) + 1
            self._pictures[number] = Picture(path, title)
            self._uploads.append(number)
            if len(self._uploads) > MAX_UPLOADS:
                oldest = self._uploads.pop(0)
                os.remove(self._pictures.pop(oldest).path)
                self._labels.pop(oldest, None)
            return number

    def _size_of_upload(self, path: str) -> tuple[int, int]:
        """Width and height of a picture, checked."""
        try:
            with open_image(path) as image:
                width, height = image.size
        except UserError:
            raise
        except Exception:  # Pillow raises many types on broken files
            raise UserError(f"{path} is no picture that can be read; choose a JPEG or PNG file"
                            ) from None
        if width * height > MAX_PIXELS:
            raise UserError(f"{path} has {width} x {height} pixels; choose one of at most "
                            f"{MAX_PIXELS // 10**6} million")
        return width, height

    def picture(self, image_id: int) -> np.ndarray:
        """Return the image, uint8 RGB [H, W, 3], as prediction reads it.

        Raises:
            UserError: there is no such image, or its file is broken.
        """
        return self._sample(image_id).image

    def thumbnail(self, image_id: int) -> np.ndarray:
        """Return the image made small, uint8 RGB [h, w, 3]. Errors are those of ``picture``."""
        image = self.picture(image_id)
        scale = min(1.0, _THUMBNAIL_SIDE / min(image.shape[:2]))
        return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)

    def label(self, image_id: int) -> tuple[np.ndarray, int]:
        """Return the class of every pixel, uint8 [H, W], and the version of the classes.

        Errors are those of ``picture``.
        """
        sample = self._sample(image_id)
        return self._worker.submit(self._predict, image_id, sample).result()

    def _sample(self, image_id: int) -> Sample:
        with self._lock:
            if image_id not in self._pictures:
                raise UserError(f"there is no image {image_id}, or no longer; reload the page")
            picture = self._pictures[image_id]
        return self._read(picture.path)

    def _read(self, path: str) -> Sample:
        with self._readers:
            return self._model.read(path)

    def _predict(self, image_id: int, sample: Sample) -> tuple[np.ndarray, int]:
        if image_id not in self._labels:
            self._labels[image_id] = self._model.predict(sample).label.astype(np.uint8)
            with contextlib.suppress(RuntimeError):  # the page is being closed
                self._worker.submit(self._prepare)  # while the picture is looked at
        return self._labels[image_id], self._version

    # Classes

    def _prepare(self) -> None:
        """Open what every change begins with; what is wrong with it the change will tell."""
        with contextlib.suppress(UserError):
            self._trained = self._trained or trained_run(self.run_dir, self.opts)
            prepare(self._trained, len(self._model.classes.unseen_ids) + 1)

    def add_class(self, text: str) -> None:
        """Begin to add a class, "name" or "name=word"; ``state`` tells how it goes.

        Raises:
            UserError: the text is empty, or another change is being made.
        """
        text = text.strip()
        if not text:
            raise UserError("no name of a class; type one, such as zebra")
        require_length(text, "the class")
        self._begin(f"adding {text.split('=')[0].strip()}", [text], [])

    def remove_class(self, name: str) -> None:
        """Begin to remove an unseen class; a seen one could not come back without training.

        Raises:
            UserError: there is no such unseen class, or another change is being made.
        """
        if name not in self._model.classes.unseen_names:
            raise UserError(f"no unseen class {name} to remove; tools/add_class.py also removes "
                            f"seen ones")
        self._begin(f"removing {name}", [], [name])

    def _begin(self, text: str, add: list[str], remove: list[str]) -> None:
        task = _Task(text)
        with self._lock:
            if self._task:
                raise UserError(f"{self._task.text} is not done yet; wait until it is")
            self._task, self._message = task, None
        self._worker.submit(self._change, task, add, remove)

    def _change(self, task: _Task, add: list[str], remove: list[str]) -> None:
        folder = self._new_folder()
        try:
            self._trained = self._trained or trained_run(self.run_dir, self.opts)
            opts = self.opts if add else [  # without an addition the layer stays as it is
                item for item in self.opts if not item.startswith(_OF_LAYER)]
            result = add_classes(self._model.folder, add, folder, remove=remove, opts=opts,
                                 on_progress=task.note, trained=self._trained)
            model = Model(folder, self.opts)
        except Exception as error:  # the folder stays: what is there may be of another page
            with self._lock:
                self._task, self._message = None, {"text": explain(error), "is_error": True}
            return
        if os.path.dirname(self._model.folder) == self._temporary.name:
            shutil.rmtree(self._model.folder)
        with self._lock:
            self._model, self._version = model, self._version + 1
            self._labels.clear()
            self._task, self._message = None, {"text": _summary(result), "is_error": False}

    def _new_folder(self) -> str:
        parent = self.save_dir or self._temporary.name
        paths = (os.path.join(parent, str(number)) for number in itertools.count(1))
        return next(path for path in paths if not os.path.exists(path))


def explain(error: Exception) -> str:
    """Return one line on an error; the terminal gets the trace of what no user can mend."""
    text = user_message(error)
    if text is None:
        logger.error("".join(traceback.format_exception(error)))
        text = f"failed ({type(error).__name__}); the terminal has the details"
    return text


def _pictures_of(run_dir: str, opts: Sequence[str], limit: int) -> tuple[list[Picture], str]:
    """Return validation images of the run, and a note where there are none."""
    try:
        files = Run.open(run_dir, opts).builder.val_dataset.file_list
    except UserError as error:
        return [], f"Upload one; the run's own are not here: {error}"
    chosen = np.linspace(0, len(files) - 1, min(limit, len(files))).round().astype(int)
    return [Picture(files[number][0], os.path.basename(files[number][0]))
            for number in chosen], ""


def _summary(change: ClassChange) -> str:
    """Tell in a line what was done, how long it took and what the seen classes keep."""
    done = [*(f"{name} added" for name in change.added),
            *(f"{name} removed" for name in change.removed)]
    text = f"{', '.join(done)} in {change.seconds:.1f} s"
    if not change.before or not change.after:
        return text
    moved = {name: 100 * (change.after[name] - old) for name, old in change.before.items()}
    most = max(moved, key=lambda name: abs(moved[name]))
    before, after = (100 * np.mean(list(shares.values()))
                     for shares in (change.before, change.after))
    taken = "".join(f"; {name} takes {100 * share:.1f}{_PERCENT}"
                    for name, share in change.taken.items())
    return (f"{text}. Of the seen classes' training pixels {after:.1f}{_PERCENT} are right, "
            f"{before:.1f}{_PERCENT} before; most moved: {most}, {moved[most]:+.1f}{taken}")
