"""The label scan: pixels by class, what is broken, and what is kept of it."""

import collections
import os
import pathlib
import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest
from paddleseg.datasets import PascalContext, PascalVOC
from PIL import Image, ImageOps

from helpers import hostile_images
from helpers.fabricated import damage, make_context, make_dataset, make_voc, write_label
from paddle_csrl.datasets import file_format, label_scan
from paddle_csrl.datasets.label_scan import scan_labels
from paddle_csrl.errors import UserError


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Six pairs of an image and its label of five classes; with a cache of their own."""
    monkeypatch.setenv("PADDLE_CSRL_CACHE", str(tmp_path / "cache"))
    root = make_dataset(str(tmp_path))
    return [(f"{root}/images/train_{index:04d}.jpg", f"{root}/labels/train_{index:04d}.png")
            for index in range(6)]


@pytest.fixture
def decodes(monkeypatch):
    """The paths of the labels decoded, as they are."""
    paths, opened = [], label_scan._opened_label

    def counting(path):
        paths.append(path)
        return opened(path)

    monkeypatch.setattr(label_scan, "_opened_label", counting)
    return paths


def read(path):
    return np.array(Image.open(path))


def test_counts_against_numpy(files):
    scan = scan_labels(files, 5)
    counts = scan.counts.toarray()
    for index, (_, path) in enumerate(files):
        label = read(path)
        assert counts[index].tolist() == [(label == value).sum() for value in range(5)]
        assert scan.unlabelled[index] == (label == 255).sum()
    assert scan.counts.dtype == np.int64 and scan.counts.shape == (6, 5)


def test_every_file_is_opened_for_its_digest_and_once_more(files, monkeypatch):
    opened, real = collections.Counter(), open

    def counting(path, *args, **options):
        opened[path] += 1
        return real(path, *args, **options)

    monkeypatch.setattr("builtins.open", counting)
    scan_labels(files, 5)
    assert [opened[path] for pair in files for path in pair] == [2] * 12


# What is kept.

def test_second_scan_decodes_nothing(files, decodes):
    first = scan_labels(files, 5)
    assert sorted(decodes) == sorted(path for _, path in files)
    second = scan_labels(files, 5)
    assert len(decodes) == 6
    np.testing.assert_array_equal(first.counts.toarray(), second.counts.toarray())
    np.testing.assert_array_equal(first.unlabelled, second.unlabelled)


def test_scan_is_done_again_when_a_file_changes(files, decodes):
    scan_labels(files, 5)
    label = read(files[2][1])
    label[5, 5] = 255 if label[5, 5] != 255 else 0
    write_label(files[2][1], label)
    assert scan_labels(files, 5).unlabelled[2] == (label == 255).sum()
    assert len(decodes) == 12


def test_scans_with_other_options_are_kept_apart(files, decodes):
    scan_labels(files, 5)
    with pytest.raises(UserError, match="holds 255, but with 5 classes"):
        scan_labels(files, 5, ignore_index=254)
    assert scan_labels(files, 6).counts.shape == (6, 6)
    decodes.clear()
    assert scan_labels(files, 5).counts.shape == (6, 5) and decodes == []


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_damaged_cache_is_done_again(files, tmp_path, decodes, content):
    first = scan_labels(files, 5)
    [path] = (tmp_path / "cache").glob("labels_*.npz")
    damage(path, content)
    again = scan_labels(files, 5).counts
    np.testing.assert_array_equal(again.toarray(), first.counts.toarray())
    assert len(decodes) == 12
    scan_labels(files, 5)
    assert len(decodes) == 12


def test_cache_that_cannot_be_written_is_no_obstacle(files, tmp_path):
    (tmp_path / "file").write_text("")
    scan = scan_labels(files, 5, cache_dir=str(tmp_path / "file" / "below"))
    assert scan.counts.sum() > 0


def test_cache_dir_goes_before_the_environment(files, tmp_path):
    scan_labels(files, 5, cache_dir=str(tmp_path / "mine"))
    assert len(list((tmp_path / "mine").glob("*.npz"))) == 1 and not (tmp_path / "cache").exists()


def test_default_cache_is_below_the_current_folder(files, tmp_path, monkeypatch):
    monkeypatch.delenv("PADDLE_CSRL_CACHE")
    monkeypatch.chdir(tmp_path)
    scan_labels(files, 5)
    assert len(list((tmp_path / ".cache" / "paddle_csrl").glob("*.npz"))) == 1


def test_a_copy_of_the_files_is_not_scanned_again(files, tmp_path, decodes, capsys):
    """What is doubtful about it is told of the copy."""
    recolor(files[3][1], range(768))
    first = scan_labels(files, 5)
    root, copy = os.path.dirname(os.path.dirname(files[0][0])), str(tmp_path / "copy")
    shutil.copytree(root, copy, copy_function=shutil.copyfile)
    capsys.readouterr()
    second = scan_labels([[path.replace(root, copy) for path in pair] for pair in files], 5)
    assert len(decodes) == 6
    np.testing.assert_array_equal(first.counts.toarray(), second.counts.toarray())
    printed = capsys.readouterr().out
    assert f"one colour in {copy}" in printed and root not in printed


# What is broken.

def repaint(path, value):
    label = read(path)
    label[9, 9] = value
    write_label(path, label)


@pytest.mark.parametrize("spoil, match", [
    (lambda image, label: os.remove(image), "no image at .*train_0001.jpg.*dataset_root"),
    (lambda image, label: os.remove(label), "no label at .*train_0001.png"),
    (lambda image, label: damage(image), "image .*train_0001.jpg cannot be read.*truncated"),
    (lambda image, label: damage(label), "label .*train_0001.png cannot be read"),
    (lambda image, label: damage(image, b""), "image .*train_0001.jpg cannot be read"),
    (lambda image, label: damage(image, b"no picture"), "image .*train_0001.jpg cannot be read"),
    (lambda image, label: repaint(label, 17),
     "train_0001.png holds 17, but with 5 classes.*`num_class"),
    (lambda image, label: cv2.imwrite(label, np.full((9, 9), 1000, np.uint16)) and
     cv2.imwrite(image, np.zeros((9, 9, 3))), "train_0001.png holds 1000"),
    (lambda image, label: Image.new("RGB", (9, 9)).save(label),
     r"train_0001.png is uint8 \[9, 9, 3\].*single-channel"),
    (lambda image, label: write_label(label, np.zeros((9, 8), np.uint8)),
     r"train_0001.png is 9 x 8 .*train_0001.jpg is \d+ x \d+;")])
def test_a_broken_file_is_named(files, spoil, match):
    spoil(*files[1])
    with pytest.raises(UserError, match=match) as error:
        scan_labels(files, 5)
    assert "\n" not in str(error.value)


def test_jpeg_with_a_long_appendix_is_whole(files):
    with open(files[0][0], "ab") as file:
        file.write(b"\0" * 10000)
    assert scan_labels(files, 5).counts.shape == (6, 5)


def test_labels_of_16_bits_are_taken(files):
    label = read(files[2][1]).astype(np.uint16)
    cv2.imwrite(files[2][1], label)
    assert scan_labels(files, 5).counts[2, 0] == (label == 0).sum()


def test_size_counts_after_the_exif_orientation(files):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, as OpenCV does
    Image.new("RGB", (30, 20)).save(files[0][0], exif=exif)
    write_label(files[0][1], np.zeros((30, 20), np.uint8))
    assert scan_labels(files, 5).counts.toarray()[0].tolist() == [600, 0, 0, 0, 0]


# The fabricated data sets themselves.

def test_fabricated_data_hold_every_class_in_every_split(tmp_path):
    voc, context = make_voc(str(tmp_path)), make_context(str(tmp_path))
    for mode in ("train", "val"):
        for data, classes in ((PascalVOC([], voc, mode), 21),
                              (PascalContext([], context, mode), 60)):
            counts = scan_labels(data.file_list, classes, cache_dir=str(tmp_path / "cache")).counts
            assert (counts.sum(0) > 0).all()


def test_fabricated_data_are_a_function_of_the_seed(tmp_path):
    def contents(name, seed):
        make_dataset(str(tmp_path / name), seed=seed)
        return [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.*"))]

    assert contents("b", 0) == contents("a", 0) != contents("c", 1)


# Files that are not what they seem.

TURNS = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
         5: lambda a: np.swapaxes(a, 0, 1), 6: lambda a: np.rot90(a, -1),
         7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1), 8: lambda a: np.rot90(a, 1)}


def tagged(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_images(files, orientation, square):
    """A label as the picture is stored is refused, one as it is shown where its size tells."""
    for path, label in files[2:4]:
        side = (40, 40) if square else (40, 50)
        Image.fromarray(np.zeros((*side, 3), np.uint8)).save(path, exif=tagged(orientation))
        write_label(label, np.zeros(side, np.uint8))
    if orientation == 1:
        scan_labels(files, 5)
        return
    angle = {2: "mirrored", 3: "turned by 180 degrees", 4: "mirrored upside down",
             6: "turned by 90 degrees", 8: "turned by 270 degrees"}.get(orientation, "")
    with pytest.raises(UserError, match=f"image {files[2][0]} is .*{angle} by its EXIF orientation "
                                        f"{orientation} .*{files[2][1]} is not known to be "
                                        f".1 more such"):
        scan_labels(files, 5)
    if not square and orientation >= 5:
        for _, label in files[2:4]:
            write_label(label, TURNS[orientation](np.zeros((40, 50), np.uint8)).copy())
        assert scan_labels(files, 5).counts.toarray()[2, 0] == 2000
        assert cv2.imread(files[2][0]).shape == (50, 40, 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_turned_tiffs(files, orientation, channels):
    """A label as the picture is shown is taken, for training reads the picture so."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, channels), np.uint8)
    image, label = f"{files[0][0]}.tif", files[0][1]
    Image.fromarray(pixels.squeeze()).save(image, tiffinfo={0x0112: orientation})
    write_label(label, np.zeros((20, 30), np.uint8))
    with pytest.raises(UserError, match=f"by its EXIF orientation {orientation}"):
        scan_labels([(image, label)], 5)
    write_label(label, np.zeros((30, 20), np.uint8))
    assert scan_labels([(image, label)], 5).counts.toarray()[0].tolist() == [600, 0, 0, 0, 0]
    np.testing.assert_array_equal(label_scan.read_image(image),
                                  np.broadcast_to(TURNS[orientation](pixels)[..., ::-1],
                                                  (30, 20, 3)))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_turned_pngs_with_exif_behind_their_pixels(files, orientation):
    """Where exiftool writes it; OpenCV reads and Pillow, at first, does not."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    image, label = f"{files[0][0]}.png", files[0][1]
    Image.fromarray(pixels).save(image)
    content = pathlib.Path(image).read_bytes()
    end = hostile_images.png_chunk(b"IEND")
    assert content.endswith(end)
    exif = hostile_images.png_chunk(b"eXIf", tagged(orientation).tobytes().removeprefix(
        b"Exif\0\0"))
    pathlib.Path(image).write_bytes(content.removesuffix(end) + exif + end)
    np.testing.assert_array_equal(label_scan.read_image(image), TURNS[orientation](
        pixels)[..., ::-1])
    write_label(label, np.zeros((20, 30), np.uint8))
    with pytest.raises(UserError, match=f"by its EXIF orientation {orientation}"):
        scan_labels([(image, label)], 5)
    if orientation >= 5:
        write_label(label, np.zeros((30, 20), np.uint8))
        assert scan_labels([(image, label)], 5).counts.toarray()[0, 0] == 600


@pytest.mark.parametrize("orientation", range(2, 9))
def test_what_is_said_of_an_orientation_is_what_is_done(orientation):
    """The words, carried out from left to right, against what PIL does for display."""
    steps = {"turned by 90 degrees": lambda a: np.rot90(a, -1),
             "turned by 180 degrees": lambda a: np.rot90(a, 2),
             "turned by 270 degrees": lambda a: np.rot90(a, 1),
             "mirrored": np.fliplr, "mirrored upside down": np.flipud}
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    image = Image.fromarray(stored)
    image.info["exif"] = tagged(orientation).tobytes()
    shown = stored
    for words in file_format.TURNS[orientation].split(" and "):
        shown = steps[words](shown)
    np.testing.assert_array_equal(shown, np.array(ImageOps.exif_transpose(image)))


def test_label_with_an_orientation(files):
    Image.fromarray(read(files[1][1])).save(files[1][1], exif=tagged(6))
    with pytest.raises(UserError, match=f"label {files[1][1]} has an EXIF orientation"):
        scan_labels(files, 5)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_label_saved_with_losses(files, kind):
    Image.fromarray(read(files[1][1])).convert("L").save(files[1][1], kind)
    with pytest.raises(UserError, match=f"label {files[1][1]} is a {kind}.*save labels as PNG"):
        scan_labels(files, 5)


def packed(label, bits):
    """The rows of a label with so many bits a pixel, each from a new byte on."""
    return [np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits:]).tobytes()
            for row in label]


def write_png(path, label, bits):
    rows = b"".join(b"\0" + row for row in packed(label, bits))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *label.shape[::-1], bits, 0, 0, 0, 0)),
             (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in parts))


def write_tiff(path, label, bits, black_is_zero=1):
    rows, (height, width) = b"".join(packed(label, bits)), label.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: black_is_zero, 273: 8, 277: 1,
            278: height, 279: len(rows)}
    with open(path, "wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, 8 + len(rows)) + rows + struct.pack(
            "<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value)
                                        for tag, value in tags.items()) + b"\0" * 4)


def write_pgm(path, label, largest):
    with open(path, "wb") as file:
        file.write(b"P5 %d %d %d\n" % (*label.shape[::-1], largest) + label.tobytes())


@pytest.mark.parametrize("write, ending, allowed", [
    *((lambda path, label, bits=bits: write_png(path, label, bits), "png", bits in (1, 8))
      for bits in (1, 2, 4, 8)),
    *((lambda path, label, bits=bits: write_tiff(path, label, bits), "tif", bits in (1, 8))
      for bits in (1, 2, 4, 8)),
    (lambda path, label: write_tiff(path, label, 8, black_is_zero=0), "tif", False),
    *((lambda path, label, most=most: write_pgm(path, label, most), "pgm", most == 255)
      for most in (1, 20, 255))],
    ids=[*(f"{kind} {bits}" for kind in ("png", "tiff") for bits in (1, 2, 4, 8)), "white is 0",
         "pgm 1", "pgm 20", "pgm 255"])
def test_a_label_is_read_as_it_is_stored_or_refused(files, write, ending, allowed):
    """Of 4 bits Pillow makes 17 of id 1, and 255, which is no class, of id 15."""
    image, label = files[1]
    ids = (np.arange(48).reshape(6, 8) % 2).astype(np.uint8)
    cv2.imwrite(image, np.zeros((6, 8, 3)))
    path = f"{label}.{ending}"
    write(path, ids)
    if allowed:
        assert scan_labels([(image, path)], 256, 65535).counts.toarray()[0, :2].tolist() == [24, 24]
    else:
        with pytest.raises(UserError, match=f"label {path} has grey values of another range"):
            scan_labels([(image, path)], 256, 65535)


@pytest.mark.parametrize("which", [0, 1])
def test_files_of_too_many_pixels(files, which):
    hostile_images.write(files[1][which], hostile_images.png(15000, 10000))
    with pytest.raises(UserError, match=f"{files[1][which]} has 15000 x 10000 pixels, above"):
        scan_labels(files, 5)


@pytest.mark.skipif(not file_format._WEBP_IS_UNSAFE, reason="this OpenCV decodes WebP safely")
def test_webp_images_are_refused_where_they_can_take_over_opencv(files):
    Image.open(files[1][0]).save(files[1][0], "WEBP", lossless=True)
    with pytest.raises(UserError, match=rf"{files[1][0]} is a WebP.*CVE-2023-4863.*PNG or JPEG"):
        scan_labels(files, 5)


def recolor(path, colors):
    label = Image.fromarray(read(path))
    label.putpalette(np.resize(colors, 768).astype(np.uint8).tobytes())
    label.save(path)


def test_palettes_are_compared_over_all_processes(files, capsys, monkeypatch):
    """Each of two processes reads labels of one palette, which another one has not."""
    for index, (_, path) in enumerate(files):
        recolor(path, np.arange(768)[::1 if index < 3 else -1])
    other = iter(label_scan._scan(files[3:], 5, 255, "", False, 0))
    monkeypatch.setattr(label_scan.parallel, "world_size", lambda: 2)
    monkeypatch.setattr(label_scan.parallel, "from_first", lambda array: array)
    monkeypatch.setattr(label_scan.parallel, "collect", lambda own: [own, next(other)])
    monkeypatch.setattr(label_scan, "fingerprint", lambda *_: "")
    scan_labels(files, 5)
    assert (f"3 labels have another palette than others: id 0 has one colour in {files[3][1]} and "
            f"another in {files[0][1]}") in capsys.readouterr().out


def test_doubts_are_told_every_time(files, capsys):
    recolor(files[3][1], range(768))
    image = cv2.imread(files[4][0]).astype(np.uint16)
    cv2.imwrite(files[4][0] + ".png", image * 8)
    files[4] = (files[4][0] + ".png", files[4][1])
    cv2.imwrite(files[5][0] + ".tiff", cv2.imread(files[5][0]).astype(np.float32))
    files[5] = (files[5][0] + ".tiff", files[5][1])
    for _ in range(2):
        label_scan._tell_once.cache_clear()  # as in another process
        scan_labels(files, 5)
        scan_labels(files, 5)
        first, second = capsys.readouterr().out.splitlines()[-2:]
        assert f"2 images are not of 8 bits, such as {files[4][0]}" in first
        assert "labels have another palette than others: id" in second
        assert files[3][1] in second


def test_masks_are_doubted(files, capsys):
    for _, path in files:
        write_label(path, np.where(read(path) > 0, 255, 0).astype(np.uint8))
    scan_labels(files, 5)
    printed = capsys.readouterr().out
    assert f"none of 6 labels, such as {files[0][1]}, holds an id above 0" in printed


def test_white_of_1_bit_among_8_bits_is_doubted(files, capsys):
    """What a program that saves room makes of a label without any but unlabelled pixels."""
    Image.fromarray(read(files[2][1]) == 255).save(files[2][1])
    scan_labels(files, 5)
    assert f"1 of 6 labels are of 1 bit, such as {files[2][1]}: white is read as id 1" \
        in capsys.readouterr().out
    for _, path in files:
        Image.fromarray(read(path) == 1).save(path)
    scan_labels(files, 5)
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.parametrize("numbers, gap, told", [
    ([1, 2, 3, 4, 5, 2], False, True), ([1, 2, 3, 4, 5, 2], True, False),
    ([1, 2, 3, 4, 4, 2], False, False), ([5, 5, 5, 5, 5, 5], False, False),
    ([0, 5, 2, 3, 4, 1], False, True)])
def test_labels_that_number_objects_are_doubted(files, capsys, numbers, gap, told):
    """Not those of which one lacks an id below its largest, nor those of few largest ids."""
    for (_, path), number in zip(files, numbers):
        label = np.full(read(path).shape, 255, np.uint8)
        label[:, :number + 1] = np.arange(number + 1)
        write_label(path, np.where(gap & (label == number - 1), 0, label).astype(np.uint8))
    scan_labels(files, 6)
    line = f"between 1 and 5, such as {files[numbers.index(5)][1]}; " if told else None
    said = capsys.readouterr().out
    assert ("labels that number what is in each image" in said) == told and (line or "") in said


def test_plain_files_raise_no_doubt(files, capsys):
    Image.fromarray(read(files[3][1])).save(files[3][1])  # grey, as the masks of SBD are
    scan_labels(files, 5)
    assert "WARNING" not in capsys.readouterr().out
