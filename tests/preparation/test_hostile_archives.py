"""Archives and annotations that were made to do harm: one line, and nothing outside the folder."""

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import scipy.io

from helpers import fabricated_archives as fake
from helpers.fabricated_archives import CONTEXT_TRAIN, CONTEXT_VAL, VOC_TRAIN
from paddle_csrl import limits
from paddle_csrl.datasets.class_names import CLASS_NAMES
from paddle_csrl.errors import UserError, user_message
from paddle_csrl.preparation import archives, matlab, prepare_context, prepare_voc
from paddle_csrl.preparation.rle import decode_mask

IMAGE = f"VOCdevkit/VOC2012/JPEGImages/{VOC_TRAIN[0]}.jpg"
NAMES = CLASS_NAMES["context"]
SIZE = [*fake.SIZE]


@pytest.fixture
def refused(tmp_path):
    """Prepares VOC from an archive; returns the one line, once nothing lies outside."""
    sbd = fake.write_tar(tmp_path / "sbd.tgz", fake.sbd_files())

    def run(voc):
        before = {*tmp_path.rglob("*")}
        with pytest.raises(UserError) as caught:
            prepare_voc(str(voc), sbd, str(tmp_path / "out"), checksum=False)
        made = {*tmp_path.rglob("*")} - before
        assert all(path.is_relative_to(tmp_path / "out") for path in made)
        assert not [path for path in made if path.name.startswith(".") or "ImageSets" in str(path)]
        message = user_message(caught.value)
        assert "\n" not in message and str(voc) in message and len(message) < 1000
        return message

    return run


def tar(path, *members, mode="w"):
    """A tar archive of members with sizes that may be untrue; contents are bytes."""
    with tarfile.open(path, mode) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def member(name, content=b"x", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


@pytest.mark.parametrize("name", [
    "../up.jpg", "/abs.jpg", "C:/x.jpg", "C:x.jpg", "a\\..\\x.jpg", "\\\\host\\x.jpg",
    "JPEGImages/../../../up.jpg", "JPEGImages/a\nb.jpg", "JPEGImages/\x1b[2J.jpg",
    f"JPEGImages/{'a' * 10**5}.jpg", "JPEGImages/\udcff.jpg"])
def test_names_of_members(refused, tmp_path, name):
    refused(tar(tmp_path / "voc.tar", member(name)))


def test_a_member_twice_or_in_another_case(refused, tmp_path):
    for other in (IMAGE, IMAGE.replace("JPEGImages", "x/JPEGImages")):
        message = refused(tar(tmp_path / "voc.tar", member(IMAGE), member(other, b"other")))
        assert f"JPEGImages/{VOC_TRAIN[0]}.jpg twice" in message
    names = [f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg" for name in ("abc", "aBc")]
    assert "twice" in refused(tar(tmp_path / "voc.tar", *map(member, names)))


def test_links_devices_and_set_ids_come_to_nothing(tmp_path):
    """A link that points outside, then files through it: a known way out of a folder."""
    outside = tmp_path / "outside"
    outside.mkdir()
    base = "VOCdevkit/VOC2012"
    links = [member(f"{base}/JPEGImages", b"", type=tarfile.SYMTYPE, linkname=str(outside)),
             member(f"{base}/JPEGImages/hard.jpg", b"", type=tarfile.LNKTYPE,
                    linkname="/etc/passwd"),
             member(f"{base}/JPEGImages/device.jpg", b"", type=tarfile.CHRTYPE, devmajor=1),
             member(f"{base}/JPEGImages/pipe.jpg", b"", type=tarfile.FIFOTYPE)]
    files = [member(name, content, mode=0o6777) for name, content in fake.voc_files().items()]
    voc = tar(tmp_path / "voc.tar", *links, *files)
    sbd = fake.write_tar(tmp_path / "sbd.tgz", fake.sbd_files())
    prepare_voc(str(voc), sbd, str(tmp_path / "out"), checksum=False)
    assert not list(outside.iterdir())
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert written and not any(path.is_symlink() or path.stat().st_mode & 0o7111
                               for path in written)
    assert not {"hard.jpg", "device.jpg", "pipe.jpg"} & {path.name for path in written}


def test_an_archive_in_the_archive_is_left_alone(refused, tmp_path):
    inner = fake.write_tar(tmp_path / "inner.tar", fake.voc_files())
    with open(inner, "rb") as file:
        path = tar(tmp_path / "voc.tar", member("VOCdevkit/inner.tar", file.read()))
    assert "holds no VOC2012/ImageSets/Segmentation/train.txt" in refused(path)


@pytest.mark.parametrize("size", [10**12, 8**11 - 1, 2**62])
def test_a_tar_that_announces_terabytes(refused, tmp_path, size):
    header = member(IMAGE, b"")[0]
    header.size = size
    path = tmp_path / "voc.tar"
    path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT)))
    assert "unpacks to" in refused(path)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
