"""Transforms of validation: those that leave the image where it is, and those that do not."""

import random

import cv2
import numpy as np
import paddleseg.transforms as T
import pytest

from paddle_csrl.datasets.transforms import RandomGaussianBlur, ResizeShortSide
from paddle_csrl.datasets.whole_view import require_whole_view
from paddle_csrl.errors import UserError


class Own:
    """A transform of one's own that does ``change`` to the image."""

    def __init__(self, change):
        self.change = change

    def __call__(self, data):
        data["img"] = self.change(data["img"])
        return data


def noted_resize(data):
    data["trans_info"].append(("resize", data["img"].shape[:2]))
    data["img"] = cv2.resize(data["img"], (50, 40))
    return data


def noted_padding(data):
    data["trans_info"].append(("padding", data["img"].shape[:2]))
    data["img"] = np.pad(data["img"], ((0, 9), (0, 70), (0, 0)))
    return data


def standardized(image):
    return (image - image.mean()) / (image.std() + 1e-6)


def needs_a_label(data):
    return data["label"].shape


@pytest.mark.parametrize("transform", [
    T.Normalize(), T.Resize((32, 48)), T.ResizeByLong(100), T.ResizeByShort(50), T.LimitLong(64),
    T.Padding((900, 900)), T.ResizeRangeScaling(), T.RandomDistort(), T.RandomBlur(),
    ResizeShortSide(37), ResizeShortSide([20, 300]), RandomGaussianBlur(1.0),
    noted_resize, noted_padding, needs_a_label, Own(standardized), Own(lambda image: 255 - image),
    Own(lambda image: np.clip(image * 1.7 - 30, 0, 255)), Own(lambda image: image[..., :1]),
])
def test_transforms_that_stay(transform):
    random.seed(5)
    np.random.seed(5)
    states = random.getstate(), np.random.get_state()[1].tolist()
    require_whole_view([T.Normalize(), transform], "val_dataset.transforms")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states


@pytest.mark.parametrize("transform", [
    T.RandomPaddingCrop((40, 40)), T.RandomPaddingCrop((9000, 9000)), T.RandomCenterCrop(),
    T.RandomScaleAspect(), T.RandomRotation(), T.RandomAffine(), T.RandomHorizontalFlip(0.01),
    T.RandomVerticalFlip(), T.ScalePadding(),
    Own(lambda image: image[:-6]), Own(lambda image: image[:, 6:]),
    Own(lambda image: image[5:-5, 5:-5]), Own(lambda image: image[:224, :224]),
    Own(lambda image: image[::-1]), Own(lambda image: image[:, ::-1]),
    Own(lambda image: image.transpose(1, 0, 2)), Own(lambda image: np.roll(image, 8, axis=1)),
    Own(lambda image: np.pad(image, ((0, 20), (0, 0), (0, 0)))),
    Own(lambda image: image[:, int(random.random() * 50) + 1:]),
])
def test_transforms_that_move_the_image(transform):
    name = getattr(transform, "__name__", type(transform).__name__)
    with pytest.raises(UserError, match=rf"`val_dataset.transforms` must not crop.*\({name}\)"):
        require_whole_view([T.Normalize(), transform], "val_dataset.transforms")
