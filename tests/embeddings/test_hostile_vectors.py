"""Word-vector files and arrays that announce more than they hold, or unpack to a memory full."""

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest

from paddle_csrl import limits
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.datasets import label_scan
from paddle_csrl.embeddings.readers import read_vectors
from paddle_csrl.errors import UserError
from paddle_csrl.models.last_layer import load_layer
from paddle_csrl.utils.arrays import read_npz

ROW = b"foo 0.1 0.2 0.3\n"


@pytest.mark.parametrize("content, match", [
    (b"10 100000000000\nfoo 1 2 3\n", "announces vectors of 100000000000 values"),
    (b"10 1000000000\nfoo " + bytes(100), "announces vectors of 1000000000 values"),
    (b"100000000000 3\n" + ROW, "holds 1 rows but its first line announces 100000000000"),
    (b"100000000000 3\nfoo " + bytes(12), "ends within row 2 of the 100000000000"),
    (b"9" * 5000 + b" 3\n" + ROW, "line 2"),
    (ROW + b"bar " + b"1" * 3 * 10**6, "line 2: longer than 2097152 bytes"),
    (b"1 " * 2 * 10**6, "announces vectors of 1048575 values")],
    ids=["dimensions", "binary", "words", "binary words", "digits", "line", "first line"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_vector_files(tmp_path, content, match, pack):
    path = tmp_path / "vectors"
    path.write_bytes(pack(content))
    with pytest.raises(UserError, match=match):
        read_vectors(str(path), lambda word: True)


def test_a_gzip_file_that_never_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "_TEXT_SLACK", 1 << 16)
    path = tmp_path / "vectors.gz"
    path.write_bytes(gzip.compress(ROW * (10**6 // len(ROW))))
    assert limits.most_text(path) < 5 * 10**5
    with pytest.raises(UserError, match="unpacks to more than .* which no word vectors do"):
        read_vectors(str(path), lambda word: True)


def test_blank_lines_without_end(tmp_path):
    path = tmp_path / "vectors"
    path.write_bytes(ROW + b"\n" * 1000 + ROW)
    assert list(read_vectors(str(path), lambda word: True)) == ["foo"]
    path.write_bytes(ROW + b"\n" * 1001 + ROW)
    with pytest.raises(UserError, match="line 1002: more than 1000 lines are blank"):
        read_vectors(str(path), lambda word: True)


def test_a_gzip_file_that_shrank_well_is_read(tmp_path):
    path = tmp_path / "vectors.gz"
    path.write_bytes(gzip.compress(ROW * 10**4))
    assert list(read_vectors(str(path), lambda word: True)) == ["foo"]


def npz(path, **members):
    """An ``.npz`` of headers with a shape and a dtype, and bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (shape, dtype, content) in members.items():
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                header, {"descr": dtype, "fortran_order": False, "shape": shape})
            archive.writestr(f"{name}.npy", header.getvalue() + content)
    return str(path)


@pytest.mark.parametrize("shape, dtype, content", [
    ((10**12,), "<f4", b"abcd"), ((10**6, 10**6), "<f4", bytes(100)), ((2,), "<f4", bytes(4)),
    ((1,), "<f4", bytes(8)), ((2**62, 4), "<f4", b""), ((-1,), "<f4", b""), ((1,), "|O", bytes(8)),
    ((1,), "<U2000000000", bytes(8))])
def test_arrays_larger_than_their_member(tmp_path, shape, dtype, content):
    path = npz(tmp_path / "x.npz", weight=(shape, dtype, content))
    with pytest.raises(ValueError, match="weight.npy announces|object"):
        read_npz(path)
    with pytest.raises(UserError, match=f"{path} is no whole classification layer"):
        load_layer(path)


@pytest.mark.parametrize("shape, dtype, content", [
    ((10**12, 3), "<f4", b"abcd"), ((2, 3), "<f4", bytes(20)), ((2, 3), "<f4", bytes(28)),
    ((-1, 3), "<f4", b""), ((2**62, 4), "<f4", b""), ((2, 3), "|O", bytes(48))])
def test_an_array_that_announces_other_than_it_holds(tmp_path, shape, dtype, content):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": dtype, "fortran_order": False, "shape": shape})
    path = tmp_path / "vectors.npy"
    (tmp_path / "vectors.txt").write_text("cow\nsign\n")
    path.write_bytes(header.getvalue() + content)
    with pytest.raises(UserError, match="vectors.npy cannot be read .*vectors.npy announces "):
        read_vectors(str(path), lambda word: True)


@pytest.mark.parametrize("content", [b"\x93NUMPY", b"\x93NUMPY\x09\0" + bytes(99),
                                     b"\x93NUMPY\1\0\x10\0{'shape': open}\n"])
def test_a_torn_header(tmp_path, content):
    (tmp_path / "vectors.npy").write_bytes(content)
    with pytest.raises(UserError, match="vectors.npy cannot be read "):
        read_vectors(str(tmp_path / "vectors.npy"), lambda word: True)


def test_banks_and_vectors_and_kept_scans_look_first(tmp_path):
    huge = (10**12, 3), "<f4", bytes(12)
    one = (1,), "<i8", bytes(8)
    path = npz(tmp_path / "bank.npz", features=huge, counts=one, pixel_counts=one)
    with pytest.raises(UserError, match="is not a whole feature bank .*1000000000000"):
        FeatureBank.load(path)
    path = npz(tmp_path / "v.npz", names=((10**12,), "<U5", bytes(20)), vectors=huge)
    with pytest.raises(UserError, match="cannot be read .*1000000000000.*save it as"):
        read_vectors(path, lambda word: True)
    path = npz(tmp_path / "scan.npz", **{name: ((10**12,), f"<{code}", bytes(8)) for name, code in
                                         zip(label_scan._Columns._fields, "i8 i4 i8 i8 u1".split())
                                         } | {"doubts": ((10**12,), "|u1", b"")})
    assert label_scan._load(path, 1, 5) is None


def test_a_bomb_in_an_npz(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "_SLACK", 1 << 20)
    path = npz(tmp_path / "x.npz", weight=((10**7,), "|u1", bytes(10**7)))
    with pytest.raises(ValueError, match="unpacks to 100"):
        read_npz(path)


def test_a_header_of_gigabytes(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + b"{" * 100)
    with pytest.raises(ValueError):
        read_npz(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_wrote_is_read(tmp_path, save):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(7), "c": np.array(["x", "yz"]),
              "d": np.zeros((0, 4), np.float16), "e": np.asfortranarray(np.eye(3, 2))}
    save(tmp_path / "x.npz", **arrays)
    read = read_npz(str(tmp_path / "x.npz"))
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