@pytest.mark.parametrize("size", [10**12, -512, -1])
def test_a_header_that_asks_for_the_memory(refused, tmp_path, kind, size):
    header = member("x", b"", type=kind)[0]
    header.size = size
    path = tmp_path / "voc.tar"
    path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT)))
    assert "is not a whole archive" in refused(path)


def test_a_tar_of_sizes_below_zero_ends(refused, tmp_path):
    """Such sizes lead back to the same header (CVE-2025-8194)."""
    header = member(IMAGE, b"")[0]
    header.size = -512
    path = tmp_path / "voc.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert "is not a whole archive" in refused(path)


def test_a_bomb_in_a_zip(refused, tmp_path):
    """A name twice over the same bytes and a size that is not told truly."""
    path = tmp_path / "voc.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(IMAGE, bytes(1 << 20))
        archive.infolist()[0].file_size = 10**11
    assert "unpacks to 100000000000 and more" in refused(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(IMAGE, bytes(1 << 20))
        archive.infolist()[0].file_size = 2 << 20
    assert "is not a whole archive" in refused(path)


def test_images_that_shrank_too_well(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "_SLACK", 1 << 16)
    path = tmp_path / "voc.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(IMAGE.replace("_", str(number)), bytes(1 << 16))
    assert "holds images of 131072 and more" in refused(path)


def test_labels_as_plain_doubles_are_no_bomb(tmp_path, monkeypatch):
    """They shrink to less than a hundredth, and so may those of Context."""
    monkeypatch.setattr(limits, "_SLACK", 1 << 16)
    label = np.zeros((400, 500))
    label[100:, 200:] = 3
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"LabelMap": label})
    files = {f"trainval/{number}.mat": stream.getvalue() for number in range(20)}
    path = fake.write_tar(tmp_path / "trainval.tar.gz", files)
    assert limits.most_unpacked(path) < 20 * label.nbytes > 100 * os.path.getsize(path)
    read = [matlab.read_mat_labels(item.read(), "here", "LabelMap")
            for item in archives.walk(path, "labels")]
    assert len(read) == 20 and (read[19] == label).all()


def test_more_members_than_any_data_set_has(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MOST_MEMBERS", 20)
    path = tar(tmp_path / "voc.tgz", *[member(f"{number}.txt") for number in range(21)],
               mode="w:gz")
    assert "in 21 files so far" in refused(path)


# --- MATLAB files ----------------------------------------------------------------------------

def matrix(dimensions, data=b"", kind=9, data_kind=2):
    """An element of MATLAB's files: an array, by default of bytes."""
    def element(of, body):
        return struct.pack("<II", of, len(body)) + body + bytes(-len(body) % 8)

    body = (element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(
        f"<{len(dimensions)}i", *dimensions)) + element(1, b"LabelMap") + element(data_kind, data))
    return element(14, body)


def mat_file(element):
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM" + element


def read(element):
    return matlab.read_mat_labels(mat_file(element), "here", "LabelMap")


