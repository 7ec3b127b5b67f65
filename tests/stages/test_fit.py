"""The one loop of stages 2 and 3: with files and without, its callbacks, and resuming."""

import os
from contextlib import nullcontext

import numpy as np
import paddle
import pytest
from paddleseg.models.backbones.cae import CAE

from helpers import tiny_runs
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.config.schema import TrainedSection
from paddle_csrl.errors import UserError
from paddle_csrl.run import Run
from paddle_csrl.stages import progress
from paddle_csrl.stages.checkpoints import Checkpoints
from paddle_csrl.stages.classifier import train_classifier
from paddle_csrl.stages.fit import check_training, fit, fit_in_folder, learning_rates
from paddle_csrl.stages.generator import generate, train_generator
from paddle_csrl.stages.progress import ProgressLog, Step, loss_names
from paddle_csrl.stages.trial import try_optimizer
from paddle_csrl.utils import read_json


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


@pytest.mark.parametrize("asked", [False, True])
def test_a_static_graph_is_said_to_be_for_stage_1_alone(finished, tmp_path, capsys, asked):
    opened = finished("custom").copy(tmp_path / "run").open()
    context, section = opened.context, opened.config.section("generator")
    context.settings = context.settings.model_copy(update={"to_static_training": asked})
    train_generator(section, context.embeddings, context.bank, opened.classes.unseen_ids, 0,
                    fit_in_folder(context, "generator", section))
    told = "[generator] `to_static_training` is for stage 1 alone" in capsys.readouterr().out
    assert told == asked


def test_an_optimizer_that_asks_the_backbone_is_tried_on_the_model_alone(finished):
    """AdamWDL_CAE, of PaddleSeg's UPerNetCAE, has a learning rate for every layer of a CAE."""
    settings = finished("custom").open().config.settings
    section = settings.model_copy(update={"optimizer": {"type": "AdamWDL_CAE"}})
    check_training(section, 5)
    model = paddle.nn.Layer()
    with pytest.raises(UserError, match="optimizer.*no attribute"):
        try_optimizer(model, section)
    model.backbone = CAE(img_size=16, embed_dim=8, depth=1, num_heads=2, qkv_bias=True)
    assert try_optimizer(model, section).optimizer.n_layers == model.backbone.get_num_layers()


@pytest.mark.parametrize("stage", ["generator", "classifier"])
def test_a_stopped_training_goes_on_as_if_it_had_not_been(finished, tmp_path, stage):
    """Paddle 2.6 does not tell its random state, which the dropout and noise of stage 2 need."""
    whole, run = finished("custom"), finished("custom").copy(tmp_path / "run")
    checkpoint = run.path(stage, "iter_2")
    record = read_json(os.path.join(checkpoint, "checkpoint.json"))
    [*_, random_state], *_ = record["random"]["paddle"]
    run.again(stage=stage, resume_model=checkpoint)
    assert bool(tiny_runs.differing(whole.weights(stage), run.weights(stage))) == (
        stage == "generator" and not random_state)


# By hand: the loss terms w x and 2 w x of a weight w, with x = 1.

