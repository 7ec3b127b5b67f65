"""Two processes that talk by Gloo give what one process gives."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import paddle
import pytest
import tiny_runs
from paddle_csrl.core.feature_bank import FeatureBank
from paddle_csrl.losses import MMDLoss
from paddle_csrl.parallel import Share
from paddle_csrl.utils import read_json
from visualdl import LogReader


#: A generator whose classes do not know of each other, and losses on its prototypes.
OTHER = ("generator.model={'type': 'MLPGenerator', 'hidden_dim': 16, 'noise_dim': 4}",
         "generator.relation=prototypes", "generator.loss.coef=[1, 1]",
         "generator.loss.types=[{'type': 'MMDLoss', 'squared': False}, "
         "{'type': 'PrototypeNormLoss'}]")

SELF = ("self_training={'share': 0.5}",)


@pytest.fixture(scope="module")
def pair(finished, tmp_path_factory):
    """A run of one process, and of two: from its segmentor on, and from the beginning."""
    base = tmp_path_factory.mktemp("parallel")
    one = finished("custom")
    two = one.copy(base / "two")
    for name in ("features", "generator", "classifier", "predictions", "scores"):
        shutil.rmtree(two.path(name))
    for name in ("model.pdparams", "metrics.json"):
        os.remove(two.path(name))
    model = one.path("model.pdparams")
    one.copy(base / "other")
    one.copy(base / "self")
    launch(base, [
        ["train", *one.recipe.argv(save_dir=two.folder)],
        ["train", *one.recipe.argv("zero_shot.features.dtype=float16",
                                  save_dir=str(base / "whole"), iters=2)],
        ["train", *one.recipe.argv(*OTHER, save_dir=str(base / "other"), stage="generator")],
        ["train", *one.recipe.argv(*SELF, save_dir=str(base / "self"), stage="self_training")],
        ["val", *one.recipe.argv(model_path=model, out=str(base / "val.json"))],
    ])
    return one, two, base


def launch(base, lines):
    path = str(base / "lines.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(lines, file)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(
        [tiny_runs.ROOT, os.path.join(tiny_runs.ROOT, "tests")]), "OMP_NUM_THREADS": "1"}
    script = os.path.join(tiny_runs.ROOT, "tests", "run_tools.py")
    done = subprocess.run(
        [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir",
         str(base / "logs"), script, path], env=environment, capture_output=True, text=True,
        timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def states(one, two, *name):
    return [paddle.load(run.path(*name)) for run in (one, two)]


def test_the_bank_is_bit_identical(pair):
    one, two, _ = pair
    first, second = (FeatureBank.load(run.path("features", "bank.npz")) for run in (one, two))
    for name in ("features", "counts", "pixel_counts"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert (first.counts == 64).any(), "no class has more pixels than the bound"


@pytest.mark.parametrize("name", [("generator", "model.pdparams"),
                                  ("classifier", "model.pdparams"), ("model.pdparams",)])
def test_weights_are_the_same_up_to_rounding(pair, name):
    first, second = states(*pair[:2], *name)
    assert set(first) == set(second)
    for key in first:
        np.testing.assert_allclose(second[key].numpy(), first[key].numpy(), rtol=1e-3, atol=2e-5,
                                   err_msg=key)


def test_the_generator_moved(pair):
    # Else equal weights would mean nothing: two processes differ by rounding, and only by that.
    first, second = states(*pair[:2], "generator", "model.pdparams")
    checkpoint = paddle.load(pair[0].path("generator", "iter_4", "model.pdparams"))
    assert any(np.abs(first[key].numpy() - second[key].numpy()).max() > 0 for key in first)
    assert all(np.array_equal(checkpoint[f"generator.{key}"].numpy(), first[key].numpy())
               for key in first)


def test_scores_are_the_same(pair):
    one, two, base = pair
    assert read_json(two.path("metrics.json"))["images"] == one.metrics["images"]
    evaluated = read_json(str(base / "val.json"))
    for key in ("seen_miou", "unseen_miou", "hiou", "pixel_accuracy", "classes"):
        assert evaluated[key] == one.metrics[key], key


def test_only_the_first_process_writes(pair):
    def written(run):  # pictures are of the images that the first process saw
        return [re.sub(r"vdlrecords\.\d+", "vdlrecords", name)
                for name in tiny_runs.files(run.folder) if not name.startswith("predictions")]

    assert written(pair[0]) == written(pair[1])


def test_the_losses_on_record_are_the_whole_ones(pair):
    first, second = (scalars(run.path("generator")) for run in pair[:2])
    assert {"Train/loss", "Train/MMDLoss", "Train/PairwiseRelationLoss"} <= set(first)
    for tag in (tag for tag in first if "loss" in tag.lower()):
        np.testing.assert_allclose(second[tag], first[tag], rtol=1e-4, err_msg=tag)


def scalars(folder):
    path, = (os.path.join(folder, name) for name in os.listdir(folder) if "vdlrecords" in name)
    reader = LogReader(file_path=path)
    return {tag: [item.value for item in reader.get_data("scalar", tag)]
            for tag in reader.get_tags()["scalar"]}


def test_an_independent_generator_and_the_losses_on_prototypes(pair):
    one, _, base = pair
    alone = one.copy(base / "alone")
    alone.again(*OTHER, stage="generator")
    first = paddle.load(alone.path("generator", "model.pdparams"))
    second = paddle.load(str(base / "other" / "generator" / "model.pdparams"))
    assert list(first) == ["mlp.0.weight", "mlp.0.bias", "mlp.3.weight", "mlp.3.bias"]
    for key in first:
        np.testing.assert_allclose(second[key].numpy(), first[key].numpy(), rtol=1e-3, atol=2e-5)


def test_self_training_learns_from_the_same_pseudo_labels(pair):
    one, _, base = pair
    alone = one.copy(base / "alone_self")
    alone.again(*SELF, stage="self_training")
    first, second = (paddle.load(os.path.join(folder, "self_training", "model.pdparams"))
                     for folder in (alone.folder, base / "self"))
    for key in first:
        np.testing.assert_allclose(second[key].numpy(), first[key].numpy(), rtol=1e-3, atol=2e-5)


def test_all_stages_run_on_two_processes(pair):
    whole = pair[2] / "whole"
    metrics = read_json(str(whole / "metrics.json"))
    assert metrics["images"] == pair[0].metrics["images"] and metrics["seen_miou"] is not None
    assert FeatureBank.load(str(whole / "features" / "bank.npz")).features.dtype == np.float16
    for stage in tiny_runs.STAGES:
        assert read_json(str(whole / stage / "stage.json"))["finished"]


def test_shares_are_a_partition():
    rows = [Share(7, rank, 3).rows.tolist() for rank in range(3)]
    assert rows == [[0, 3, 6], [1, 4], [2, 5]]
    assert [Share(7, rank, 3).before(4).tolist() for rank in range(3)] == [[0, 3], [1], [2]]


def test_a_process_without_a_class_holds_one_that_counts_nowhere():
    share = Share(2, rank=3, ranks=4)
    assert share.is_empty and share.rows.tolist() == [0] and share.before(2).tolist() == [-1]
    assert Share(5, rank=2, ranks=4).before(2).tolist() == [-1]


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("bandwidths", ["auto", [1.0, 2.0]])
def test_shares_of_the_point_loss_add_up_with_their_gradients(bandwidths, squared):
    rng = np.random.default_rng(0)
    real = paddle.to_tensor(rng.normal(size=(5, 6, 3)).astype(np.float32))
    counts = paddle.to_tensor(np.array([6, 4, 0, 1, 6]))
    values = rng.normal(1, 2, (5, 4, 3)).astype(np.float32)
    loss = MMDLoss(bandwidths, squared=squared)

    def value_and_gradient(rows):
        generated = paddle.to_tensor(values[rows.clip(0)], stop_gradient=False)
        value = loss(generated, real, counts, rows)
        value.backward()
        return float(value), generated.grad.numpy()

    whole = paddle.to_tensor(values, stop_gradient=False)
    expected = loss(whole, real, counts)
    expected.backward()
    parts = [value_and_gradient(np.array(rows)) for rows in ([0, 3], [1, 4], [2], [-1])]
    assert sum(value for value, _ in parts) == pytest.approx(float(expected), rel=1e-5)
    gradients = np.concatenate([gradient for _, gradient in parts])
    np.testing.assert_allclose(gradients[[0, 2, 4, 1, 3]], whole.grad.numpy(), atol=1e-6)
    assert parts[3][0] == 0 and not gradients[5].any()
