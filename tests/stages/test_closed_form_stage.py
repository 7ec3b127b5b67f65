"""Stage 3 in closed form and stage 2 without training, through tools/train.py and on a bank."""

import os

import numpy as np
import paddle
import pytest

from helpers import tiny_runs
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.cli import train
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.errors import UserError
from paddle_csrl.models import ConvexPrototypes, MeanPrototypes, RidgePrototypes
from paddle_csrl.stages import fit as fit_module
from paddle_csrl.stages.classifier import ClassifierSection
from paddle_csrl.stages.closed_form import closed_form_layer
from paddle_csrl.stages.generator import generate, trained_generator, unseen_prototypes
from paddle_csrl.utils import read_json

CLOSED = "classifier.mode=closed_form"
FREE = ("generator.relation=prototypes", "generator.unseen_prototypes=free")
RIDGE = ("generator.model={'type': 'RidgePrototypes', 'ridge': 0.3}", *FREE)
CONVEX = ("generator.model={'type': 'ConvexPrototypes', 'temperature': 0.2}", *FREE)
UNSEEN = [3, 4]


# The layer on a bank.

def made_bank(counts=(40, 30, 0, 0, 50), dim=4, seed=0):
    """Features around a mean for every class; some have none."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(dim, dim))
    rows = [rng.normal(size=dim) * 3 + rng.normal(size=(count, dim)) @ root for count in counts]
    return FeatureBank(np.concatenate(rows).astype(np.float32), np.array(counts),
                       np.array(counts) * 10)


def layer_of(bank, prototypes, unseen_ids, shrinkage=0.1):
    paddle.seed(0)
    layer = closed_form_layer(ClassifierSection.model_construct(shrinkage=shrinkage), bank,
                              prototypes, np.array(unseen_ids))
    return layer.conv.weight.numpy()[:, :, 0, 0], layer.conv.bias.numpy()


def by_density(means, covariances, points, shrinkage=0.1):
    """The class of each point by the densities of Gaussians with the mean of ``covariances``."""
    covariance = np.mean(covariances, axis=0)
    covariance += shrinkage * np.diag(covariance).mean() * np.eye(len(covariance))
    distances = [np.einsum("nd,de,ne->n", points - m, np.linalg.inv(covariance), points - m)
                 for m in means]
    return np.argmin(distances, axis=0)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 1.0])
def test_classes_weigh_alike_however_many_features_they_have(shrinkage):
    bank = made_bank((400, 30, 0, 0, 5))
    prototype = np.array([[1.0, -2.0, 0.5, 0.0]])
    weight, bias = layer_of(bank, prototype, [3], shrinkage)
    real = [bank.of(c) for c in (0, 1, 4)]
    points = np.random.default_rng(1).normal(size=(500, 4)) * 4
    ids = np.array([0, 1, 4, 3])
    expected = ids[by_density([*(rows.mean(0) for rows in real), prototype[0]],
                              [np.cov(rows.T) for rows in real], points, shrinkage)]
    assert np.array_equal((points @ weight.T + bias).argmax(1), expected)
    assert set(expected) == {0, 1, 3, 4}


def test_a_class_without_features_is_never_predicted():
    weight, bias = layer_of(made_bank(), np.ones((1, 4)), [3])
    points = np.random.default_rng(1).normal(size=(2000, 4)) * 100
    logits = points @ weight.T + bias
    assert not (logits.argmax(1) == 2).any() and np.isfinite(logits).all()


def test_a_class_with_one_feature_has_a_mean_and_no_part_in_the_covariance():
    bank = made_bank((40, 30, 1, 0, 0))
    weight, bias = layer_of(bank, np.zeros((1, 4)), [3])
    covariance = np.mean([np.cov(bank.of(c).T) for c in (0, 1)], axis=0)
    covariance += 0.1 * np.diag(covariance).mean() * np.eye(4)
    expected = np.linalg.solve(covariance, bank.of(2)[0])
    np.testing.assert_allclose(weight[2], expected, rtol=1e-4)
    assert bias[2] == pytest.approx(-0.5 * bank.of(2)[0] @ expected, rel=1e-4)


@pytest.mark.parametrize("counts", [(1, 1, 1, 0, 0), (1, 0, 0, 0, 0)])
def test_one_feature_in_every_class_is_told(counts):
    with pytest.raises(UserError, match="features that vary within a class"):
        layer_of(made_bank(counts), np.zeros((1, 4)), [3])


def test_more_channels_than_features():
    bank = made_bank((3, 2, 2, 0, 0), dim=20)
    weight, bias = layer_of(bank, np.zeros((2, 20)), [3, 4])
    logits = bank.features @ weight.T + bias
    assert np.array_equal(logits.argmax(1), [0, 0, 0, 1, 1, 2, 2])
    with pytest.raises(UserError, match="shrinkage: 0.0` leaves the covariance of the 20"):
        layer_of(bank, np.zeros((2, 20)), [3, 4], shrinkage=0.0)


# Whole runs.

@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """A run in closed form behind a trained generator."""
    run = finished("custom").copy(tmp_path_factory.mktemp("closed") / "run")
    return run._replace(metrics=run.again(CLOSED))


@pytest.fixture(scope="module")
def ridge(run, tmp_path_factory):
    """A run without any training after stage 1."""
    run = run.copy(tmp_path_factory.mktemp("ridge") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "in_folder", None)  # no loop begins
        return run._replace(metrics=run.again(CLOSED, *RIDGE))


def standardized(run):
    """Real features by class, every class weighing alike in mean and deviation; and these two."""
    content = np.load(run.path("features", "bank.npz"))
    parts = np.split(content["features"].astype(np.float64), np.cumsum(content["counts"])[:-1])
    seen = [rows for rows in parts if len(rows)]
    mean = np.mean([rows.mean(0) for rows in seen], axis=0)
    deviation = np.sqrt(np.mean([((rows - mean) ** 2).mean(0) for rows in seen], axis=0))
    deviation[deviation < 1e-6 * deviation.max()] = 1
    return [(rows - mean) / deviation for rows in seen], mean, deviation


def final_predictions(run, points):
    """Classes that the final model gives to raw features."""
    state = run.weights()
    name, = (key for key in state if key.endswith("decoder.conv.weight"))
    return (points @ state[name][:, :, 0, 0].T + state[name.replace("weight", "bias")]).argmax(1)


def ridge_prototypes(run, real):
    """Ridge with a free intercept, by the normal equations."""
    vectors = run.open().context.embeddings.astype(np.float64)
    rows = np.concatenate([vectors, np.ones((5, 1))], axis=1)
    penalty = np.diag([0.3] * vectors.shape[1] + [0.0])
    targets = np.stack([item.mean(0) for item in real])
    weight = np.linalg.solve(rows[:3].T @ rows[:3] + penalty, rows[:3].T @ targets)
    return rows[UNSEEN] @ weight


def test_the_final_model_is_the_discriminant_of_the_bank_and_the_ridge(ridge):
    real, mean, deviation = standardized(ridge)
    prototypes = ridge_prototypes(ridge, real)
    points = np.random.default_rng(0).normal(size=(3000, len(mean)))
    points += np.concatenate([np.stack([rows.mean(0) for rows in real]), prototypes])[
        np.arange(3000) % 5]
    expected = by_density([*(rows.mean(0) for rows in real), *prototypes],
                          [np.cov(rows.T) for rows in real], points)
    found = final_predictions(ridge, points * deviation + mean)
    assert set(expected) == set(range(5)) and (found == expected).mean() > 0.999  # float32


def test_behind_a_trained_generator_prototypes_are_the_means_of_what_it_makes(run):
    real, mean, deviation = standardized(run)
    made = generate(trained_generator(run.open(CLOSED).context), 32, 0)
    points = np.random.default_rng(0).normal(size=(3000, len(mean)))
    points += np.concatenate([np.stack([rows.mean(0) for rows in real]), made.mean(1)])[
        np.arange(3000) % 5]
    expected = by_density([*(rows.mean(0) for rows in real), *made.mean(1)],
                          [np.cov(rows.T) for rows in real], points)
    assert (final_predictions(run, points * deviation + mean) == expected).mean() > 0.999


def test_nothing_of_a_training_is_left(ridge):
    for stage in ("generator", "classifier"):
        names = os.listdir(ridge.path(stage))
        assert set(names) <= {"model.pdparams", "stage.json", "relations.png"}, names
    assert read_json(ridge.path("generator", "stage.json"))["spread"].keys() == {
        "background", "cat", "dog", "cow", "car"}


def test_a_calibration_is_found_as_for_a_trained_layer(ridge, tmp_path):
    run = ridge.copy(tmp_path / "run")
    run.again(CLOSED, *RIDGE, "classifier.calibration=auto", "classifier.seen_cost=0.25")
    content = np.load(run.path("features", "bank.npz"))
    found = final_predictions(run, content["features"])
    labels = np.repeat(np.arange(5), content["counts"])
    lost = [np.isin(found[labels == c], UNSEEN).mean() for c in range(3)]
    assert np.mean(lost) == pytest.approx(0.25, abs=0.02)


def made_anew(run, *opts, **flags):
    return run.redo(*opts, **flags) & {"generator", "classifier"}


def test_keys_that_mean_nothing_make_nothing_anew(run, tmp_path):
    run = run.copy(tmp_path / "run")
    assert not made_anew(run, CLOSED, "classifier.iters=9", "classifier.batch_size=3",
                         "classifier.unseen_share=0.5", "classifier.class_balance=sqrt",
                         "classifier.loss.coef=[2.0]", "classifier.optimizer.type=SGD",
                         "classifier.lr_scheduler.learning_rate=0.5")
    assert made_anew(run, CLOSED, "classifier.shrinkage=0.2") == {"classifier"}
    assert made_anew(run, CLOSED, "classifier.num_generated=16") == {"classifier"}
    assert made_anew(run, CLOSED, "classifier.num_generated=16",
                     "classifier.seed=1") == {"classifier"}
    # Nor does a layer that is trained know of shrinkage.
    assert made_anew(run, "classifier.seed=1") == {"classifier"}
    assert not made_anew(run, "classifier.seed=1", "classifier.shrinkage=3.0")


def test_without_training_no_seed_and_no_schedule_means_anything(ridge, tmp_path):
    run = ridge.copy(tmp_path / "run")
    assert not made_anew(run, CLOSED, *RIDGE, "generator.seed=7", "classifier.seed=8",
                         "generator.iters=9", "generator.num_samples=3",
                         "generator.loss.coef=[1, 2, 3]", "classifier.num_generated=9",
                         "generator.lr_scheduler.learning_rate=0.5")
    before = run.weights("generator")
    assert made_anew(run, CLOSED, *CONVEX) == {"generator", "classifier"}
    assert set(before) == {"spread", "weight", "origin", "centre"}
    assert set(run.weights("generator")) == {"spread", "seen_embeddings", "seen_prototypes"}


def test_prototypes_in_the_hull_are_those_of_the_layer(ridge, tmp_path):
    run = ridge.copy(tmp_path / "run")
    assert made_anew(run, CLOSED, *RIDGE, "generator.unseen_prototypes=hull",
                     "generator.outside_hull=0.0") == {"classifier"}


@pytest.mark.parametrize("opts", [RIDGE, CONVEX])
def test_a_layer_is_trained_behind_them_too(run, opts, tmp_path):
    run = run.copy(tmp_path / "run")
    run.again(*opts)
    assert os.path.isdir(run.path("classifier", "iter_4"))
    first = run.weights("classifier")
    run.again(*opts, "classifier.seed=5")
    assert tiny_runs.differing(first, run.weights("classifier"))


def test_the_prototypes_of_a_run_are_those_of_its_generator(ridge):
    task = trained_generator(ridge.open(CLOSED, *RIDGE).context)
    assert isinstance(task.generator, RidgePrototypes)
    real, _, _ = standardized(ridge)
    for seed in (0, 1):
        np.testing.assert_allclose(unseen_prototypes(task, 8, seed),
                                   ridge_prototypes(ridge, real), rtol=1e-3, atol=1e-3)


# Flags and what is refused.

@pytest.mark.parametrize("stage, opts, flags", [
    ("classifier", (CLOSED,), ["iters", "batch_size", "learning_rate", "save_interval"]),
    ("generator", RIDGE, ["iters", "learning_rate", "log_iters"])])
def test_flags_of_training_are_refused(run, stage, opts, flags):
    for flag in flags:
        with pytest.raises(UserError, match=f"--stage {stage}: leave out --{flag}, for the .* is "
                                            f"computed, not trained"):
            train.main(run.recipe.argv(*opts, save_dir=run.folder, stage=stage, **{flag: 1}))


@pytest.mark.parametrize("name, opts, message", [
    ("csrl_shapes", ("zero_shot.features.samples_per_class=1",),
     "samples_per_class: 1` there is none"),
    ("csrl_shapes", ("classifier.shrinkage=-0.1",), "shrinkage: -0.1` must be greater than or"),
    ("csrl_shapes", ("classifier.shrinkage=much",), "shrinkage: much` must be a valid number"),
    ("csrl_shapes_selftraining", (), "for a layer in closed form is not trained"),
    ("spnet/spnet_shapes", (), "mode: closed_form` works on generated features, of which"),
    ("csrl_shapes", (*RIDGE[:1], "generator.relation=edges"),
     "edges` compares relations that RidgePrototypes does not learn"),
    ("csrl_shapes", ("generator.model={'type': 'RidgePrototypes', 'ridge': 0}",
                     "generator.relation=prototypes"), "ridge must be a number of at least"),
])
def test_what_does_not_go_together_is_refused_as_the_config_is_read(name, opts, message):
    with pytest.raises(UserError, match=message):
        ZeroShotConfig(tiny_runs.config_path(name), opts=[CLOSED, *opts])


def test_a_segmentor_without_a_bias_is_refused_before_anything_is_trained(tmp_path):
    recipe = tiny_runs.shapes(str(tmp_path / "data"), str(tmp_path / "cache"),
                              "segmentors/pp_liteseg_shapes")
    recipe = recipe._replace(opts=tuple(opt for opt in recipe.opts
                                        if not opt.startswith("model.")))
    with pytest.raises(UserError, match="the last layer of this segmentor has no bias"):
        train.main(recipe.argv(CLOSED, save_dir=str(tmp_path / "run")))
    assert not os.path.exists(tmp_path / "run" / "segmentor")


@pytest.mark.parametrize("include", ["ridge", "convex", "mean_prototypes", "closed_form"])
@pytest.mark.parametrize("name", ["csrl_shapes", "csrl_custom", "zs3net/zs3net_voc_unseen2",
                                  "csrl_voc_unseen4", "ablation/all_shapes"])
def test_the_files_to_include_go_with_any_config(include, name):
    opts = ["zero_shot.unseen=car", "zero_shot.class_names=['a','car']"] \
        if name == "csrl_custom" else []
    config = ZeroShotConfig(tiny_runs.config_path(name), opts=opts,
                            includes=[tiny_runs.config_path(f"_base_/{include}")])
    section = config.section("generator")
    if include == "closed_form":
        assert config.section("classifier").mode == "closed_form" and not config.leaks
    else:
        kind = {"ridge": RidgePrototypes, "convex": ConvexPrototypes,
                "mean_prototypes": MeanPrototypes}[include]
        assert section.model["type"] == kind.__name__ and section.relation == "prototypes"
        assert section.unseen_prototypes == "free"
