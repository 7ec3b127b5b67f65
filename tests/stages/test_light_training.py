"""The training loop without files: the same weights as the stages, which PaddleSeg trains."""

import os

import numpy as np
import paddle
import pytest

import paddle_csrl  # noqa: F401  first: it orders the imports of cv2 and paddle
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.run import Run
from paddle_csrl.stages.classifier import fit_classifier, generate
from paddle_csrl.stages.fit import fit_silently
from paddle_csrl.stages.generator import fit_generator, load_bank


@pytest.fixture(scope="module")
def run(finished) -> Run:
    shapes = finished("shapes")
    return Run(ZeroShotConfig(shapes.recipe.config, shapes.recipe.opts,
                              {"save_dir": shapes.folder}))


def test_the_weights_are_those_of_the_stages(run):
    """Same seed, batches, losses, optimizer and schedule, all four of which leave their trace."""
    dic, seed = run.config.dic, run.config.seed
    bank, _ = load_bank(run)
    task = fit_generator(fit_silently, dic["generator"], run.builder.embeddings, bank,
                         run.builder.unseen_ids, seed)
    generated = generate(task, dic["classifier"], seed)
    layer = fit_classifier(fit_silently, dic["classifier"], generated, bank,
                           run.builder.unseen_ids, seed)
    for stage, model in (("generator", task.generator), ("classifier", layer)):
        trained = paddle.load(run.output(stage))
        assert list(trained) == list(model.state_dict())
        for key, value in model.state_dict().items():
            np.testing.assert_allclose(value.numpy(), trained[key].numpy(), rtol=1e-4, atol=1e-6)


def test_another_schedule_gives_other_weights(run):
    """The control: the comparison above is finer than what one setting changes."""
    dic = run.config.dic
    section = {**dic["generator"], "lr_scheduler": {**dic["generator"]["lr_scheduler"],
                                                    "power": 1.2}}
    bank, _ = load_bank(run)
    task = fit_generator(fit_silently, section, run.builder.embeddings, bank,
                         run.builder.unseen_ids, run.config.seed)
    trained = paddle.load(run.output("generator"))
    assert not all(np.allclose(value.numpy(), trained[key].numpy(), rtol=1e-4, atol=1e-6)
                   for key, value in task.generator.state_dict().items())


def test_no_file_is_written(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bank, _ = load_bank(run)
    fit_generator(fit_silently, run.config.dic["generator"], run.builder.embeddings, bank,
                  run.builder.unseen_ids, 0)
    assert os.listdir(tmp_path) == []
