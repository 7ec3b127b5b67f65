"""The reader of pickles: what ``paddle.save`` writes bit for bit, and nothing else."""

import collections
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import time

import numpy as np
import paddle
import pytest
from paddle.base import core

from paddle_csrl.errors import UserError
from paddle_csrl.utils import unpickle
from paddle_csrl.utils.weights import load_state

PROTOCOLS = (2, 3, 4)
#: Instructions for an array without values yet, and for the type uint8.
BLANK = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
DTYPE = (b"cnumpy\ndtype\nX\x02\x00\x00\x00u1K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00|NNN"
         b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32",
          "float64", "complex64", "complex128")


def loaded(content):
    return unpickle.load(io.BytesIO(content))


def assert_same(ours, theirs):
    """The same types, order, dtypes, memory layout and bits."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for pair in zip(ours, theirs):
            assert_same(*pair)
    elif isinstance(theirs, paddle.Tensor):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert ours.name == theirs.name or not theirs.name or "generated" in theirs.name
        assert ours.numpy().tobytes() == theirs.numpy().tobytes()
    elif isinstance(theirs, (np.ndarray, np.generic)):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert ours.flags.f_contiguous == theirs.flags.f_contiguous
        assert ours.tobytes() == theirs.tobytes()
    else:
        assert ours == theirs


def adam(model):
    schedule = paddle.optimizer.lr.LinearWarmup(
        paddle.optimizer.lr.PolynomialDecay(0.1, decay_steps=10), 2, 0.0, 0.1)
    return paddle.optimizer.Adam(schedule, parameters=model.parameters()), schedule


def momentum(model):
    schedule = paddle.optimizer.lr.ReduceOnPlateau(0.1)
    return paddle.optimizer.Momentum(schedule, parameters=model.parameters()), schedule


def stepped(make):
    """The state of an optimizer and of its schedule after a step."""
    model = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    optimizer, schedule = make(model)
    loss = model(paddle.rand([1, 3, 5, 5])).sum()
    loss.backward()
    optimizer.step()
    schedule.step(loss) if make is momentum else schedule.step()
    return optimizer.state_dict()


def states():
    """What is saved, by name, each with tensors made anew."""
    tensors = {name: paddle.to_tensor([0, 1, 3]).astype(name) for name in DTYPES}
    return {
        "network": paddle.vision.models.mobilenet_v3_small(scale=0.35).state_dict(),
        "adam": stepped(adam), "momentum": stepped(momentum), "dtypes": tensors,
        "shapes": {"0-D": paddle.to_tensor(1.5), "empty": paddle.zeros([0, 4]),
                   "one": paddle.ones([1, 1])},
        "nested": {"model": tensors, "order": collections.OrderedDict(b=paddle.ones([2]), a=1),
                   "plain": [1, -2.5, 10**30, None, True, "名", (1, (2,))],
                   "array": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
                   "number": np.float32(0.1)},
        "arrays": {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.array(3.5)},
        "tensor": paddle.ones([2, 3]), "list": [paddle.ones([1]), paddle.zeros([2], "int64")],
        "static": static_tensor(), "empty": {}}


def static_tensor():
    """A tensor of the static graph, saved as a call of ``eval``."""
    tensor = (core.DenseTensor if hasattr(core, "DenseTensor") else core.LoDTensor)()
    tensor.set(np.float32([1.5, 2.5]), paddle.CPUPlace())
    return [tensor]


@pytest.fixture(scope="module")
def unmended():
    """``unmended(path)``: what Paddle loads in a process without the project."""
    code = ("import sys, zlib, io, pickle, paddle\n"
            "for path in sys.stdin.read().split():\n"
            "    state = paddle.load(path, return_numpy=True)\n"
            "    with open(path + '.plain', 'wb') as file:\n"
            "        pickle.dump(state, file, protocol=4)\n")

    def load(paths):
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], input="\n".join(paths),
                              text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        results = []
        for path in paths:
            with open(f"{path}.plain", "rb") as file:
                results.append(pickle.load(file))
        return results

    return load


def as_arrays(value):
    """As ``paddle.load(return_numpy=True)`` gives it."""
    if isinstance(value, paddle.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return type(value)((key, as_arrays(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(map(as_arrays, value))
    return value


def test_all_that_paddle_saves_is_loaded_as_paddle_itself_does(tmp_path, unmended):
    paths = []
    for name, state in states().items():
        for protocol in PROTOCOLS:
            paths.append(str(tmp_path / f"{name}_{protocol}"))
            paddle.save(state, paths[-1], protocol=protocol)
    for path, expected in zip(paths, unmended(paths)):
        assert_same(as_arrays(paddle.load(path)), expected)
        with open(path, "rb") as ours, open(path, "rb") as theirs:
            assert_same(unpickle.load(ours), pickle.load(theirs, encoding="latin1"))


def test_names_and_kinds_of_tensors_are_those_of_before(tmp_path):
    weight = paddle.create_parameter([2, 2], "float32", name="a_parameter")
    path = str(tmp_path / "w.pdparams")
    paddle.save({"layer.weight": weight}, path)
    assert load_state(path)["layer.weight"].name == "a_parameter"
    paddle.save([{"layer.weight": weight}], path)
    assert paddle.load(path)[0]["layer.weight"].name == "a_parameter"
    assert list(paddle.load(path, keep_name_table=True)[0]) == ["layer.weight"]
    assert isinstance(paddle.load(path, return_numpy=True)[0]["layer.weight"], np.ndarray)


@pytest.mark.parametrize("protocol", (2, 3))
def test_large_arrays_are_put_together(tmp_path, protocol):
    """As ``paddle.save`` cuts up what is larger than a GiB, here by hand."""
    values = np.arange(24, dtype=np.float32)
    state = {"a@@.0": values[:10], "a@@.1": values[10:20], "a@@.2": values[20:], "b": np.ones(2),
             "UnpackBigParamInfor@@": {"a": {"OriginShape": (4, 6),
                                             "slices": ["a@@.0", "a@@.1", "a@@.2"]}}}
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps(state, protocol))
    read = load_state(str(path))
    assert list(read) == ["b", "a"]
    assert np.array_equal(read["a"].numpy(), values.reshape(4, 6))


def test_a_part_is_used_once(tmp_path):
    """Else a small file would fill the memory."""
    path = tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"p": np.zeros(10**5), "UnpackBigParamInfor@@": {
        "a": {"OriginShape": (10**10,), "slices": ["p"] * 10**5}}}, 2))
    with pytest.raises(UserError, match="w.pdparams is not a whole .pdparams or .pdopt file"):
        load_state(str(path))


def test_names_of_numpy_2_and_texts_of_python_2():
    plain = pickle.dumps({"a": np.arange(3)}, 2)
    newer = plain.replace(b"numpy.core.multiarray", b"numpy._core.multiarray")
    assert newer != plain
    assert np.array_equal(loaded(newer)["a"], np.arange(3))
    older = (b"\x80\x02}U\x01a" + BLANK.replace(b"C", b"U") + b"(K\x01K\x02\x85" + DTYPE
             + b"\x89U\x02\x07\xfftbs.")
    assert loaded(older)["a"].tolist() == [7, 255] == pickle.loads(
        older, encoding="latin1")["a"].tolist()


class Call:
    """Pickles into a call."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


