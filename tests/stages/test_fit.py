"""The bare loop of stages 2 and 3: the same weights as with files, and no files."""

import os

import numpy as np
import paddle
import pytest

import paddle_csrl  # noqa: F401  first: it orders the imports of cv2 and paddle
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.run import Run
from paddle_csrl.stages.classifier import train_classifier
from paddle_csrl.stages.generator import generate, train_generator


@pytest.fixture(scope="module")
def run(finished) -> Run:
    shapes = finished("shapes")
    return Run(ZeroShotConfig(shapes.recipe.config, shapes.recipe.opts,
                              {"save_dir": shapes.folder}))


def trained_generator(run, **changes):
    section = run.config.section("generator").model_copy(update=changes)
    context = run.context
    return train_generator(section, context.embeddings, context.bank, run.classes.unseen_ids, 0)


def test_the_weights_are_those_of_the_stages(run):
    """Same seed, batches, losses, optimizer and schedule, all four of which leave their trace."""
    section, task = run.config.section("classifier"), trained_generator(run)
    generated = generate(task, section.num_generated, 0)
    layer = train_classifier(section, run.context.bank, generated, run.classes.unseen_ids, 0)
    for stage, model in (("generator", task.generator), ("classifier", layer)):
        trained = paddle.load(run.output(stage))
        assert list(trained) == list(model.state_dict())
        for key, value in model.state_dict().items():
            np.testing.assert_allclose(value.numpy(), trained[key].numpy(), rtol=1e-4, atol=1e-6)


def test_another_schedule_gives_other_weights(run):
    """The control: the comparison above is finer than what one setting changes."""
    schedule = {**run.config.section("generator").lr_scheduler, "power": 1.2}
    task, trained = trained_generator(run, lr_scheduler=schedule), paddle.load(
        run.output("generator"))
    assert not all(np.allclose(value.numpy(), trained[key].numpy(), rtol=1e-4, atol=1e-6)
                   for key, value in task.generator.state_dict().items())


def test_no_file_is_written(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained_generator(run)
    assert os.listdir(tmp_path) == []
