"""tools/convert_zs3.py on checkpoints that PyTorch wrote, against PyTorch's own outputs."""

import collections
import io
import os
import pickle
import pickletools
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import paddle
import pytest
import torch

from helpers import zs3_network, zs3_weights
from helpers.tiny_runs import ROOT
from paddle_csrl.cli import convert_zs3
from paddle_csrl.errors import UserError
from paddle_csrl.models import CSRLResNet101, DeepLabV3PPlain

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def network():
    return zs3_network.random_network(seed=5)


def released(network, prefix=""):
    """What ZS3Net's trainer saves: optimizer state and a NumPy score beside the weights."""
    state = collections.OrderedDict((prefix + name, value)
                                    for name, value in network.state_dict().items())
    return {"epoch": 200, "state_dict": state, "best_pred": np.float64(0.71),
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}},
                          "param_groups": [{"lr": 0.007, "params": [0]}]}}


def tool(*argv):
    return subprocess.run([sys.executable, os.path.join(ROOT, "tools", "convert_zs3.py"), *argv],
                          capture_output=True, text=True)


def error_line(done):
    assert done.returncode == 2, done.stderr
    return done.stderr.strip().splitlines()[-1]


def assert_equal_outputs(model, network, size):
    model.eval()
    image = np.random.default_rng(3).standard_normal((2, 3, *size), np.float32)
    with paddle.no_grad():
        logits = model(paddle.to_tensor(image))[0].numpy()
    expected = zs3_network.logits_of(network, image)
    assert expected.std() > 1
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("zipped", [False, True])  # PyTorch's old format is that of the releases
def test_a_deeplab_through_the_command_line(network, tmp_path, zipped):
    source, out = tmp_path / "deeplab.pth.tar", tmp_path / "deeplab.pdparams"
    torch.save(released(network), source, _use_new_zipfile_serialization=zipped)
    done = tool("--model_path", str(source), "--out", str(out), "--num_classes", "21")
    assert done.returncode == 0, done.stderr
    values = sum(value.numel() for name, value in network.state_dict().items()
                 if not name.endswith("num_batches_tracked"))
    assert f"deeplab, 567 tensors, {values:,} values, 21 classes; left out: 113 counters" \
        in done.stdout
    model = DeepLabV3PPlain(21, CSRLResNet101(), pretrained=str(out))
    assert_equal_outputs(model, network, (65, 97))


def test_flat_and_prefixed(network, tmp_path):
    source, out = str(tmp_path / "flat.pth.tar"), str(tmp_path / "flat.pdparams")
    torch.save(released(network, "module.")["state_dict"], source)
    result = convert_zs3.main(["--model_path", source, "--out", out])
    assert (result["kind"], result["num_tensors"], result["num_classes"]) == ("deeplab", 567, 21)
    assert all(name.endswith("num_batches_tracked") for name in result["left_out"])
    state = paddle.load(out)
    for name, value in network.state_dict().items():
        name = name.replace("running_mean", "_mean").replace("running_var", "_variance")
        if not name.endswith("num_batches_tracked"):
            assert np.array_equal(state[name].numpy(), value.numpy()), name


def test_a_backbone_with_its_classifier(network, tmp_path):
    source, out = str(tmp_path / "resnet.pth.tar"), str(tmp_path / "resnet.pdparams")
    state = {f"module.{name}": value for name, value in network.backbone.state_dict().items()}
    state.update({"module.fc.weight": torch.zeros(970, 2048), "module.fc.bias": torch.zeros(970)})
    torch.save({"arch": "resnet101", "state_dict": state}, source)
    result = convert_zs3.main(["--model_path", source, "--out", out])
    assert (result["kind"], result["num_tensors"]) == ("backbone", 520)
    model = CSRLResNet101(pretrained=out)
    model.eval()
    image = zs3_weights.image()
    with torch.no_grad(), paddle.no_grad():
        low, high = network.backbone(torch.from_numpy(image))
        features = model(paddle.to_tensor(image))
    for feature, expected in ((features[0], low), (features[3], high)):
        scale = float(expected.std())
        np.testing.assert_allclose(feature.numpy(), expected.numpy(), atol=1e-4 * max(scale, 1))


