"""Fingerprints: what counts, what is read again, and what is kept of it."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from paddle_csrl.datasets import fingerprint as module
from paddle_csrl.datasets.fingerprint import (
    fingerprint,
    fingerprint_by_times,
    in_threads,
    shared_images,
)
from paddle_csrl.errors import UserError


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Four pairs of files in a folder ``data``; with a cache of their own."""
    monkeypatch.setenv("PADDLE_CSRL_CACHE", str(tmp_path / "cache"))
    pairs = [(tmp_path / "data" / "images" / f"{index}.jpg", tmp_path / "data" / f"{index}.png")
             for index in range(4)]
    for pair in pairs:
        for path in pair:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"content of {path.name}".encode())
    return [[str(path) for path in pair] for pair in pairs]


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that are read, as they are; files need not have rested."""
    paths, read = [], module._hash

    def counting(path):
        paths.append(os.path.basename(path))
        return read(path)

    monkeypatch.setattr(module, "_hash", counting)
    monkeypatch.setattr(module, "_REST_NS", -10**12)
    return paths


def caches(tmp_path):
    return sorted((tmp_path / "cache").glob("contents_*.npz"))


def entries(tmp_path):
    """Number of the files that the only cache knows."""
    path, = caches(tmp_path)
    return len(np.load(path)["entries"].tobytes().split(b"\0")) // 3


def moved(files, old, new):
    return [[path.replace(str(old), str(new)) for path in pair] for pair in files]


def overwrite(path, content):
    """Write content of the same length, and have size and modification time as before."""
    before = os.stat(path)
    while os.stat(path).st_ctime_ns == before.st_ctime_ns:  # a tick of the file system's clock
        Path(path).write_bytes(content.encode())
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (os.stat(path).st_size, os.stat(path).st_mtime_ns) == (
        before.st_size, before.st_mtime_ns)


def test_names_order_and_contents_count(files, tmp_path):
    first = fingerprint(files)
    assert first == fingerprint(files) and len(first) == 64
    others = [files[1:], files[::-1], [pair[::-1] for pair in files], [pair[:1] for pair in files]]
    found = [fingerprint(other) for other in others]
    renamed = os.path.join(os.path.dirname(files[3][0]), "other.jpg")
    os.rename(files[3][0], renamed)
    files[3][0] = renamed
    found.append(fingerprint(files))
    Path(renamed).write_bytes(b"content of 4.jpg")
    found.append(fingerprint(files))
    assert len({first, *found}) == 7
    assert fingerprint([]) == fingerprint([])


def test_a_copy_elsewhere_is_the_same(files, tmp_path):
    first = fingerprint(files)
    shutil.copytree(tmp_path / "data", tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").rglob("*.*"):
        os.utime(path, ns=(1, 1))
    assert fingerprint(moved(files, tmp_path / "data", tmp_path / "copy")) == first


def test_images_are_shared_by_their_bytes_whatever_their_names(files, reads):
    fingerprint(files)
    shutil.copyfile(files[1][0], files[2][0])
    shutil.copyfile(files[0][1], files[3][1])  # labels do not count
    assert shared_images(files[:2], files[1:]) == [files[1][0], files[2][0]]
    assert shared_images(files[:2], files[3:]) == shared_images([], files) == []
    assert sorted(reads[8:]) == ["2.jpg", "3.png"]  # the digests are those of the fingerprint


def test_a_file_is_read_once(files, reads, tmp_path):
    first = fingerprint(files)
    assert sorted(reads) == sorted(os.path.basename(path) for pair in files for path in pair)
    module._read.cache_clear()  # as in another process
    assert fingerprint(files) == first
    fingerprint(files[:2])  # is the list of another data set in the same folder
    assert len(reads) == 8 and len(caches(tmp_path)) == 1


def test_a_name_may_be_no_text(files, reads):
    name = os.path.join(os.path.dirname(files[0][0]), os.fsdecode(b"caf\xe9\n.jpg"))
    os.rename(files[0][0], name)
    files[0][0] = name
    assert fingerprint(files) == fingerprint(files) and len(reads) == 8


@pytest.mark.parametrize("change", [
    lambda path: overwrite(path, "CONTENT of 2.jpg"),
    lambda path: Path(path).write_text("longer than before"),
    lambda path: os.replace(shutil.copyfile(path, f"{path}.new"), path),
    lambda path: os.utime(path, ns=(5, 5))])
def test_only_what_may_have_changed_is_read_again(files, reads, change):
    first = fingerprint(files)
    before = Path(files[2][0]).read_bytes()
    del reads[:]
    change(files[2][0])
    is_same = Path(files[2][0]).read_bytes() == before
    assert (fingerprint(files) == first) == is_same
    fingerprint(files)
    assert reads == ["2.jpg"]


def test_a_file_that_was_just_written_is_not_trusted(files, tmp_path):
    fingerprint(files)
    assert not caches(tmp_path)


@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"PK\x03\x04 nonsense"),
    lambda path: path.write_bytes(path.read_bytes()[:-9]),
    lambda path: path.write_bytes(path.read_bytes()[:90] + b"!" + path.read_bytes()[91:]),
    lambda path: np.savez(path, other=np.arange(3)),
    lambda path: np.savez(path, entries=np.arange(9.0)),
    lambda path: np.savez(path, entries=np.array([b"/0.png", {}], object))])
def test_a_damaged_cache_is_read_anew(files, reads, tmp_path, damage):
    first = fingerprint(files)
    path, = caches(tmp_path)
    damage(path)
    assert fingerprint(files) == first and len(reads) == 16
    fingerprint(files)
    assert len(reads) == 16


def test_the_cache_forgets_what_is_gone(files, reads, tmp_path):
    fingerprint(files[:2])
    fingerprint(files[2:])
    assert entries(tmp_path) == 8
    os.remove(files[0][0])
    Path(files[3][1]).write_text("other")
    fingerprint(files[1:])
    assert entries(tmp_path) == 7


def test_a_cache_that_cannot_be_written_is_no_obstacle(files, reads, tmp_path, capsys):
    first = fingerprint(files)
    (tmp_path / "file").write_text("")
    module._tell_unwritable.cache_clear()
    for _ in range(2):
        assert fingerprint(files, str(tmp_path / "file" / "below")) == first
    assert capsys.readouterr().out.count("`zero_shot.cache_dir`") == 1


def test_what_is_no_file_is_named(files, tmp_path):
    os.remove(files[1][1])
    with pytest.raises(UserError, match="no label at .*1.png .*dataset_root"):
        fingerprint(files)
    for make in (os.mkdir, os.mkfifo):
        make(files[1][1])
        with pytest.raises(UserError, match="no label at .*1.png .no regular file.*list of files"):
            fingerprint(files)
        os.rename(files[1][1], tmp_path / make.__name__)
    with pytest.raises(UserError, match=r"no image at .*a\\0.jpg .*write / for \\ in the list"):
        fingerprint([(str(tmp_path / r"a\0.jpg"), files[0][1])])


def test_a_file_that_cannot_be_read_is_named(files, monkeypatch):
    def refuse(path, *_, **options):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match="[0-3].(jpg|png) cannot be read .Permission denied"):
        fingerprint(files)


def test_the_fingerprint_by_times_is_that_of_0_1_0(files, tmp_path):
    entries = [f"{path[len(str(tmp_path / 'data')):]}\0{os.stat(path).st_size}\0"
               f"{os.stat(path).st_mtime_ns}\n" for pair in files for path in pair]
    expected = hashlib.sha256("".join(entries).encode()).hexdigest()
    assert fingerprint_by_times(files) == expected


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("number", [0, 1, 23, 24, 1000])
def test_threads_give_all_results_in_order(monkeypatch, number, threads):
    monkeypatch.setattr(module, "_IN_FLIGHT", 5)
    assert list(in_threads(lambda item: item**2, range(number), "squares", threads)) == [
        item**2 for item in range(number)]


def test_of_two_faults_in_threads_the_first_one_is_told():
    def refuse(item):
        if item in (700, 703, 950):
            raise UserError(f"item {item}")
        return item

    results = in_threads(refuse, range(1000), "items", 2)
    with pytest.raises(UserError, match="item 700"):
        for expected, item in enumerate(results):
            assert item == expected