class Made:
    """A class whose making would be noticed."""

    def __setstate__(self, state):
        raise AssertionError("was run")


ATTACKS = {
    "os.system": (lambda mark: Call(os.system, f"touch {mark}"), f"{os.system.__module__}.system"),
    "eval": (lambda mark: Call(eval, f"open({str(mark)!r}, 'w')"), "builtins.eval"),
    "eval in a scope": (lambda mark: Call(eval, "data", {"data": f"open({str(mark)!r}, 'w')"}),
                        "builtins.eval"),
    "exec": (lambda mark: Call(exec, f"open({str(mark)!r}, 'w')"), "builtins.exec"),
    "import": (lambda mark: Call(__import__, "antigravity"), "builtins.__import__"),
    "getattr": (lambda mark: Call(getattr, "a", "upper"), "builtins.getattr"),
    "open": (lambda mark: Call(open, str(mark), "w"), "io.open"),
    "subprocess": (lambda mark: Call(subprocess.Popen, ["touch", str(mark)]), ".Popen"),
    "numpy.load": (lambda mark: Call(np.load, str(mark)), "numpy.load"),
    "a class": (lambda mark: Made(), "Made"),
    "a function": (lambda mark: os.system, "system"),
    "ndarray left over": (lambda mark: np.ndarray, "numpy.ndarray"),
    "a layer": (lambda mark: paddle.nn.Linear, "paddle.nn.layer.common.Linear"),
    "codecs": (lambda mark: Call(__import__("_codecs").encode, "a" * 9, "rot13"),
               "_codecs.encode"),
    "objects": (lambda mark: np.array([Call(os.system, f"touch {mark}")], object),
                "values of the type 'O8'"),
    "records": (lambda mark: np.zeros(2, "i4,f4"), "values of the type 'V8'"),
    "texts": (lambda mark: np.array(["ab"]), "values of the type 'U2'"),
    "big-endian": (lambda mark: np.zeros(2, ">f4"), "not little-endian"),
    "a complex number": (lambda mark: 1j, "builtins.complex"),
    "a key": (lambda mark: {(1, 2): 3}, "a key that is no text but a tuple"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_no_tensor_is_named_and_not_run(tmp_path, name, protocol):
    make, forbidden = ATTACKS[name]
    mark, path = tmp_path / "mark", tmp_path / "w.pdparams"
    path.write_bytes(pickle.dumps({"weight": np.ones(3), "a": make(mark)}, protocol))
    mark.unlink(missing_ok=True)
    with pytest.raises(UserError) as caught:
        load_state(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path} is refused and nothing in it was run: it holds ")
    assert forbidden in message and "\n" not in message
    assert not mark.exists()


def test_the_attacks_would_have_done_harm(tmp_path):
    """Else the test above would prove nothing."""
    for name in ("os.system", "eval", "exec", "open"):
        mark = tmp_path / "mark"
        pickle.loads(pickle.dumps(ATTACKS[name][0](mark)))
        assert mark.exists(), name
        mark.unlink()


def instruction(name, argument=b""):
    return next(item.code.encode("latin1") for item in pickletools.opcodes
                if item.name == name) + argument


@pytest.mark.parametrize("name", ["INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "PERSID", "BINPERSID",
                                  "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER",
                                  "BYTEARRAY8", "DUP", "EMPTY_SET", "FROZENSET", "GET", "PUT",
                                  "LIST", "DICT"])
def test_other_instructions_are_refused(name):
    with pytest.raises(UserError, match=f"it holds the instruction {name}, which no weights need"):
        loaded(b"\x80\x04" + instruction(name, b"posix\nsystem\n."))


SYSTEM = b"cposix\nsystem\n"
#: Written by hand, for no pickler writes them.
CRAFTED = {
    "a call of what a call made": b"\x80\x02cbuiltins\nbytes\n)R)R.",
    "a call of a text": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "state for a dict": b"\x80\x02}}b.",
    "state for a name": b"\x80\x02cbuiltins\ntuple\nX\x01\x00\x00\x00a\x85b.",
    "attributes of a name": b"\x80\x02cbuiltins\neval\nN}X\x01\x00\x00\x00aNs\x86b.",
    "items for a name": b"\x80\x02cbuiltins\neval\n(X\x01\x00\x00\x00aNu.",
    "items for a text": b"\x80\x02X\x01\x00\x00\x00aNa.",
    "the name after the end of another": SYSTEM + b"0\x80\x02}.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0bos.path.abs\x93.",
    "a name that is no text": b"\x80\x04K\x01K\x02\x93.",
    "an array of another kind": b"\x80\x02" + BLANK.replace(b"ndarray", b"dtype") + b".",
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_pickles_end_in_one_line(tmp_path, name):
    path = tmp_path / "w.pdparams"
    path.write_bytes(CRAFTED[name])
    with pytest.raises(UserError, match="w.pdparams is (refused|not a whole)") as caught:
        load_state(str(path))
    assert "\n" not in str(caught.value)


def array(shape, raw, code="f4"):
    """The pickle of an array whose shape and bytes need not match."""
    return pickle.dumps({"a": Call(np.core.multiarray._reconstruct, np.ndarray, (0,), b"b",
                                   state=(1, shape, np.dtype(code), False, raw))}, 4)


@pytest.mark.parametrize("shape", [(10**12,), (10**6, 10**6), (2**62, 4), (-1,), (-2, -2), (3,),
                                   (True,), [4], (4.0,), (2,) * 70, (1 << 40000,) * 20])
def test_a_shape_that_is_not_that_of_the_bytes_is_an_error(shape):
    started = time.perf_counter()
    with pytest.raises(UserError, match="a buffer is (refused|not a whole)"):
        loaded(array(shape, bytes(16)))
    assert time.perf_counter() - started < 1


def test_a_shape_without_values_takes_no_memory():
    assert loaded(array((10**12, 0), b""))["a"].shape == (10**12, 0)


def doubling(levels):
    """Tuples of the tuple below, twice, of which the last is on the stack."""
    return b")\x94" + b"".join(b"h" + bytes([level]) + b"h" + bytes([level]) + b"\x86\x94"
                              for level in range(levels))


@pytest.mark.parametrize("content", [
    BLANK + doubling(60) + b"b.", BLANK + b"(K\x01" + doubling(60) + DTYPE + b"\x89C\x00tb.",
    b"cbuiltins\ntuple\n" + doubling(60) + b"R.", b"}" + doubling(60) + b"Ns.",
    b"cbuiltins\neval\n" + doubling(60) + b"R.", b"cnumpy\ndtype\n" + doubling(60) + b"\x85R.",
    DTYPE[:-1] + doubling(60) + b"b.", doubling(60) + b"}b.", doubling(60) + b"h\x00\x93."])
def test_values_that_double_are_neither_gone_through_nor_shown(content):
    started = time.perf_counter()
    with pytest.raises(UserError):
        loaded(b"\x80\x04" + content)
    assert time.perf_counter() - started < 5


def referring(value, count, use):
    """The pickle of a list whose ``count`` items are ``use``, with ``value`` in the memo at 0."""
    return b"\x80\x04](" + value + b"q\x00" + use * count + b"e."


KILOBYTE = b"B" + struct.pack("<I", 1000) + bytes(1000)
TEXT = b"X" + struct.pack("<I", 1000) + b"a" * 1000
ARRAY = BLANK + b"(K\x01M\xe8\x03\x85h\x01\x89h\x00tb"


@pytest.mark.parametrize("content", [
    referring(DTYPE + b"q\x01" + KILOBYTE, 10**4, ARRAY),
    referring(TEXT, 10**4, b"c_codecs\nencode\nh\x00\x8c\x06latin1\x86R"),
], ids=["arrays", "bytes"])
def test_bytes_that_are_used_again_and_again_are_refused(content):
    with pytest.raises(UserError, match="it holds arrays larger than the file"):
        loaded(content)


def nested(levels, copies):
    """A list of lists of lists, each of ``copies`` references to the one below."""
    content = b"\x80\x04]\x94"
    for level in range(levels):
        content += b"](" + b"h" + bytes([level]) + (b"h" + bytes([level])) * (copies - 1) + b"e\x94"
    return content + b"."


@pytest.mark.parametrize("content", [
    nested(30, 10), nested(200, 1), b"\x80\x04]\x94h\x00a.",
    b"\x80\x04}\x94\x8c\x01ah\x00s.", b"\x80\x04" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."],
    ids=["doubling", "deep", "list in itself", "dict in itself", "very deep"])
def test_values_without_end_are_refused(content):
    started = time.perf_counter()
    with pytest.raises(UserError, match="it holds values within values without end"):
        loaded(content)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("content", [
    b"", b".", b"\x80", b"\x80\x04", b"\x80\x09}.", b"}", b"\x80\x04h\x07.",
    b"\x80\x04\x95" + struct.pack("<Q", 10**12) + b"}.", b"\x80\x04\x95" + b"\xff" * 8,
    b"\x80\x04\x8e" + struct.pack("<Q", 10**13) + b"a.",
    b"\x80\x02r\xff\xff\xff\x7f", b"\x80\x04(K\x01", b"\x80\x04K\x01K\x02K\x03u.", b"\x80\x04R.",
    b"\x80\x04b.", b"<html></html>", b"\x00" * 100])
def test_torn_files_are_named(tmp_path, content):
    path = tmp_path / "w.pdparams"
    path.write_bytes(content)
    with pytest.raises(UserError, match="w.pdparams is (not a whole .pdparams|refused)") as caught:
        load_state(str(path))
    assert "\n" not in str(caught.value)


def test_every_cut_and_many_flips_of_a_file_end_in_one_line_or_in_plain_values(tmp_path):
    model = paddle.nn.Linear(2, 3)
    path = tmp_path / "w.pdparams"
    paddle.save(model.state_dict(), str(path))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    spoilt = [whole[:length] for length in range(len(whole))]
    for _ in range(2000):
        copy = bytearray(whole)
        for place in rng.integers(0, len(copy), rng.integers(1, 4)):
            copy[place] = rng.integers(0, 256)
        spoilt.append(bytes(copy))
    refused = 0
    for content in spoilt:
        try:
            loaded(content)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > len(whole)


@pytest.mark.parametrize("name", ["a" * 10**6, "a\x1b[31m", "\u202e", "a\rb"])
def test_a_name_is_shown_in_a_line_of_moderate_length(name):
    text = name.encode()
    with pytest.raises(UserError) as caught:
        loaded(b"\x80\x04\x8c\x01aX" + struct.pack("<I", len(text)) + text + b"\x93.")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [[1], "text", 3, None])
def test_a_file_without_a_state_dict_is_named(tmp_path, value):
    path = str(tmp_path / "w.pdparams")
    with open(path, "wb") as file:
        pickle.dump(value, file, protocol=4)
    with pytest.raises(UserError, match=f"holds no state dict but a {type(value).__name__}"):
        load_state(path)
