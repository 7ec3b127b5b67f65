"""Checkpoints by themselves: what is whole, what stays, what is taken up, and the best of them."""

import os
import shutil
import signal

import numpy as np
import paddle
import pytest

from helpers.tiny_runs import digest
from paddle_csrl import stopping
from paddle_csrl.config.schema import TrainedSection
from paddle_csrl.errors import UserError
from paddle_csrl.stages.checkpoints import Checkpoints, newest_checkpoint, read_record, write_record
from paddle_csrl.stages.fit import fit
from paddle_csrl.stages.progress import ProgressLog
from paddle_csrl.utils import read_json, write_json

SECTION = TrainedSection(
    seed=0, save_interval=2, log_iters=2, iters=7, optimizer={"type": "Momentum"},
    lr_scheduler={"type": "PolynomialDecay", "learning_rate": 0.1, "end_lr": 0.0, "power": 1.0},
    loss={"types": [{"type": "CrossEntropyLoss"}], "coef": [1.0]})


class Noisy(paddle.nn.Layer):
    """A weight whose gradient is noise of Paddle's."""

    def __init__(self):
        super().__init__()
        self.w = self.create_parameter([3])

    def forward(self, x):
        return [self.w * paddle.rand([3])]

    def loss_computation(self, logits_list, losses, data):
        return [logits_list[0].sum()]


class Ones(paddle.io.Dataset):
    def __len__(self):
        return 7

    def __getitem__(self, index):
        return {"img": np.ones(1, "float32")}


def train(folder, scores=None, checkpoint=None, keep=0, stop_at=None, model=None, chosen_by=None):
    """Seven iterations, saved every two; ``scores`` by iteration choose the best."""
    evaluate = None if scores is None else lambda writer, iteration: scores[iteration]
    checkpoints = Checkpoints(str(folder), interval=2, last=7, keep=keep, log=ProgressLog(7, 2),
                              evaluate=evaluate, chosen_by=chosen_by,
                              previous=read_record(checkpoint))
    with pytest.MonkeyPatch.context() as patch, paddle.utils.unique_name.guard():

        def signalled(step):
            if step.iteration == stop_at:
                patch.setattr(stopping, "told", lambda: signal.SIGTERM)

        fit(model or Noisy(), Ones(), SECTION, [signalled, checkpoints],
            checkpoint and (lambda builder: checkpoints.take_up(str(checkpoint), builder)))
    return checkpoints


def names(folder):
    return sorted(os.listdir(folder))


def test_the_newest_whole_one_is_found(tmp_path):
    assert newest_checkpoint(str(tmp_path)) is None
    train(tmp_path)
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / "iter_7")
    (tmp_path / "iter_old").mkdir()
    os.truncate(tmp_path / "iter_7" / "model.pdopt", 9)
    os.remove(tmp_path / "iter_6" / "model.pdparams")
    os.remove(tmp_path / "iter_4" / "checkpoint.json")
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / "iter_2")


def test_what_a_signal_had_saved_goes_once_the_next_is_there(tmp_path):
    with pytest.raises(stopping.Stopped, match="stopped at iteration 3, saved as .*iter_3; the") \
            as stopped:
        train(tmp_path, stop_at=3)
    assert stopped.value.exit_status == 143 and names(tmp_path) == ["iter_2", "iter_3"]
    train(tmp_path, checkpoint=tmp_path / "iter_3", keep=3)
    assert names(tmp_path) == ["iter_4", "iter_6", "iter_7"]


@pytest.mark.parametrize("scores, best", [
    ({2: 0.5, 4: 0.9, 6: 0.1, 7: 0.9}, 4), ({2: 0.9, 4: 0.3, 6: 0.1, 7: 0.2}, 2),
    ({2: 0.1, 4: 0.2, 6: 0.3, 7: 0.4}, 7), ({2: float("nan"), 4: 0.0, 6: float("nan"), 7: 0.0}, 4)])
def test_the_best_is_that_of_all_iterations(tmp_path, scores, best):
    """Wherever it was stopped, also after a better one than is known there had been kept."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(whole, scores)
    for done in (2, 4, 6):
        shutil.rmtree(resumed, ignore_errors=True)
        shutil.copytree(whole, resumed)
        found = train(resumed, scores, resumed / f"iter_{done}")
        assert found.best["iteration"] == best and names(resumed) == names(whole)
        assert digest(str(resumed / "best_model" / "model.pdparams")) == digest(
            str(resumed / f"iter_{best}" / "model.pdparams"))


@pytest.mark.parametrize("chosen_by, best", [("these images", 2), ("others", 6)])
def test_scores_on_other_images_are_not_compared(tmp_path, capsys, chosen_by, best):
    scores, checkpoint = {2: 0.9, 4: 0.1, 6: 0.3, 7: 0.2}, tmp_path / "iter_4"
    train(tmp_path, scores, chosen_by="these images")
    assert train(tmp_path, scores, checkpoint, chosen_by=chosen_by).best["iteration"] == best
    assert ("iter_2, was chosen by other scores" in capsys.readouterr().out) == (best == 6)
    assert digest(str(tmp_path / "best_model" / "model.pdparams")) == digest(
        str(tmp_path / f"iter_{best}" / "model.pdparams"))


def test_a_best_of_0_1_0_does_not_say_what_chose_it(tmp_path):
    scores, checkpoint = {2: 0.9, 4: 0.1, 6: 0.3, 7: 0.2}, str(tmp_path / "iter_4")
    train(tmp_path, scores)
    record = read_record(checkpoint)
    del record["best"]["chosen_by"]
    write_record(checkpoint, record)
    assert train(tmp_path, scores, checkpoint, chosen_by="others").best["iteration"] == 2


def test_a_best_that_is_gone_is_said(tmp_path, capsys):
    scores = {2: 0.9, 4: 0.1, 6: 0.2, 7: 0.1}
    train(tmp_path, scores)
    shutil.rmtree(tmp_path / "best_model")
    shutil.rmtree(tmp_path / "iter_2")
    assert train(tmp_path, scores, tmp_path / "iter_4").best["iteration"] == 6
    assert "the best checkpoint so far, iter_2, are gone" in capsys.readouterr().out


def test_what_was_not_evaluated_is_evaluated_when_it_is_taken_up(tmp_path):
    scores = {2: 0.1, 4: 0.9, 6: 0.2, 7: 0.1}
    train(tmp_path, scores)
    checkpoint = str(tmp_path / "iter_4")
    write_record(checkpoint, {**read_record(checkpoint), "evaluated": False, "best": None})
    shutil.rmtree(tmp_path / "best_model")
    assert train(tmp_path, scores, tmp_path / "iter_4").best["iteration"] == 4


@pytest.mark.parametrize("change", [
    {"files": []}, {"random": 5}, {"seconds": "x"}, {"best": 7}, None])
def test_a_changed_record_makes_a_torn_checkpoint(tmp_path, change):
    train(tmp_path)
    path = tmp_path / "iter_7" / "checkpoint.json"
    content = read_json(str(path))
    assert newest_checkpoint(str(tmp_path)) == str(path.parent)
    write_json(str(path), change and {**content, **change})
    assert newest_checkpoint(str(tmp_path)) == str(tmp_path / "iter_6")


def test_an_optimizer_of_other_parameters_is_refused(tmp_path):
    """Paddle would go on without its momentum, and say nothing."""
    train(tmp_path)
    other = Noisy()
    other.w.name = "another"
    with pytest.raises(UserError, match="iter_4/model.pdopt does not fit Noisy .* of other "
                                        "parameters, the first is"):
        train(tmp_path, checkpoint=tmp_path / "iter_4", model=other)
