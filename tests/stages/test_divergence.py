"""What is no finite number ends a stage before it is saved, and is refused where it is read."""

import os

import paddle
import pytest

from paddle_csrl.cli import predict
from paddle_csrl.errors import UserError
from paddle_csrl.run import Run
from paddle_csrl.stages import generator


@pytest.mark.parametrize("stage, term", [("segmentor", "CrossEntropyLoss"),
                                         ("generator", "MMDLoss"),
                                         ("classifier", "CrossEntropyLoss")])
def test_a_term_that_is_not_finite_ends_the_stage(finished, tmp_path, monkeypatch, stage, term):
    run, section = finished("custom").copy(tmp_path / "run"), f"{stage}."
    monkeypatch.setattr("paddle_csrl.config.components._MOST_LEARNING_RATE", 1e39)
    with pytest.raises(UserError, match=rf"stage {stage} has diverged: {term}\S* is (nan|inf) at "
                                        rf"iteration \d; lower its learning rate .*checkpoint"):
        run.again(*(f"{section * (stage != 'segmentor')}{opt}" for opt in (
            "lr_scheduler.learning_rate=3.0e38", "optimizer.type=SGD")))
    assert Run.open(run.folder).changes(stage) is None
    assert not os.path.exists(run.path(stage, "iter_4"))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(finished, tmp_path, value):
    run = finished("custom").copy(tmp_path / "run").without_checksums()
    state = paddle.load(run.path("model.pdparams"))
    state["head.decoder.conv.bias"][1] = value
    paddle.save(state, run.path("model.pdparams"))
    message = "head.decoder.conv.bias holds values that are not finite"
    with pytest.raises(UserError, match=message):
        run.val()
    with pytest.raises(UserError, match=message):
        predict.main(["--run", run.folder, "--device", "cpu", "--image_path", run.folder])


@pytest.mark.parametrize("rate", ["1e999", "1.0e+30", "0", "-0.1", "fast", "true"])
def test_what_is_no_learning_rate(finished, tmp_path, rate):
    run = finished("custom")
    with pytest.raises(UserError, match="lr_scheduler.learning_rate: .* must be a "):
        Run.open(run.folder, [f"generator.lr_scheduler.learning_rate={rate}"])


def test_a_stage_that_leaves_what_is_not_finite_is_not_finished(finished, tmp_path, monkeypatch):
    """As where the loss of the last iteration still was a number."""
    run = finished("custom").copy(tmp_path / "run")
    save = generator.save_state

    def spoil(state, path):
        save({name: value * float("inf") for name, value in state.items()}, path)

    monkeypatch.setattr(generator, "save_state", spoil)
    with pytest.raises(UserError, match="generator/model.pdparams: .* are not finite"):
        run.again("generator.num_samples=5")
    assert Run.open(run.folder).changes("generator") is None
