"""Prediction pictures: image, truth and prediction side by side."""

import os

import cv2
import numpy as np

from paddle_csrl import visualize
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.classes import ClassTable
from paddle_csrl.datasets.label_scan import read_image
from paddle_csrl.datasets.zero_shot import ZeroShotDataset


def can_draw(classes: ClassTable) -> bool:
    """Tell whether predictions can be drawn: not where 255, which pictures hatch, is a class."""
    return len(classes) <= visualize.MAX_CLASSES


class PictureBook:
    """Collects at most ``limit`` predictions of an evaluation, those with unseen classes first."""

    def __init__(self, builder: ZeroShotBuilder, limit: int):
        self.builder, self.limit = builder, limit
        self._with_unseen: list[tuple] = []
        self._without: list[tuple] = []

    def add(self, index: int, prediction: np.ndarray, label: np.ndarray) -> None:
        """Offer the prediction (int [H, W]) for image ``index`` with its truth."""
        has_unseen = np.isin(self.builder.classes.unseen_ids, label).any()
        shelf = self._with_unseen if has_unseen else self._without
        if len(shelf) < self.limit:
            shelf.append((index, prediction, label))

    def pictures(self) -> list[np.ndarray]:
        """The panels, uint8 RGB [H, W, 3] each; none unless ``can_draw``."""
        classes, dataset = self.builder.classes, self.builder.val_dataset
        if not can_draw(classes):
            return []
        panels = []
        for index, prediction, label in (self._with_unseen + self._without)[:self.limit]:
            # Transforms may have resized the label.
            image = cv2.resize(image_of(dataset, index), label.shape[::-1],
                               interpolation=cv2.INTER_AREA)
            panels.append(visualize.prediction_panel(
                image, drawable(label, dataset), prediction, classes.names, classes.unseen_ids,
                classes.palette))
        return panels

    def save(self, folder: str) -> list[str]:
        """Write the panels as PNG files into ``folder`` and return their paths."""
        paths = []
        for number, panel in enumerate(self.pictures()):
            paths.append(os.path.join(folder, f"{number:02d}.png"))
            visualize.save_png(paths[-1], panel)
        return paths


def drawable(label: np.ndarray, dataset: ZeroShotDataset) -> np.ndarray:
    """Return a label of a data set as pictures know it: 255 where there is no class."""
    return np.where(label == dataset.ignore_index, 255, label)


def image_of(dataset: ZeroShotDataset, index: int) -> np.ndarray:
    """Return uint8 RGB [H, W, 3]: the file, or without one the sample, stretched to 0 to 255."""
    if dataset.file_list:
        return cv2.cvtColor(read_image(dataset.file_list[index][0]), cv2.COLOR_BGR2RGB)
    sample = dataset[index]["img"].transpose(1, 2, 0)
    image = sample[..., [0, 1, 2] if sample.shape[2] >= 3 else [0, 0, 0]]
    return (255 * (image - image.min()) / max(np.ptp(image), 1e-6)).astype(np.uint8)
