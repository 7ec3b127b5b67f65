"""Predictions of several methods on the same images, side by side (paper, Fig. 3)."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import paddle

from paddle_csrl import visualize
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets import ZeroShotDataset
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation.evaluate import evaluate_as_configured, new_evaluator
from paddle_csrl.evaluation.pictures import drawable, image_of
from paddle_csrl.run import Run

#: Longest side of a picture in the combined figure, in pixels.
_SMALL = 320


class Method(NamedTuple):
    """A trained segmentor and the title of its column."""
    name: str
    builder: ZeroShotBuilder
    weights: str


def open_methods(places: Sequence[str], names: Sequence[str] = (),
                 opts: Sequence[str] = ()) -> list[Method]:
    """Open the methods to compare.

    Args:
        places: each the folder of a finished run, or ``CONFIG.yml,WEIGHTS.pdparams``.
        names: their titles. Default: the folders' names.

    Raises:
        UserError: a place or name that does not do, or methods that differ in data or classes.
    """
    methods = [_open_method(place, opts) for place in places]
    if names and len(names) != len(methods):
        raise UserError(f"--names gives {len(names)} names for {len(methods)} runs; give one each")
    titles = list(names) or [method.name for method in methods]
    for title in titles:
        if titles.count(title) > 1 or title in ("Image", "Ground truth"):
            raise UserError(f"the title {title} cannot be told from another column; give --names")
    first = methods[0].builder
    for method, place in zip(methods, places):
        if _identity(method.builder) != _identity(first):
            raise UserError(f"{place} has other validation images, classes or unseen classes than "
                            f"{places[0]}; compare runs of one split")
    return [method._replace(name=title) for method, title in zip(methods, titles)]


def choose_images(dataset: ZeroShotDataset, num: int) -> list[int]:
    """Return the indices of at most ``num`` images (> 0) of a validation set.

    Those with the most pixels of an unseen class in their truth come first. Every unseen class
    gives an image in turn, so that one alone does not fill the figure. No prediction takes part.
    """
    counts = dataset.class_pixels()
    if counts is None:
        return list(range(min(num, len(dataset))))
    unseen = counts[:, dataset.unseen_ids]
    rankings = np.argsort(-unseen, axis=0, kind="stable").T
    has_class = unseen.T[np.arange(len(rankings))[:, None], rankings] > 0
    chosen: dict[int, None] = {}
    for place in range(rankings.shape[1]):
        chosen.update(dict.fromkeys(rankings[has_class[:, place], place].tolist()))
    rest = dict.fromkeys(np.argsort(-unseen.sum(1), kind="stable").tolist())
    return list({**chosen, **rest})[:num]


def compare_methods(methods: Sequence[Method], folder: str, images: Sequence[int] = (),
                    num: int = 6) -> list[str]:
    """Write a PNG per image and one of all of them; return their paths, the combined one last.

    Args:
        methods: of ``open_methods``.
        images: indices in the validation set. Default: ``choose_images``.
        num: how many images, where none are given.

    Raises:
        UserError: an index that the validation set does not have, or weights that do not fit.
    """
    builder = methods[0].builder
    dataset = builder.val_dataset
    wrong = [index for index in images if not 0 <= index < len(dataset)]
    if wrong:
        raise UserError(f"--images {wrong[0]}: the validation set has the images 0 to "
                        f"{len(dataset) - 1}")
    if num < 1:
        raise UserError(f"--num {num} must be at least 1")
    chosen = list(dict.fromkeys(images)) or choose_images(dataset, num)
    labels: list[dict[str, np.ndarray]] = [{} for _ in chosen]
    for method in methods:
        for of_image, (prediction, truth) in zip(labels, _predict(method, chosen)):
            of_image.setdefault("Ground truth", drawable(truth, dataset))
            of_image[method.name] = prediction
    scenes = [_scene(dataset, index, scene) for index, scene in zip(chosen, labels)]
    options = (builder.classes.names, builder.classes.unseen_ids, builder.classes.palette)
    paths = []
    for index, scene in zip(chosen, scenes):
        paths.append(os.path.join(folder, f"compare_{index:05d}.png"))
        visualize.save_png(paths[-1], visualize.comparison_panel([scene], *options))
    paths.append(os.path.join(folder, "compare.png"))
    visualize.save_png(paths[-1], visualize.comparison_panel(scenes, *options, largest=_SMALL))
    return paths


def _open_method(place: str, opts: Sequence[str]) -> Method:
    if "," not in place:
        run = Run.open(place, opts)
        return Method(os.path.basename(os.path.abspath(place)), run.builder, run.final_model)
    config, weights = place.split(",", 1)
    if not weights:
        raise UserError(f"--run {place}: the weights are missing; write "
                        f"CONFIG.yml,WEIGHTS.pdparams")
    return Method(os.path.splitext(os.path.basename(config))[0],
                  ZeroShotBuilder(ZeroShotConfig(config, opts=opts)), weights)


def _identity(builder: ZeroShotBuilder) -> tuple:
    """Return what methods must share: names of images, classes and unseen classes."""
    images = [os.path.basename(pair[0]) for pair in builder.val_dataset.file_list]
    return images, builder.classes.names, builder.classes.unseen_ids.tolist()


def _predict(method: Method, indices: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return prediction and truth, int [H, W] each, for every index."""
    builder = method.builder
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    evaluate_as_configured(
        builder, builder.trained_segmentor(method.weights), new_evaluator(builder),
        paddle.io.Subset(builder.val_dataset, list(indices)), title=method.name,
        on_prediction=lambda place, *labels: found.update({place: labels}))
    return [found[place] for place in range(len(indices))]


def _scene(dataset: ZeroShotDataset, index: int,
           labels: dict[str, np.ndarray]) -> visualize.Scene:
    name = f": {os.path.basename(dataset.file_list[index][0])}" if dataset.file_list else ""
    return visualize.Scene(image_of(dataset, index), labels, f"{index}{name}")
