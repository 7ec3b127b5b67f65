"""Resizing image and label together, the blur, and labels on a grid."""

import random

import numpy as np
import pytest
from PIL import Image

from paddle_csrl.datasets.transforms import RandomGaussianBlur, ResizeShortSide, labels_at
from paddle_csrl.errors import UserError

RNG = np.random.default_rng(0)


def sample(height, width, **more):
    return {"img": RNG.integers(0, 256, (height, width, 3)).astype(np.float32),
            "label": RNG.integers(0, 21, (height, width)).astype(np.uint8),
            "trans_info": [], "gt_fields": [], **more}


@pytest.mark.parametrize("height, width, side, size", [
    (375, 500, 312, (312, 416)),
    (500, 375, 312, (416, 312)),
    (333, 500, 513, (513, 770)),   # 770.27
    (500, 334, 312, (467, 312)),   # 467.07
    (40, 40, 20, (20, 20)),
    (13, 29, 7, (7, 15)),          # 15.6
])
def test_sizes_are_rounded_down_as_zs3nets(height, width, side, size):
    data = ResizeShortSide(side)(sample(height, width))
    assert data["img"].shape == (*size, 3) and data["label"].shape == size


@pytest.mark.parametrize("side", [13, 24, 50])
def test_image_and_label_are_pillows(side):
    data = sample(24, 37)
    image, label = (Image.fromarray(data[key].astype(np.uint8)) for key in ("img", "label"))
    size = (37 * side // 24, side)
    resized = ResizeShortSide(side)(data)
    assert resized["img"].dtype == np.float32 and resized["label"].dtype == np.uint8
    # Pillow rounds each of its two passes over bytes.
    np.testing.assert_allclose(resized["img"], np.asarray(image.resize(size, Image.BILINEAR)),
                               atol=1.01)
    assert np.array_equal(resized["label"], np.asarray(label.resize(size, Image.NEAREST)))


def test_the_prediction_is_not_scaled_back():
    assert ResizeShortSide(20)(sample(24, 37))["trans_info"] == []


def test_other_fields_that_go_with_the_image_are_resized_once():
    data = sample(24, 36, edge=np.zeros((24, 36), np.uint8), gt_fields=["label", "edge"])
    resized = ResizeShortSide(12)(data)
    assert resized["label"].shape == resized["edge"].shape == (12, 18)


def test_an_image_alone():
    data = ResizeShortSide(12)({"img": np.zeros((24, 36, 3), np.float32), "trans_info": []})
    assert data["img"].shape == (12, 18, 3) and "label" not in data


def test_the_side_is_drawn_from_the_whole_range():
    random.seed(0)
    resize = ResizeShortSide([4, 7])
    sides = {min(resize(sample(10, 12))["img"].shape[:2]) for _ in range(60)}
    assert sides == {4, 5, 6, 7}


@pytest.mark.parametrize("side", [0, -3, 1.5, True, "312", None, [], [3], [5, 4], [0, 4],
                                  [1, 2, 3], [2, 3.0]])
def test_a_bad_side_is_refused(side):
    with pytest.raises(UserError, match="ResizeShortSide: `short_side: .*` must be a whole"):
        ResizeShortSide(side)


def test_blur_keeps_the_mean_and_the_label_and_lowers_the_contrast():
    random.seed(0)
    for _ in range(20):
        data = sample(40, 40)
        before, label = data["img"].copy(), data["label"].copy()
        after = RandomGaussianBlur(1.0, 1.0)(data)["img"]
        assert after.std() <= before.std() + 1e-3
        assert abs(after.mean() - before.mean()) < 2 and np.array_equal(data["label"], label)


def test_blur_of_a_point_is_a_gaussian_no_wider_than_asked():
    random.seed(0)
    widths = []
    for _ in range(40):
        point = np.zeros((31, 31, 3), np.float32)
        point[15, 15] = 1
        profile = RandomGaussianBlur(1.0, 2.0)({"img": point})["img"][..., 0].sum(0)
        widths.append(np.sqrt(profile @ (np.arange(31) - 15.0)**2))
    assert 1.5 < max(widths) < 2.05 and min(widths) < 0.5


def test_blur_touches_its_share_of_the_images():
    random.seed(0)
    blur, count = RandomGaussianBlur(0.5, 1.0), 0
    for _ in range(400):
        data = {"img": RNG.random((4, 4, 3)).astype(np.float32)}
        before = data["img"]
        count += blur(data)["img"] is not before
    assert 160 < count < 240


@pytest.mark.parametrize("prob, sigma", [(1.5, 1.0), (-0.1, 1.0), (0.5, 0.0), (0.5, -1.0)])
def test_bad_numbers_are_refused(prob, sigma):
    with pytest.raises(UserError, match="RandomGaussianBlur: `prob"):
        RandomGaussianBlur(prob, sigma)


def test_labels_are_read_at_cell_centres():
    labels = np.arange(64).reshape(8, 8)
    # Cells of 4x4 pixels have their centre between pixels 1 and 2: the latter is taken.
    assert labels_at(labels, (2, 2)).tolist() == [[18, 22], [50, 54]]
    assert np.array_equal(labels_at(labels, (8, 8)), labels)
    assert labels_at(np.arange(10)[None].repeat(6, 0), (3, 4)).tolist() == [[1, 3, 6, 8]] * 3