def test_a_plain_array_is_read():
    """Else the tests below would prove nothing."""
    label = np.arange(6, dtype=np.uint8).reshape(2, 3)
    element = matrix((2, 3), label.tobytes("F"))
    packed = zlib.compress(element)
    for form in (element, struct.pack("<II", 15, len(packed)) + packed):
        np.testing.assert_array_equal(read(form), label)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", "u1 i1 u2 i2 u4 i4 u8 i8 f4 f8".split())
def test_what_scipy_wrote_is_read(dtype, packed):
    """Among other variables, plain and in a struct beside what is no image."""
    for shape in ((1, 1), (2, 3), (7, 5), (1, 9)):
        label = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
        fields = {"Boundaries": np.array([[np.eye(2), "x"]], object), "Segmentation": label,
                  "Present": np.arange(3)}
        stream = io.BytesIO()
        variables = {"text": "abc", "GTcls": fields, "cell": np.array([1, "b"], object)}
        scipy.io.savemat(stream, {**variables, "LabelMap": label}, do_compression=packed)
        content = stream.getvalue()
        for keys in (["LabelMap"], ["GTcls", "Segmentation"]):
            np.testing.assert_array_equal(matlab.read_mat_labels(content, "here", *keys), label)
        for keys in (["Label"], ["LabelMap", "x"], ["GTcls"], ["GTcls", "Boundaries"],
                     ["GTcls", "x"], ["text"], ["cell"]):
            with pytest.raises(UserError, match=f"^here is no MATLAB file with {'.'.join(keys)}"):
                matlab.read_mat_labels(content, "here", *keys)


def test_changed_bytes_and_cuts_are_read_or_refused():
    """SciPy's reader ends the process at some of these."""
    rng = np.random.default_rng(0)
    seeds = [mat_file(matrix((2, 3), b"abcdef")), fake.sbd_mat(fake.class_map("1", 21)),
             mat_file(matrix((2, 3), np.arange(6.).tobytes(), 6, 9))]
    for seed in seeds:
        for _ in range(2000):
            content = bytearray(seed)
            for place in rng.integers(128, len(seed), rng.choice([1, 3, 9])):
                content[place] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
            for keys in (["LabelMap"], ["GTcls", "Segmentation"]):
                try:
                    label = matlab.read_mat_labels(
                        bytes(content[:rng.integers(len(seed)) if rng.random() < 0.1 else None]),
                        "here", *keys)
                    assert label.dtype == np.int64 and label.ndim == 2
                except UserError:
                    pass


@pytest.mark.parametrize("element", [
    matrix((2**31 - 1, 2**31 - 1), b"abcdef"), matrix((10**5, 10**5), b"abcdef"),
    matrix((-2, -3), b"abcdef"), matrix((10**9, 1), kind=1), matrix((10**5, 10**4), kind=2),
    matrix((2, 3), b"abcdef", data_kind=128), matrix((2, 3), b"abcdef", kind=4), matrix((), b"a"),
    struct.pack("<II", 14, 2**32 - 1), struct.pack("<II", 15, 8) + b"notzlib!"])
def test_arrays_larger_than_their_file(element):
    with pytest.raises(UserError, match="here is no MATLAB file with LabelMap"):
        read(element)


def test_a_bomb_in_a_matlab_file():
    packed = zlib.compress(matrix((10**4, 10**4), bytes(10**8)))
    with pytest.raises(UserError, match="more than 8388608 bytes"):
        read(struct.pack("<II", 15, len(packed)) + packed)


# --- Pascal-Context's JSON -------------------------------------------------------------------

@pytest.mark.parametrize("size, counts", [
    (SIZE, [-1, 1921]), (SIZE, [1920.0]), (SIZE, [1919.5, 0.5]), (SIZE, ["1920"]),
    (SIZE, [2**32 + 1920]), (SIZE, [10**4000, 1920]), (SIZE, [True, 1919]), (SIZE, [None]),
    (SIZE, {"1920": 1}), (SIZE, 1920), (SIZE, None), (SIZE, [[1920]]), (SIZE, "\u20ac"),
    (SIZE, "o" * 10**5), ([10**9, 10**9], [10**18]), ([40.0, "48"], [1920]), (40, [1920]),
    (None, [1920]), ([40], [1920]), ([40, 48, 1], [1920])])
