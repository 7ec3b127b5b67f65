"""Old files of PyTorch's, written here without PyTorch by what its format says."""

import io
import os
import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest

from paddle_csrl.errors import UserError
from paddle_csrl.utils.torch_file import read_legacy

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
SIZES = {"protocol_version": VERSION, "little_endian": True,
         "type_sizes": {"short": 2, "int": 4, "long": 4}}


class FloatStorage:
    """Pickled as ``torch.FloatStorage``."""


class LongStorage:
    """Pickled as ``torch.LongStorage``."""


def _rebuild_tensor_v2():
    """Pickled as ``torch._utils._rebuild_tensor_v2``."""


@pytest.fixture(autouse=True)
def torch(monkeypatch):
    """Modules of PyTorch's names, for the pickler to find the three in."""
    for name, members in (("torch", (FloatStorage, LongStorage)),
                          ("torch._utils", (_rebuild_tensor_v2,))):
        module = types.ModuleType(name)
        for member in members:
            monkeypatch.setattr(member, "__module__", name)
            setattr(module, member.__name__, member)
        monkeypatch.setitem(sys.modules, name, module)


class Tensor:
    """A part of ``storage``, (key, kind, array)."""

    def __init__(self, storage, offset, shape, strides):
        self.storage, self.arguments = storage, (offset, shape, strides)

    def __reduce__(self):
        return _rebuild_tensor_v2, (Storage(self.storage), *self.arguments, False, OrderedDict())


class Storage:
    def __init__(self, storage):
        self.storage = storage


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, Storage):
            key, kind, array = value.storage
            return "storage", kind, key, "cpu", len(array), None
        return None


def write(path, state, storages, magic=MAGIC, more=b""):
    file = io.BytesIO()
    for value in (magic, VERSION, SIZES):
        pickle.dump(value, file, 2)
    Pickler(file, 2).dump(state)
    pickle.dump(sorted(storages), file, 2)
    for key in sorted(storages):
        array = storages[key][2]
        file.write(len(array).to_bytes(8, "little") + array.tobytes())
    path.write_bytes(file.getvalue() + more)
    return str(path)


FLOATS = ("1", FloatStorage, np.arange(24, dtype="<f4"))
COUNT = ("2", LongStorage, np.array([7], "<i8"))


def whole(path, **options):
    state = OrderedDict(plain=Tensor(FLOATS, 0, (2, 3, 4), (12, 4, 1)),
                        turned=Tensor(FLOATS, 12, (4, 3), (1, 4)),
                        count=Tensor(COUNT, 0, (), ()))
    return write(path, state, {"1": FLOATS, "2": COUNT}, **options)


def test_tensors_are_read_with_offsets_and_strides(tmp_path):
    tensors = read_legacy(whole(tmp_path / "w.pth"))
    values = np.arange(24, dtype="float32")
    assert list(tensors) == ["plain", "turned", "count"]
    np.testing.assert_array_equal(tensors["plain"], values.reshape(2, 3, 4))
    np.testing.assert_array_equal(tensors["turned"], values[12:].reshape(3, 4).T)
    assert tensors["count"] == 7 and tensors["count"].dtype == "int64"
    assert all(value.flags.c_contiguous and value.flags.writeable for value in tensors.values())


def test_a_file_cut_short_anywhere_or_with_more_behind_it_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    whole(path)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="no whole state dict of PyTorch's"):
            read_legacy(str(path))
    with pytest.raises(UserError, match="something follows its end"):
        read_legacy(whole(path, more=b"x"))
    with pytest.raises(UserError, match="does not begin as one"):
        read_legacy(whole(path, magic=MAGIC + 1))


@pytest.mark.parametrize("offset, shape, strides", [
    (13, (4, 3), (1, 4)), (24, (1,), (1,)), (-1, (1,), (1,)), (0, (4,), (-1,)), (0, (2, 2), (1,)),
    (0, (0,), (1,)), (0, (1 << 40,), (1,))])
def test_a_tensor_that_is_not_within_its_storage_is_refused(tmp_path, offset, shape, strides):
    path = write(tmp_path / "w.pth", {"x": Tensor(FLOATS, offset, shape, strides)}, {"1": FLOATS})
    with pytest.raises(UserError, match="is not within its storage"):
        read_legacy(path)


@pytest.mark.parametrize("place", range(5))
def test_nothing_else_is_called(tmp_path, place):
    """Wherever it stands: in front of the state, as the state, within it."""
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    values = [MAGIC, VERSION, SIZES, OrderedDict(), []]
    if place < 4:
        values[place] = Hostile()
    else:
        values[3]["x"] = Hostile()
    path = tmp_path / "w.pth"
    path.write_bytes(b"".join(pickle.dumps(value, 2) for value in values))
    with pytest.raises(UserError, match=r"it names \w+.mkdir, which is no tensor"):
        read_legacy(str(path))
    assert not (tmp_path / "run").exists()