def test_half_precision_becomes_single(network, tmp_path):
    source, out = str(tmp_path / "half.pth.tar"), str(tmp_path / "half.pdparams")
    torch.save({name: value.half() for name, value in network.backbone.state_dict().items()},
               source)
    convert_zs3.main(["--model_path", source, "--out", out])
    assert {value.dtype for value in paddle.load(out).values()} == {paddle.float32}


def test_the_fixture_of_the_tests_without_pytorch_is_this_networks():
    made, stored = zs3_network.fixture(), zs3_weights.fixture()
    assert made.keys() == stored.keys()
    assert (made["names"] == stored["names"]).all() and (made["shapes"] == stored["shapes"]).all()
    np.testing.assert_allclose(made["sums"], stored["sums"], rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(made["logits"], stored["logits"], atol=1e-4)


def test_parameters_are_read_as_tensors(network, tmp_path):
    source, out = str(tmp_path / "own.pth.tar"), str(tmp_path / "own.pdparams")
    state = {name: torch.nn.Parameter(value) if value.is_floating_point() else value
             for name, value in network.backbone.state_dict().items()}
    torch.save({"state_dict": state}, source)
    assert convert_zs3.main(["--model_path", source, "--out", out])["num_tensors"] == 520


class Malicious:
    """Pickles into a call that makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("place", ["state_dict", "best_pred"])
def test_a_malicious_file_is_refused_in_one_line_and_nothing_runs(tmp_path, zipped, place):
    source, out, mark = (tmp_path / name for name in ("bad.pth.tar", "bad.pdparams", "mark"))
    torch.save({"state_dict": {"a": torch.ones(1)}, place: Malicious(mark)}, source,
               _use_new_zipfile_serialization=zipped)
    assert not mark.exists()
    line = error_line(tool("--model_path", str(source), "--out", str(out)))
    assert "bad.pth.tar is not a whole PyTorch checkpoint of tensors and plain values, and " \
           "nothing in it was run (Unsupported global: GLOBAL" in line
    assert "io.open" in line or "_io.open" in line
    assert not mark.exists() and not out.exists()


def refused(source, mark, says):
    with pytest.raises(UserError, match=says) as caught:
        convert_zs3.main(["--model_path", str(source), "--out", f"{source}.pdparams"])
    assert "\n" not in str(caught.value)
    assert not mark.exists() and not os.path.exists(f"{source}.pdparams")


@pytest.mark.parametrize("place", range(5))
def test_no_pickle_of_the_old_format_is_run(tmp_path, place):
    """The magic number, the version, the system, the tensors, the keys of their values."""
    source, mark, saved = tmp_path / "bad.pth.tar", tmp_path / "mark", io.BytesIO()
    torch.save({"a": torch.ones(2)}, saved, _use_new_zipfile_serialization=False)
    saved.seek(0)
    parts, start = [], 0
    for _ in range(5):
        list(pickletools.genops(saved))
        parts.append(saved.getvalue()[start:saved.tell()])
        start = saved.tell()
    parts[place] = pickle.dumps(Malicious(mark), 2)
    source.write_bytes(b"".join(parts) + saved.read())
    refused(source, mark, r"nothing in it was run \(Unsupported global: GLOBAL _?io.open")


@pytest.mark.parametrize("place", ["sys_info", "pickle", "storages", "tensors"])
def test_no_pickle_of_a_tar_is_run(tmp_path, place):
    """PyTorch's oldest format, which its releases could write until 0.1.1."""
    source, mark = tmp_path / "bad.pth.tar", tmp_path / "mark"
    with tarfile.open(source, "w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            content = pickle.dumps(Malicious(mark) if name == place else 0, 2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    refused(source, mark, r"nothing in it was run \(Cannot use ``weights_only=True`` with files")


def test_no_pickle_of_a_zip_is_run(tmp_path):
    whole, source, mark = tmp_path / "whole", tmp_path / "bad.pth.tar", tmp_path / "mark"
    torch.save({"a": torch.ones(2)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(source, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickle.dumps(Malicious(mark), 2) if name.endswith("/data.pkl")
                         else old.read(name))
    refused(source, mark, r"nothing in it was run \(Unsupported global: GLOBAL _?io.open")


def test_the_malicious_file_would_have_done_harm(tmp_path):
    """Else the test above would prove nothing."""
    source, mark = tmp_path / "bad.pth.tar", tmp_path / "mark"
    torch.save({"a": Malicious(mark)}, source)
    assert not mark.exists()
    torch.load(source, weights_only=False)
    assert mark.exists()


def test_a_torn_file_is_refused_and_nothing_is_written(network, tmp_path):
    source, out = tmp_path / "torn.pth.tar", tmp_path / "torn.pdparams"
    torch.save(released(network), source)
    with open(source, "rb+") as file:
        file.truncate(10**6)
    with pytest.raises(UserError, match="torn.pth.tar is not a whole PyTorch checkpoint"):
        convert_zs3.main(["--model_path", str(source), "--out", str(out)])
    assert os.listdir(tmp_path) == ["torn.pth.tar"]


@pytest.mark.parametrize("content, message", [
    (b"<html>not found</html>", "is not a whole PyTorch checkpoint"),
    (b"", "is not a whole PyTorch checkpoint")])
def test_a_file_of_something_else(tmp_path, content, message):
    source = tmp_path / "page.pth.tar"
    source.write_bytes(content)
    with pytest.raises(UserError, match=message):
        convert_zs3.main(["--model_path", str(source), "--out", str(tmp_path / "x.pdparams")])


@pytest.mark.parametrize("content, message", [
    ({}, "holds no state dict"), ([torch.ones(1)], "holds no state dict"),
    ({"state_dict": {}}, "holds no state dict"),
    ({"state_dict": {"a": torch.ones(1), "epoch": 3}}, "entry epoch of the state dict is no"),
    ({"state_dict": {3: torch.ones(1)}}, "entry 3 of the state dict is no"),
    ({"state_dict": {"a": torch.eye(2).to_sparse()}}, "holds tensors that are no plain arrays"),
    ({"state_dict": {"a": torch.ones(2, device="meta")}}, "holds tensors that are no plain arrays"),
    ({"state_dict": {"a": torch.ones(1)}}, "lacks 520 of the 520 tensors of ResNet-101")])
def test_checkpoints_of_something_else(tmp_path, content, message):
    source = str(tmp_path / "other.pth.tar")
    torch.save(content, source)
    with pytest.raises(UserError, match=message):
        convert_zs3.main(["--model_path", source, "--out", str(tmp_path / "x.pdparams")])
    assert os.listdir(tmp_path) == ["other.pth.tar"]


def test_more_values_than_bytes_are_refused(tmp_path):
    source, out = tmp_path / "view.pth.tar", tmp_path / "view.pdparams"
    torch.save({"state_dict": {"a": torch.ones(1, dtype=torch.half).expand(10**12)}}, source)
    assert "announces 1000000000000 values, more than it has bytes" in error_line(
        tool("--model_path", str(source), "--out", str(out)))
    torch.save({"state_dict": {"a": torch.zeros(10**6)}}, tmp_path / "plain.pth.tar")
    with zipfile.ZipFile(tmp_path / "plain.pth.tar") as plain, \
            zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as packed:
        for info in plain.infolist():
            packed.writestr(info.filename, plain.read(info))
    assert "which no PyTorch checkpoint does" in error_line(
        tool("--model_path", str(source), "--out", str(out)))
    assert not out.exists()
