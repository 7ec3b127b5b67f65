"""The label scan against a loop over the pixels, and what it doubts and believes of files."""

import os
import tempfile

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from helpers.fabricated import read_label, write_label
from paddle_csrl import limits
from paddle_csrl.datasets import label_scan
from paddle_csrl.datasets.label_scan import require_readable, scan_labels
from paddle_csrl.errors import UserError


def write_pair(folder, name, label, palette=None, kind="png"):
    image, path = os.path.join(folder, f"{name}.jpg"), os.path.join(folder, f"{name}.{kind}")
    Image.new("RGB", label.shape[::-1], (9, 90, 200)).save(image)
    picture = Image.fromarray(label)
    if palette is not None:
        picture.putpalette(np.asarray(palette, np.uint8).tobytes())
    picture.save(path)
    return image, path


KINDS = {"grey": np.uint8, "palette": np.uint8, "16 bits": np.uint16, "32 bits": np.int32}


@st.composite
def labels(draw):
    """Labels of one size, of classes 0 to 3 and 255, and how they are to be written."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return [(draw(arrays(np.int64, shape, elements=st.sampled_from([0, 1, 2, 3, 255]))),
             draw(st.sampled_from(list(KINDS)))) for _ in range(draw(st.integers(1, 4)))]


def write_all(folder, made):
    palette = np.arange(768) % 251
    return [write_pair(folder, str(number), label.astype(KINDS[kind]),
                       palette if kind == "palette" else None,
                       "tif" if kind == "32 bits" else "png")
            for number, (label, kind) in enumerate(made)]


@given(labels(), st.integers(1, 3))
def test_every_pixel_is_counted(made, num_workers):
    with tempfile.TemporaryDirectory() as folder:
        files = write_all(folder, made)
        for _ in range(2):  # from the files, and from what was kept
            scan = scan_labels(files, 4, cache_dir=folder, num_workers=num_workers)
            assert scan.counts.toarray().tolist() == [
                [int((label == class_id).sum()) for class_id in range(4)] for label, _ in made]
            assert scan.unlabelled.tolist() == [int((label == 255).sum()) for label, _ in made]
            assert scan.counts.dtype == scan.unlabelled.dtype == np.int64
            assert scan.counts.indices.dtype == scan.counts.indptr.dtype == np.int32


@given(labels())
def test_ids_from_one_on(made):
    """ADE20K's: 0 is unlabelled, and the classes follow."""
    with tempfile.TemporaryDirectory() as folder:
        shifted = [np.where(label == 255, 0, label + 1) for label, _ in made]
        files = write_all(folder, [(label, "grey") for label in shifted])
        scan = scan_labels(files, 4, cache_dir=folder, zero_is_unlabelled=True)
        assert scan.counts.toarray().tolist() == [
            [int((label == class_id).sum()) for class_id in range(4)] for label, _ in made]
        assert scan.unlabelled.tolist() == [int((label == 255).sum()) for label, _ in made]
        # What was kept of it is not taken for another reading of the same files.
        assert scan_labels(files, 5, cache_dir=folder).unlabelled.sum() == 0


@pytest.mark.parametrize("dtype, value, ignore_index, fits", [
    (np.uint8, 3, 255, True), (np.uint8, 4, 255, False), (np.uint8, 254, 255, False),
    (np.uint8, 255, 254, False), (np.uint8, 254, 254, True), (np.uint16, 256, 255, False),
    (np.int32, -1, 255, False), (np.int32, -1, -1, True), (np.int32, 70000, 255, False)])
def test_the_ids_end_at_the_number_of_classes(tmp_path, dtype, value, ignore_index, fits):
    label = np.zeros((3, 4), dtype)
    label[1, 2] = value
    files = [write_pair(str(tmp_path), "a", label, kind="tif" if dtype == np.int32 else "png")]

    def scan():
        return scan_labels(files, 4, ignore_index, cache_dir=str(tmp_path))

    if fits:
        assert scan().counts.toarray()[0, 0] == 11
        assert scan().unlabelled[0] == int(value == ignore_index)
        return
    with pytest.raises(UserError) as caught:
        scan()
    assert (f"label {files[0][1]} holds {value}, but with 4 classes the ids are 0 to 3 "
            f"({ignore_index} where there is none)") in str(caught.value)


