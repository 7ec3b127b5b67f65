"""State dicts as files: safetensors in and out, and numbers of fewer bits."""

import json
import struct

import numpy as np
import paddle
import pytest
import safetensors
import safetensors.numpy
from paddleseg.models.backbones import ResNet18_vd

from helpers import tiny_runs
from helpers.tiny_runs import digest
from paddle_csrl.cli import export, predict, train, val
from paddle_csrl.errors import UserError
from paddle_csrl.utils import read_json
from paddle_csrl.utils.weights import fitting_state, load_state, load_weights, save_safetensors


@pytest.fixture
def run(finished):
    return finished("custom")


@pytest.fixture(scope="module")
def passed_on(finished, tmp_path_factory):
    """The run exported as weights alone."""
    folder = tmp_path_factory.mktemp("weights")
    result = export.main(["--run", finished("custom").folder, "--format", "safetensors",
                          "--save_dir", str(folder)])
    assert result == {"config": str(folder / "config.yml"), "parity": []}
    return folder


def crafted(path, tensors, data=b"", length=None):
    """A file whose header says what it likes."""
    header = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return str(path)


def test_the_bits_and_the_order_are_those_of_the_run(run, passed_on):
    with safetensors.safe_open(str(passed_on / "model.safetensors"), "np") as file:
        written = {name: file.get_tensor(name) for name in file.keys()}
    assert not tiny_runs.differing(dict(sorted(run.weights().items())),
                                   dict(sorted(written.items())))
    assert sorted(path.name for path in passed_on.iterdir()) == ["classes.json", "config.yml",
                                                                 "model.safetensors"]


def test_metadata_say_the_classes_and_where_it_comes_from(run, passed_on):
    with safetensors.safe_open(str(passed_on / "model.safetensors"), "np") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    assert metadata["class_names"] == list(tiny_runs.CLASSES)
    assert metadata["unseen"] == ["cow", "car"]
    assert metadata["palette"] == read_json(run.path("classes.json"))["palette"]
    assert metadata["provenance"]["sha256"] == digest(run.path("model.pdparams"))
    assert metadata["provenance"]["versions"]["paddlepaddle"] == paddle.__version__


def test_it_predicts_and_scores_as_the_run_does(run, passed_on, tmp_path):
    image = run.builder().val_dataset.file_list[0][0]
    for name, folder in (("run", run.folder), ("passed", str(passed_on))):
        predict.main(["--run", folder, "--image_path", image, "--device", "cpu", "--save_dir",
                      str(tmp_path / name)])
    names = tiny_runs.files(str(tmp_path / "run"))
    assert names and [digest(tmp_path / "run" / name) for name in names] \
        == [digest(tmp_path / "passed" / name) for name in names]
    scores = val.main(run.recipe.argv(model_path=passed_on / "model.safetensors"))
    assert scores["classes"] == run.metrics["classes"]


def test_it_takes_the_place_of_stage_1(run, tmp_path):
    """The stage's result is a .pdparams of the same bits, and so is what follows from it."""
    state = load_state(run.path("segmentor", "model.pdparams"))
    save_safetensors(state, str(tmp_path / "w.safetensors"), {})
    new = run._replace(folder=str(tmp_path / "run"))
    metrics = new.again(f"segmentor_weights={tmp_path}/w.safetensors")
    assert not tiny_runs.differing(dict(sorted(run.weights("segmentor").items())),
                                   dict(sorted(new.weights("segmentor").items())))
    assert metrics["classes"] == run.metrics["classes"]


@pytest.mark.parametrize("part", ["model", "model.backbone"])
def test_it_is_what_training_starts_from(run, tmp_path, part):
    path = str(tmp_path / "w.safetensors")
    if part == "model":
        state, opts = run.builder().new_segmentor().state_dict(), (f"model.pretrained={path}",)
    else:
        state = ResNet18_vd().state_dict()
        opts = (f"model.backbone={{'type': 'ResNet18_vd', 'pretrained': '{path}'}}",
                "model.backbone_indices=[0, 3]")
    save_safetensors(state, path, {})
    made = run.builder(*opts).new_segmentor()
    made = made.backbone if part == "model.backbone" else made
    own = made.state_dict()
    assert len(own) == len(state)
    assert all(own[name].numpy().tobytes() == state[name].numpy().tobytes() for name in state)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32",
                                   "int16", "int8", "uint8", "bool"])