def test_run_lengths_that_are_none(size, counts):
    with pytest.raises(UserError, match="^here"):
        decode_mask({"size": size, "counts": counts}, fake.SIZE, "here")


def paths_of(content, at=()):
    """The places of all values in nested JSON, but of equals among siblings one alone."""
    yield at
    items = content.items() if isinstance(content, dict) else enumerate(content[:1]) \
        if isinstance(content, list) else ()
    for key, value in items:
        yield from paths_of(value, (*at, key))


def changed(content, path, value):
    content = json.loads(json.dumps(content))
    if not path:
        return value
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    if value is KeyError:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return content


WRONG = [KeyError, None, True, -1, 0.5, 10**30, float("inf"), float("nan"), "", "../up", [], [[]],
         {}, {"a": 1}, "x /../../../up.jpg", "\0", "a" * 10**5]


def test_json_of_any_shape(tmp_path):
    """Every value of the file is exchanged for every wrong one: never a traceback, never outside.

    Values that the project does not read, and some that are right, may pass.
    """
    full = json.loads(fake.context_json(NAMES))
    full["annos_segmentation"] = full["annos_segmentation"][:2]
    voc = fake.write_folder(tmp_path / "voc", fake.voc_files(
        "VOC2010", CONTEXT_TRAIN + CONTEXT_VAL, CONTEXT_TRAIN, CONTEXT_VAL))
    labels, root = tmp_path / "trainval_merged.json", tmp_path / "deep" / "er" / "out"
    passed = refused = 0
    for path in paths_of(full):
        for value in WRONG if path else WRONG[1:]:
            labels.write_text(json.dumps(changed(full, path, value)))
            try:
                prepare_context(voc, str(labels), str(root), checksum=False, overwrite=True)
                passed += 1
            except UserError as error:
                refused += 1
                assert len(user_message(error)) < 1500
    assert passed > 20 and refused > 150
    assert {path.name for path in tmp_path.iterdir()} == {"voc", labels.name, "deep"}
    assert os.listdir(tmp_path / "deep") == ["er"] and os.listdir(root.parent) == ["out"]
    assert {path.name for path in root.iterdir()} <= {"Context", "ImageSets", "JPEGImages"}
    assert {path.stem for path in (root / "Context").iterdir()} <= {*CONTEXT_TRAIN, *CONTEXT_VAL}


@pytest.mark.parametrize("change, match", [
    (lambda content: content["images"].append(content["images"][0]), "stands there twice"),
    (lambda content: content["images"].append(
        {**content["images"][0], "image_id": 1}), f"{CONTEXT_TRAIN[0]} stands there twice"),
    (lambda content: content["categories"].append(
        {**content["categories"][0], "name": "cow"}), "stands there twice"),
    (lambda content: content["images"][0].update(height=10**9, width=10**9), "out of range"),
    (lambda content: content["images"][0].update(file_name="a /../../../../up.jpg"),
     "no name of an image"),
    (lambda content: content["images"][0].update(file_name="2008_000101 .jpg"),
     "no name of an image")])
def test_json_that_contradicts_itself_or_points_outside(tmp_path, change, match):
    content = json.loads(fake.context_json(NAMES))
    change(content)
    labels = tmp_path / "trainval_merged.json"
    labels.write_text(json.dumps(content))
    with pytest.raises(UserError, match=match):
        prepare_context(str(tmp_path), str(labels), str(tmp_path / "out"), checksum=False)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("content", [
    "[" * 10**6, '{"a":' * 10**6, "9" * 5000, "1e999999", "NaN", "", "{", "\ufeff{}", '"\\ud800"'])
def test_json_that_no_reader_takes(tmp_path, content):
    labels = tmp_path / "trainval_merged.json"
    labels.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="is not a whole trainval_merged.json"):
        prepare_context(str(tmp_path), str(labels), str(tmp_path / "out"), checksum=False)