# What is doubted.

@pytest.fixture
def told(monkeypatch):
    """The doubts, each as often as it is told."""
    lines = []
    monkeypatch.setattr(label_scan, "_tell_once", lines.append)
    return lines


IDS = np.array([[0, 1, 3], [3, 255, 1]], np.uint8)


@pytest.mark.parametrize("number", [*range(15), 16, 400, 764, 765, 766, 767])
def test_one_number_of_a_palette(tmp_path, told, number):
    palette = np.arange(768) % 256
    other = palette.copy()
    other[number] ^= 1
    files = [write_pair(str(tmp_path), name, IDS, colors)
             for name, colors in (("a", palette), ("b", palette), ("c", other))]
    scan_labels(files, 4, cache_dir=str(tmp_path), num_workers=1)
    if number // 3 in (0, 1, 3):
        [line] = told
        assert line.startswith("1 labels have another palette than others: "
                               f"id {number // 3} has one colour in ")
        assert files[2][1] in line and (files[0][1] in line or files[1][1] in line)
    else:
        assert told == []


@pytest.mark.parametrize("first, second", [((1, 0, 0), (0, 128, 0)), ((0, 1, 0), (0, 0, 128)),
                                           ((0, 1, 0), (1, 0, 0)), ((0, 0, 1), (0, 1, 0)),
                                           ((1, 0, 0), (0, 255, 255)), ((0, 1, 0), (0, 0, 255))])
def test_no_two_colors_are_taken_for_one(tmp_path, told, first, second):
    files = []
    for name, color in (("a", first), ("b", second)):
        palette = np.zeros((256, 3), np.uint8)
        palette[3] = color
        files.append(write_pair(str(tmp_path), name, IDS, palette))
    scan_labels(files, 4, cache_dir=str(tmp_path))
    assert len(told) == 1 and "id 3 has one colour in" in told[0]


def test_grey_labels_have_no_palette_to_differ(tmp_path, told):
    files = [write_pair(str(tmp_path), "a", IDS, np.arange(768) % 256),
             write_pair(str(tmp_path), "b", IDS)]
    scan_labels(files, 4, cache_dir=str(tmp_path))
    assert told == []


@pytest.mark.parametrize("values, is_mask", [
    ([[0, 255], [0, 255]], True), ([[0, 0], [0, 255]], True), ([[255, 255], [255, 255]], True),
    ([[0, 255]], False), ([[0, 0], [0, 0]], False), ([[0, 1], [0, 255]], False)])
def test_masks_are_labels_of_nothing_but_0_and_unlabelled(tmp_path, told, values, is_mask):
    files = [write_pair(str(tmp_path), str(number), np.array([row], np.uint8))
             for number, row in enumerate(values)]
    scan_labels(files, 4, cache_dir=str(tmp_path))
    assert [line.startswith(f"none of {len(files)} labels, such as {files[0][1]}, holds an id "
                            f"above 0") for line in told] == [True] * is_mask


def test_deep_images_are_counted(tmp_path, told):
    files = [list(write_pair(str(tmp_path), name, IDS)) for name in "abcd"]
    for pair, kind in zip(files[:3], ("png", "tif", "ppm")):
        pair[0] = pair[0].replace(".jpg", f"_deep.{kind}")
        cv2.imwrite(pair[0], np.full((2, 3, 3), 700, np.uint16))
    scan_labels(files, 4, cache_dir=str(tmp_path))
    [line] = told
    assert line.startswith(f"3 images are not of 8 bits, such as {files[0][0]}")


# What is believed of what was kept.