def test_every_type_of_number(tmp_path, dtype):
    tensors = {"a": paddle.to_tensor([[0, 1], [1, 3]]).astype(dtype),
               "0-D": paddle.to_tensor(1).astype(dtype), "none": paddle.zeros([0, 3], dtype)}
    arrays = {name: value.numpy() for name, value in tensors.items()}
    path = str(tmp_path / "w.safetensors")
    if dtype == "bfloat16":  # the library writes it only by its low-level function
        crafted(tmp_path / "w.safetensors", {
            "a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]},
            "0-D": {"dtype": "BF16", "shape": [], "data_offsets": [8, 10]},
            "none": {"dtype": "BF16", "shape": [0, 3], "data_offsets": [10, 10]}},
            arrays["a"].tobytes() + arrays["0-D"].tobytes())
    else:
        safetensors.numpy.save_file(arrays, path)
    read = load_state(path)
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype and read[name].shape == value.shape
        assert read[name].numpy().tobytes() == value.numpy().tobytes()
    save_safetensors(tensors, str(tmp_path / "again.safetensors"), {"a": "b"})
    again = load_state(str(tmp_path / "again.safetensors"))["a"]
    assert np.array_equal(again.astype("float32").numpy(), [[0, 1], [1, dtype == "bool" or 3]])
    assert again.dtype == (paddle.float32 if dtype == "bfloat16" else tensors["a"].dtype)


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize("tensors, data, length, says", [
    ({"a": TENSOR}, bytes(8), 10**12, "not a whole .safetensors file"),
    ({"a": TENSOR}, bytes(8), 2**64 - 1, "not a whole .safetensors file"),
    ({"a": TENSOR}, bytes(7), None, "not a whole .safetensors file"),
    ({"a": TENSOR}, bytes(12), None, "not a whole .safetensors file"),
    ({"a": TENSOR, "b": {**TENSOR, "data_offsets": [4, 12]}}, bytes(12), None, "not a whole"),
    ({"a": TENSOR, "b": TENSOR}, bytes(8), None, "not a whole .safetensors file"),
    ({"a": {**TENSOR, "data_offsets": [8, 0]}}, bytes(8), None, "not a whole .safetensors file"),
    ({"a": {**TENSOR, "shape": [10**12]}}, bytes(8), None, "not a whole .safetensors file"),
    ({"a": {**TENSOR, "shape": [2**63, 2**63]}}, bytes(8), None, "not a whole .safetensors file"),
    ({"a": {**TENSOR, "shape": [-2]}}, bytes(8), None, "not a whole .safetensors file"),
    ({"a": {**TENSOR, "dtype": "O8"}}, bytes(8), None, "not a whole .safetensors file"),
    ({"a": {**TENSOR, "dtype": "U32"}}, bytes(8), None, "a has the type U32, which Paddle lacks"),
    ({"a": {**TENSOR, "dtype": "U16", "shape": [4]}}, bytes(8), None, "has the type U16"),
    ({"a": {**TENSOR, "dtype": "F8_E4M3", "shape": [8]}}, bytes(8), None, "has the type F8_E4M3"),
    ([1], b"", None, "not a whole .safetensors file"), (b"{", b"", None, "not a whole"),
    (b"\xff\xff", b"", None, "not a whole"), (b"[" * 10**5, b"", None, "not a whole")])
def test_hostile_and_torn_files_end_in_one_line(tmp_path, tensors, data, length, says):
    path = crafted(tmp_path / "w.safetensors", tensors, data, length)
    with pytest.raises(UserError, match=says) as caught:
        load_state(path)
    assert path in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x00", b"<html></html>", b"\x80\x04}."])
def test_files_of_something_else(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="w.safetensors is not a whole .safetensors file"):
        load_state(str(path))


def test_every_cut_of_a_file_is_named(tmp_path):
    path = tmp_path / "w.safetensors"
    save_safetensors({"a": paddle.ones([2, 3]), "b": paddle.zeros([2])}, str(path), {"a": "b"})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="is not a whole .safetensors file"):
            load_state(str(path))


@pytest.mark.parametrize("names", ["StructuredToParameterName@@", "UnpackBigParamInfor@@"])
def test_names_that_paddle_gives_a_meaning_are_no_tensors(tmp_path, names):
    path = crafted(tmp_path / "w.safetensors", {names: TENSOR}, bytes(8))
    with pytest.raises(UserError, match="is not a whole"):
        load_state(path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_other_bits_become_the_models(tmp_path, dtype):
    model, path = paddle.nn.Linear(3, 2), str(tmp_path / "w.pdparams")
    halves = {name: value.astype(dtype) for name, value in model.state_dict().items()}
    paddle.save(halves, path)
    load_weights(model, path)
    for name, value in model.state_dict().items():
        assert value.dtype == paddle.float32
        assert np.array_equal(value.numpy(), halves[name].astype("float32").numpy())


def test_weights_of_another_kind_do_not_fit(tmp_path):
    model, path = paddle.nn.Linear(3, 2), str(tmp_path / "w.pdparams")
    state = model.state_dict()
    for wrong in ({name: value.astype("int64") for name, value in state.items()},
                  {name: 3.0 for name in state}, {name: {"a": value} for name, value
                                                 in state.items()}):
        assert not fitting_state(model, wrong)
        paddle.save(wrong, path)
        with pytest.raises(UserError, match="w.pdparams does not fit Linear of this config"):
            load_weights(model, path)


def test_arrays_among_tensors_are_loaded_and_looked_at(tmp_path):
    """As in a state that was changed by hand before it was saved."""
    model, path = paddle.nn.Linear(3, 2), str(tmp_path / "w.pdparams")
    paddle.save({"weight": model.weight, "bias": np.float32([1, 2])}, path)
    load_weights(model, path)
    assert model.bias.tolist() == [1, 2]
    paddle.save({"weight": model.weight, "bias": np.float32([1, np.nan])}, path)
    with pytest.raises(UserError, match="bias holds values that are not finite"):
        load_weights(model, path)


def test_the_runs_own_folder_is_no_place_for_an_export(run):
    with pytest.raises(UserError, match="is the folder of --model_path .* choose another"):
        export.main(["--run", run.folder, "--format", "safetensors", "--save_dir", run.folder])


def test_weights_that_are_not_there(run, tmp_path):
    with pytest.raises(UserError, match="no weights at .*gone.safetensors"):
        val.main(run.recipe.argv(model_path=tmp_path / "gone.safetensors"))
    with pytest.raises(UserError, match="no weights at gone.safetensors"):
        train.main(run.recipe.argv("model.pretrained=gone.safetensors",
                                   save_dir=tmp_path / "new"))
