"""Predicting images one by one and writing the pictures."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn
from paddleseg.core import infer
from paddleseg.utils import logger

from paddle_csrl import parallel, visualize
from paddle_csrl.classes import ClassTable
from paddle_csrl.datasets.file_format import OF_DEEP
from paddle_csrl.deploy.images import ImageFile, ImageReader, Sample, find_images, read_ahead
from paddle_csrl.errors import UserError, is_unwritable, one_line
from paddle_csrl.evaluation.evaluate import AUGMENTED_KEYS
from paddle_csrl.utils import atomic_path, make_folder, progress
from paddle_csrl.utils.precision import autocast

#: Kind of result -> its folder below ``--save_dir``. The first two are PaddleSeg's names.
FOLDERS = {"overlay": "added_prediction", "mask": "pseudo_color_prediction",
           "label": "label_prediction", "confidence": "confidence"}


class Prediction(NamedTuple):
    """The prediction for one image, at its own size.

    Attributes:
        label (np.ndarray): int32 [H, W], class ids.
        confidence (np.ndarray, optional): float32 [H, W], the softmax of the class, 0 to 1.
    """

    label: np.ndarray
    confidence: np.ndarray | None


Predictor = Callable[[Sample], Prediction]


class SegmentorPredictor:
    """A trained PaddleSeg segmentor; inference is PaddleSeg's own (``core.infer``).

    Args:
        model (nn.Layer): the segmentor, in eval mode.
        confidence (bool): whether confidences are wanted.
        precision, amp_level (str): as in PaddleSeg.
        aug_eval (bool): multi-scale and flip, with ``scales``, ``flip_horizontal`` and
            ``flip_vertical``.
        **test_config: ``is_slide``, ``crop_size``, ``stride`` and the above, as in PaddleSeg.
    """

    def __init__(self, model: nn.Layer, confidence: bool = False, precision: str = "fp32",
                 amp_level: str = "O1", aug_eval: bool = False, **test_config: Any):
        if not aug_eval:
            test_config = {key: value for key, value in test_config.items()
                           if key not in AUGMENTED_KEYS}
        self.model, self.confidence, self.test_config = model, confidence, test_config
        self.infer = infer.aug_inference if aug_eval else infer.inference
        self.precision, self.amp_level = precision, amp_level

    def __call__(self, sample: Sample) -> Prediction:
        with paddle.no_grad(), autocast(self.precision, self.amp_level):
            label, logits = self.infer(self.model, paddle.to_tensor(sample.pixels),
                                       trans_info=sample.trans_info, **self.test_config)
            confidence = nn.functional.softmax(logits.astype("float32"), axis=1).max(axis=1)[0] \
                if self.confidence else None
        return Prediction(label[0, 0].numpy(),
                          None if confidence is None else confidence.numpy())


class ResultFiles:
    """Writes the pictures of each prediction below a folder, all of an image or none.

    Args:
        save_dir (str): the folder.
        classes (ClassTable): names, unseen classes and colours.
        confidence (bool): whether confidences are written.
    """

    def __init__(self, save_dir: str, classes: ClassTable, confidence: bool = False):
        self.save_dir, self.classes = save_dir, classes
        self.kinds = [kind for kind in FOLDERS if confidence or kind != "confidence"]

    def folder(self, kind: str) -> str:
        return os.path.join(self.save_dir, FOLDERS[kind])

    def path(self, kind: str, name: str) -> str:
        return os.path.join(self.folder(kind), f"{name}.png")

    def check(self, images: list[ImageFile]) -> None:
        """Check that the results of ``images`` can be written.

        Raises:
            UserError: a result would replace an image, a folder or another result, a folder
                cannot be written to, or the labels do not fit into 8 bits.
        """
        if len(self.classes.names) > visualize.MAX_CLASSES:
            raise UserError(f"predictions are written as 8-bit labels of at most "
                            f"{visualize.MAX_CLASSES} classes, and the model has "
                            f"{len(self.classes.names)}; score it with tools/val.py instead")
        inputs = {os.path.realpath(image.path) for image in images}
        written: dict[str, str] = {}
        for image in images:
            for kind in self.kinds:
                path = os.path.realpath(self.path(kind, image.name))
                if path in inputs:
                    raise UserError(f"--save_dir {self.save_dir}: {path} is one of the images to "
                                    f"predict and would be replaced; choose another folder")
                if os.path.isdir(path):
                    raise UserError(f"--save_dir {self.save_dir}: {path} is a folder where the "
                                    f"result of {image.path} should go; choose another")
                if written.setdefault(path, image.path) != image.path:
                    raise UserError(f"{written[path]} and {image.path} would both be predicted "
                                    f"into {path}; rename one of them")
        for kind in self.kinds:
            make_folder(self.folder(kind), "--save_dir")

    def write(self, name: str, image: np.ndarray, prediction: Prediction) -> None:
        """Write the results of one image, uint8 RGB [H, W, 3]."""
        classes, label = self.classes, prediction.label.astype(np.uint8)
        pictures = {"overlay": visualize.overlay(image, label, classes.palette),
                    "mask": visualize.labelled_mask(
                        label, classes.names, classes.unseen_ids.tolist(), classes.palette),
                    "label": label}
        if "confidence" in self.kinds and prediction.confidence is not None:
            pictures["confidence"] = np.rint(255 * prediction.confidence).astype(np.uint8)
        with contextlib.ExitStack() as stack:
            for kind, picture in pictures.items():
                visualize.write_png(stack.enter_context(atomic_path(self.path(kind, name))),
                                    picture)


def predict_images(image_path: str, results: ResultFiles, reader: ImageReader,
                   predictor: Predictor, threads: int = 0) -> dict[str, Any]:
    """Predict every image of ``--image_path`` and write its pictures.

    While one image is predicted, the one before is written in a thread and the next are read in
    others, so that few are held at a time. An image that cannot be read, predicted or written is
    passed over, unless nothing can be written any more. With several processes each takes its
    share.

    Args:
        image_path: as ``find_images`` takes it.
        results: writes the pictures.
        reader: reads an image.
        predictor: predicts it, in the thread of the caller.
        threads: how many read ahead, as many images; one also for 0.

    Returns:
        dict: ``predicted`` (number of images), ``failed`` (path to reason), ``save_dir``. The
            first process has those of all, the others their own.

    Raises:
        UserError: no images, or results that would replace them.
    """
    every = find_images(image_path, map(results.folder, FOLDERS))
    results.check(every)
    images = every[parallel.rank()::parallel.world_size()]
    logger.info(f"{len(every)} images")
    failed: dict[str, str] = {}
    read = _or_error(lambda image, _: reader(image.path))
    predict = _or_error(lambda image, sample: (sample.image, predictor(sample)))
    write = _or_error(lambda image, shown: results.write(image.name, *shown))
    samples = read_ahead(read, ((image, None) for image in images), max(threads, 1))
    written = write_behind(write, map(predict, samples))
    for image, error in progress(written, "predict", len(images)):
        if is_unwritable(error):
            raise error
        if error:
            failed[image.path] = one_line(error)[:300] or type(error).__name__
    failed = parallel.collect_texts(failed)
    total = len(every) if parallel.is_first() else len(images)
    _report(total, failed, results)
    if reader.deep:
        logger.warning(f"{len(reader.deep)} images are not of 8 bits, such as {min(reader.deep)}: "
                       f"{OF_DEEP}")
    parallel.barrier()  # the launcher ends all where one has failed
    return {"predicted": total - len(failed), "failed": failed, "save_dir": results.save_dir}


_Step = tuple[ImageFile, Any]  # an image, and what the step before gave or the error it ended with


def _or_error(step: Callable[[ImageFile, Any], Any]) -> Callable[[_Step], _Step]:
    """Make ``step`` pass on an image with its error, so that the others go on."""
    def run(before: _Step) -> _Step:
        image, value = before
        if isinstance(value, Exception):
            return before
        try:
            return image, step(image, value)
        except Exception as error:  # whatever a strange file sets off
            return image, error

    return run


def write_behind(write: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """``map(write, items)``, each in a thread while the next item is made.

    A result is out before the next item is written, so that who ends at an error is in time.
    """
    last: Future | None = None
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            if last:
                yield last.result()
            last = pool.submit(write, item)
        if last:
            yield last.result()


def _report(total: int, failed: dict[str, str], results: ResultFiles) -> None:
    for path, reason in failed.items():
        logger.error(f"not predicted: {path}: {reason}")
    folders = ", ".join(FOLDERS[kind] for kind in results.kinds)
    logger.info(f"predicted {total - len(failed)} of {total} images: {folders} in "
                f"{results.save_dir}")