@pytest.mark.parametrize("column, change", [
    ("lengths", lambda a: a + 1), ("lengths", lambda a: a[:-1]), ("lengths", lambda a: -a),
    ("lengths", lambda a: np.array([6, -3, 3])), ("lengths", lambda a: a.astype(float)),
    ("classes", lambda a: a + 4), ("classes", lambda a: a - 1), ("classes", lambda a: a[1:]),
    ("classes", lambda a: np.where(a == 3, 4, a)),
    ("classes", lambda a: a[:, None]), ("pixels", lambda a: a[:-1]),
    ("pixels", lambda a: a.astype(float)), ("unlabelled", lambda a: np.append(a, 0)),
    ("unlabelled", lambda a: a[1:]), ("unlabelled", None)])
def test_a_kept_scan_that_does_not_fit_is_made_again(tmp_path, column, change):
    files = [write_pair(str(tmp_path), name, np.array([[0, 1, 3, 255]], np.uint8))
             for name in "abc"]
    first = scan_labels(files, 4, cache_dir=str(tmp_path / "cache"))
    assert first.counts.toarray().tolist() == [[1, 1, 0, 1]] * 3
    [kept] = (tmp_path / "cache").glob("labels_*.npz")
    with np.load(kept) as columns:
        columns = dict(columns)
    columns[column] = change(columns[column]) if change else None
    np.savez(kept, **{name: values for name, values in columns.items() if values is not None})
    again = scan_labels(files, 4, cache_dir=str(tmp_path / "cache"))
    assert again.counts.toarray().tolist() == [[1, 1, 0, 1]] * 3
    assert again.unlabelled.tolist() == [1, 1, 1]


# What is cut.

@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_cut_image_is_refused_wherever_it_is_cut(tmp_path, kind):
    rng = np.random.default_rng(0)
    label = np.zeros((90, 120), np.uint8)
    path = str(tmp_path / "image")
    Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8)).save(path, kind, quality=95)
    labelled = str(tmp_path / "label.png")
    write_label(labelled, label)
    whole = open(path, "rb").read()
    assert len(whole) > 8000  # more than the part of the end that is looked at
    files = [(path, labelled)]
    assert scan_labels(files, 4, cache_dir=str(tmp_path / "c")).counts.toarray()[0, 0] == 10800
    require_readable(path, labelled)
    for size in (0, 3, 100, len(whole) // 2, len(whole) - 2000, len(whole) - 200):
        with open(path, "wb") as file:
            file.write(whole[:size])
        for read in (lambda: scan_labels(files, 4, cache_dir=str(tmp_path / "c")),
                     lambda: require_readable(path, None)):
            with pytest.raises(UserError, match=f"image {path} cannot be read"):
                read()
    # An end mark far ahead of the end, such as that of a preview, is none of the whole.
    with open(path, "wb") as file:
        file.write(whole[:20] + b"\xff\xd9IEND" + whole[20:-200])
    with pytest.raises(UserError, match=f"image {path} cannot be read"):
        scan_labels(files, 4, cache_dir=str(tmp_path / "c"))


def test_no_way_leads_around_the_limits(tmp_path, monkeypatch):
    image, label = write_pair(str(tmp_path), "a", IDS)
    assert label_scan.read_image(image).shape == (2, 3, 3)
    monkeypatch.setattr(limits, "MOST_IMAGE_BYTES", 10)
    for read in (lambda: label_scan.read_image(image), lambda: require_readable(image, None),
                 lambda: scan_labels([(image, label)], 4, cache_dir=str(tmp_path))):
        with pytest.raises(UserError, match=f"{image} has .* bytes, above the limit of 10 for"):
            read()


def test_readable_asks_for_both(tmp_path):
    image, label = write_pair(str(tmp_path), "a", IDS)
    require_readable(image, label)
    np.testing.assert_array_equal(label_scan.read_label(label), read_label(label))
    with open(label, "wb") as file:
        file.write(b"no picture")
    require_readable(image, None)
    with pytest.raises(UserError, match=f"label {label} cannot be read"):
        require_readable(image, label)
    with open(image, "wb") as file:
        file.write(b"no picture")
    with pytest.raises(UserError, match=f"image {image} cannot be read"):
        require_readable(image, label)
