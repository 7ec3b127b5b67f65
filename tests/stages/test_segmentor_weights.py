"""A trained segmentor in place of stage 1."""

import os
import shutil

import paddle
import pytest

from helpers.tiny_runs import digest
from paddle_csrl.cli import train
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
def adopted(source, weights, tmp_path):
    """A folder whose stage 1 is the adopted segmentor."""
    folder = str(tmp_path / "run")
    adopt(source, folder, weights)
    return folder


def adopt(source, folder, weights, *opts, **flags):
    train.main(source.recipe.argv(f"segmentor_weights={weights}", *opts, save_dir=folder,
                                  stage="segmentor", **flags))


def record(folder):
    return read_json(os.path.join(folder, "segmentor", "stage.json"))


def test_the_checkpoint_becomes_the_stages_result_untrained(adopted, weights):
    assert digest(os.path.join(adopted, "segmentor", "model.pdparams")) == digest(weights)
    assert sorted(os.listdir(os.path.join(adopted, "segmentor"))) == ["model.pdparams",
                                                                      "stage.json"]


def test_it_is_recorded_by_its_checksum(adopted, weights):
    whole = record(adopted)
    assert whole["finished"] and whole["inputs"]["segmentor_weights"] == digest(weights)
    assert "iters" not in whole["inputs"]  # a longer schedule changes nothing


def test_the_later_stages_give_what_they_give_after_training(source, weights, tmp_path):
    metrics = train.main(source.recipe.argv(f"segmentor_weights={weights}",
                                            save_dir=str(tmp_path / "all")))
    assert digest(tmp_path / "all" / "model.pdparams") == digest(source.path("model.pdparams"))
    assert metrics["hiou"] == source.metrics["hiou"]


def test_it_is_adopted_again_only_if_it_changed(source, weights, adopted):
    result = os.path.join(adopted, "segmentor", "model.pdparams")
    before = os.stat(result).st_mtime_ns
    adopt(source, adopted, weights, "iters=3")
    assert os.stat(result).st_mtime_ns == before
    state = paddle.load(str(weights))
    name = next(iter(state))
    state[name] = state[name] + 1
    paddle.save(state, str(weights))
    adopt(source, adopted, weights)
    assert digest(result) == digest(weights)


def test_without_it_stage_1_is_trained_after_all(source, weights, adopted):
    train.main(source.recipe.argv(save_dir=adopted, stage="segmentor"))
    assert "segmentor_weights" not in record(adopted)["inputs"]
    assert os.path.isdir(os.path.join(adopted, "segmentor", "iter_4"))


def test_the_record_of_a_trained_segmentor_does_not_know_the_key(source):
    assert "segmentor_weights" not in record(source.folder)["inputs"]


def test_null_means_training(source):
    config = source.recipe.load("segmentor_weights=null")
    assert config.settings.segmentor_weights is None


def test_a_missing_file_is_refused(source, tmp_path):
    with pytest.raises(UserError, match="`segmentor_weights: absent.pdparams` is no file"):
        adopt(source, str(tmp_path / "run"), "absent.pdparams")


def test_weights_of_another_network_are_refused_and_nothing_is_replaced(source, weights, adopted):
    state = paddle.load(str(weights))
    state.pop(next(iter(state)))
    paddle.save(state, str(weights))
    before = digest(os.path.join(adopted, "segmentor", "model.pdparams"))
    with pytest.raises(UserError, match="w.pdparams does not fit DeepLabV3P of this config: 1 "):
        adopt(source, adopted, weights)
    assert digest(os.path.join(adopted, "segmentor", "model.pdparams")) == before


def test_a_torn_file_is_refused(source, weights, tmp_path):
    with open(weights, "wb") as file:
        file.write(b"\x80\x04torn")
    with pytest.raises(UserError, match="w.pdparams is not a whole .pdparams"):
        adopt(source, str(tmp_path / "run"), weights)


def test_the_stages_own_folder_is_no_place_for_it(source, adopted):
    inside = shutil.copy(os.path.join(adopted, "segmentor", "model.pdparams"),
                         os.path.join(adopted, "segmentor", "copy.pdparams"))
    with pytest.raises(UserError, match="copy.pdparams` lies in .*, which the stage clears"):
        adopt(source, adopted, inside, "zero_shot.unseen=cow")
    assert os.path.isfile(inside)


def test_resuming_stage_1_contradicts_it(source, weights, tmp_path):
    resumed = source.path("segmentor", "iter_2")
    with pytest.raises(UserError, match="--resume_model .* which `segmentor_weights: .*` replaces"):
        adopt(source, str(tmp_path / "run"), weights, resume_model=resumed)


@pytest.mark.parametrize("value", ["5", "['a.pdparams']", "True"])
def test_it_must_be_a_path(source, value):
    with pytest.raises(UserError, match="`segmentor_weights: .*` must be a path"):
        source.recipe.load(f"segmentor_weights={value}")
