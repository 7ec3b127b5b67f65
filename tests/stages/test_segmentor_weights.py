"""A trained segmentor in place of stage 1."""

import os
import shutil

import paddle
import pytest

from helpers.tiny_runs import digest
from paddle_csrl.errors import UserError
from paddle_csrl.utils import read_json


@pytest.fixture
def source(finished):
    return finished("custom")


@pytest.fixture
def weights(source, tmp_path):
    """The segmentor of a finished run, elsewhere."""
    return shutil.copy(source.path("segmentor", "model.pdparams"), tmp_path / "w.pdparams")


@pytest.fixture
def run(source, tmp_path):
    """A run that has not begun."""
    return source._replace(folder=str(tmp_path / "run"))


@pytest.fixture
def adopted(run, weights):
    """A run whose stage 1 is the adopted segmentor."""
    adopt(run, weights)
    return run


def adopt(run, weights, *opts, **flags):
    run.again(f"segmentor_weights={weights}", *opts, stage="segmentor", **flags)


def result(run):
    return run.path("segmentor", "model.pdparams")


def inputs(run):
    return read_json(run.path("segmentor", "stage.json"))["inputs"]


def change(weights, edit):
    """Pass the state in a file through ``edit``, which gets its first name, too."""
    state = paddle.load(str(weights))
    edit(state, next(iter(state)))
    paddle.save(state, str(weights))


def test_the_checkpoint_becomes_the_stages_result_untrained(adopted, weights):
    assert digest(result(adopted)) == digest(weights)
    assert sorted(os.listdir(adopted.path("segmentor"))) == ["model.pdparams", "stage.json"]


def test_weights_that_it_replaces_need_not_be_there(run, weights):
    adopt(run, weights, "model.pretrained=gone.pdparams")
    assert digest(result(run)) == digest(weights)


def test_it_is_recorded_by_its_checksum(adopted, weights, source):
    assert read_json(adopted.path("segmentor", "stage.json"))["finished"]
    assert inputs(adopted)["segmentor_weights"] == digest(weights)
    assert "iters" not in inputs(adopted)  # a longer schedule changes nothing
    assert "segmentor_weights" not in inputs(source)


def test_the_later_stages_give_what_they_give_after_training(source, weights, run):
    metrics = run.again(f"segmentor_weights={weights}")
    assert digest(run.path("model.pdparams")) == digest(source.path("model.pdparams"))
    assert metrics["hiou"] == source.metrics["hiou"]


def test_it_is_adopted_again_only_if_it_changed(weights, adopted):
    before = os.stat(result(adopted)).st_mtime_ns
    adopt(adopted, weights, "iters=3")
    assert os.stat(result(adopted)).st_mtime_ns == before
    change(weights, lambda state, name: state.update({name: state[name] + 1}))
    adopt(adopted, weights)
    assert digest(result(adopted)) == digest(weights)


def test_without_it_stage_1_is_trained_after_all(adopted):
    adopted.again(stage="segmentor")
    assert "segmentor_weights" not in inputs(adopted)
    assert os.path.isdir(adopted.path("segmentor", "iter_4"))


def test_null_means_training(source):
    assert source.recipe.load("segmentor_weights=null").settings.segmentor_weights is None


def test_a_missing_file_is_refused(run):
    with pytest.raises(UserError, match="`segmentor_weights: absent.pdparams` is no file"):
        adopt(run, "absent.pdparams")


def test_weights_of_another_network_are_refused_and_nothing_is_replaced(weights, adopted):
    change(weights, lambda state, name: state.pop(name))
    before = digest(result(adopted))
    with pytest.raises(UserError, match="w.pdparams does not fit DeepLabV3P of this config: 1 "):
        adopt(adopted, weights)
    assert digest(result(adopted)) == before


def test_a_torn_file_is_refused(run, weights):
    weights.write_bytes(b"\x80\x04torn")
    with pytest.raises(UserError, match="w.pdparams is not a whole .pdparams"):
        adopt(run, weights)


def test_the_stages_own_folder_is_no_place_for_it(adopted):
    inside = shutil.copy(result(adopted), adopted.path("segmentor", "copy.pdparams"))
    with pytest.raises(UserError, match="copy.pdparams` lies in .*, which the stage clears"):
        adopt(adopted, inside, "zero_shot.unseen=cow")
    assert os.path.isfile(inside)


def test_resuming_stage_1_contradicts_it(source, weights, run):
    with pytest.raises(UserError, match="--resume_model .* which `segmentor_weights: .*` replaces"):
        adopt(run, weights, resume_model=source.path("segmentor", "iter_2"))


@pytest.mark.parametrize("value", ["5", "['a.pdparams']", "True"])
def test_it_must_be_a_path(source, value):
    with pytest.raises(UserError, match="`segmentor_weights: .*` must be a path"):
        source.recipe.load(f"segmentor_weights={value}")