class Line(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.w = self.create_parameter([1], default_initializer=paddle.nn.initializer.Constant(2.0))

    def forward(self, x):
        return [self.w * x.sum()]

    def loss_computation(self, logits_list, losses, data):
        return [logits_list[0], 2 * logits_list[0]]


class Ones(paddle.io.Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"img": np.ones(1, "float32")}


SECTION = TrainedSection(
    seed=0, save_interval=2, log_iters=2, iters=5, optimizer={"type": "SGD"},
    lr_scheduler={"type": "PolynomialDecay", "learning_rate": 0.1, "end_lr": 0.0, "power": 1.0},
    loss={"types": [{"type": "CrossEntropyLoss"}], "coef": [1.0]})
#: Rates 0.1, 0.08 ..., times the gradient 3.
RATES = [0.1, 0.08, 0.06, 0.04, 0.02]
WEIGHTS = [2.0, 1.7, 1.46, 1.28, 1.16, 1.1]


def test_the_rates_of_a_section_are_those_it_is_trained_with():
    assert learning_rates(SECTION) == pytest.approx(RATES)
    warm = {**SECTION.lr_scheduler, "warmup_iters": 2, "warmup_start_lr": 0.04}
    assert learning_rates(SECTION.model_copy(update={"lr_scheduler": warm})) == pytest.approx(
        [0.04, 0.07, 0.1, 0.1 * 2 / 3, 0.1 / 3])  # the decay takes the three that are left


@pytest.mark.parametrize("steps, fits", [(3, False), (5, True)])
def test_a_schedule_that_ends_in_an_error_is_told_before_training(steps, fits):
    schedule = {"type": "OneCycleLR", "max_learning_rate": 0.1, "total_steps": steps}
    section = SECTION.model_copy(update={"lr_scheduler": schedule})
    with nullcontext() if fits else pytest.raises(
            UserError, match="generator: `lr_scheduler` has no learning rate after 4 of `iters: 5"):
        check_training(section, 2, "generator: ")


def test_callbacks_are_told_of_every_iteration_in_turn():
    told, model = [], Line()
    fit(model, Ones(), SECTION, [
        lambda step: told.append(("first", step.iteration, float(model.w))),
        lambda step: told.append(("second", step.learning_rate, *map(float, step.terms)))])
    assert [name for name, *_ in told] == ["first", "second"] * 5
    assert [iteration for _, iteration, _ in told[::2]] == [1, 2, 3, 4, 5]
    assert [weight for *_, weight in told[::2]] == pytest.approx(WEIGHTS[1:])
    for (_, *values), rate, weight in zip(told[1::2], RATES, WEIGHTS):
        assert values == pytest.approx([rate, weight, 2 * weight])


def checkpoints(folder, keep=0):
    return Checkpoints(str(folder), interval=1, last=5, keep=keep, log=ProgressLog(5, 2))


@pytest.mark.parametrize("keep, kept", [(0, [1, 2, 3, 4, 5]), (2, [4, 5])])
def test_the_last_checkpoints_are_kept_and_go_on(tmp_path, keep, kept):
    fit(Line(), Ones(), SECTION, [checkpoints(tmp_path, keep)])
    assert sorted(os.listdir(tmp_path)) == [f"iter_{number}" for number in kept]
    for number in reversed(kept):
        folder, model, told = tmp_path / f"iter_{number}", Line(), []
        assert float(tiny_runs.weights(folder / "model.pdparams")["w"]) == pytest.approx(
            WEIGHTS[number])
        fit(model, Ones(), SECTION, [lambda step, told=told: told.append(step.iteration)],
            lambda builder, folder=folder: checkpoints(tmp_path).take_up(str(folder), builder))
        assert told == list(range(number + 1, 6))
        assert float(model.w) == pytest.approx(WEIGHTS[5])


MIXED = {"type": "MixedLoss", "coef": [0.8, 0.2],
         "losses": [{"type": "CrossEntropyLoss"}, {"type": "LovaszSoftmaxLoss"}]}


@pytest.mark.parametrize("types, names", [
    ([{"type": "A"}, {"type": "B"}, {"type": "A"}], ["A_0", "B", "A_2"]),
    ([MIXED], ["CrossEntropyLoss", "LovaszSoftmaxLoss"]),
    ([MIXED, {"type": "CrossEntropyLoss"}],
     ["CrossEntropyLoss_0", "LovaszSoftmaxLoss", "CrossEntropyLoss_2"])])
def test_every_term_has_a_name_of_its_own(types, names):
    assert loss_names({"types": types, "coef": [1] * len(types)}) == names


@pytest.mark.parametrize("terms, named", [
    ([[1.0, 3.0], [3.0, 5.0], [0.0, 1.0]], {"Train/loss_0": 2.0, "Train/loss_1": 4.0}),
    ([[4.0], [8.0], [1.0]], {}),
])
def test_the_log_has_means_since_its_last_line(monkeypatch, capsys, terms, named):
    clock = iter([10.0, 13.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress.logger, "info", print)
    records = {}

    class Writer:
        def add_scalar(self, tag, value, iteration):
            records[tag, iteration] = value

    log = ProgressLog(iters=100, interval=2, writer=Writer())
    for number, values in enumerate(terms, 1):
        log(Step(iteration=number, terms=list(map(paddle.to_tensor, values)),
                 learning_rate=0.1 / number, reader_seconds=0.25 * number, builder=None))
    assert records == {(tag, 2): pytest.approx(value) for tag, value in {
        "Train/loss": 6.0, "Train/lr": 0.05, "Train/batch_cost": 1.5, "Train/reader_cost": 0.375,
        **named}.items()}
    assert capsys.readouterr().out == (
        "[TRAIN] iter: 2/100, loss: 6.0000, lr: 0.050000, batch_cost: 1.5000, "
        "reader_cost: 0.37500 | ETA 00:02:27\n")
