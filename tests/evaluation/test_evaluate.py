"""Scoring: the same counts as PaddleSeg's own evaluation, over every image once."""

import numpy as np
import paddle
import paddleseg.core
import pytest
from paddle import nn
from paddleseg.datasets import Dataset
from paddleseg.models import DeepLabV3P
from paddleseg.transforms import Normalize, Padding, Resize

from helpers.fabricated import make_dataset
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation import evaluate as module
from paddle_csrl.evaluation.evaluate import evaluate, shard
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.models.tiny_net import CSRLTinyNet


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_dataset(str(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def model():
    paddle.seed(3)
    return DeepLabV3P(5, CSRLTinyNet(4), (0, 1), (1, 2))


def make_val(root, *transforms):
    return Dataset("val", root, [*transforms, Normalize()], 5, val_path=f"{root}/val.txt")


def run(model, dataset, **options):
    return evaluate(model, dataset, ZeroShotEvaluator(5, [3], absent="skip"), **options)


@pytest.mark.parametrize("options", [
    {},
    {"is_slide": True, "crop_size": [32, 32], "stride": [16, 24]},
    {"aug_eval": True, "scales": [0.75, 1.25], "flip_horizontal": True},
    {"aug_eval": True, "scales": 1.5, "flip_vertical": True, "is_slide": True,
     "crop_size": [40, 40], "stride": [40, 40]},
    {"scales": [0.5], "flip_horizontal": True},  # without aug_eval they mean nothing
], ids=str)
@pytest.mark.parametrize("transforms", [
    (), (Resize([48, 48]),), (Padding([96, 96]),)], ids=["plain", "resized", "padded"])
def test_class_ious_are_those_of_paddleseg(root, model, options, transforms):
    dataset = make_val(root, *transforms)
    _, accuracy, theirs, _, _ = paddleseg.core.evaluate(
        model, dataset, print_detail=False, **options)
    scores = run(model, dataset, **options).compute()
    np.testing.assert_array_equal(scores["class_iou"], np.float64(theirs))
    np.testing.assert_allclose(scores["pixel_accuracy"], float(accuracy), rtol=1e-6)
    assert len(np.unique(theirs)) > 1  # the model does not say one class everywhere


def test_the_confusion_counts_every_labelled_pixel_once(root, model):
    dataset = make_val(root)
    labelled = sum(int((dataset[i]["label"] != 255).sum()) for i in range(len(dataset)))
    assert run(model, dataset).confusion.sum() == labelled > 0


def test_it_runs_in_eval_mode_without_touching_the_model(root, model):
    model.train()
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    run(model, make_val(root))
    assert not model.training
    assert all(np.array_equal(before[name], value.numpy())
               for name, value in model.state_dict().items())


def test_listeners_get_index_prediction_and_label_at_full_size(root, model):
    dataset, heard = make_val(root, Resize([48, 48])), []
    evaluator = run(model, dataset, on_prediction=lambda *given: heard.append(given))
    assert [index for index, _, _ in heard] == list(range(len(dataset)))
    again = ZeroShotEvaluator(5, [3], absent="skip")
    for index, prediction, label in heard:
        assert prediction.shape == label.shape and prediction.ndim == 2
        assert np.array_equal(label, dataset[index]["label"].squeeze())
        again.update(prediction, label)
    assert np.array_equal(again.confusion, evaluator.confusion)


def test_counts_are_added_to_those_the_evaluator_holds(root, model):
    dataset, evaluator = make_val(root), ZeroShotEvaluator(5, [3])
    once = evaluate(model, dataset, evaluator).confusion.copy()
    assert np.array_equal(evaluate(model, dataset, evaluator).confusion, 2 * once)


def test_half_precision_on_cpu_changes_nothing_but_rounding(root, model):
    dataset = make_val(root)
    full = run(model, dataset).compute()["pixel_accuracy"]
    half = run(model, dataset, precision="fp16").compute()["pixel_accuracy"]
    assert abs(full - half) < 0.05


def test_a_network_of_other_sizes_is_named_with_what_helps(root):
    class Halves(nn.Layer):
        def forward(self, x):
            return [x[:, :, ::2, ::2].tile([1, 2, 1, 1])[:, :5]]

    with pytest.raises(UserError, match=r"Halves predicts .* x .*`val_dataset.transforms`"):
        run(Halves(), make_val(root))


def test_a_network_that_does_not_run_on_an_image_is_named_with_its_size(root):
    class Fails(nn.Layer):
        def forward(self, x):
            raise ValueError("no such shape")

    dataset = make_val(root)
    height, width = dataset[0]["img"].shape[1:]
    with pytest.raises(UserError, match=rf"Fails does not run on an image of {height} x {width} "
                                        r"pixels .*no such shape\); .*`val_dataset.transforms`"):
        run(Fails(), dataset)


def test_one_process_takes_everything():
    assert [item for item in shard(range(7))] == list(range(7))


@pytest.mark.parametrize("size, ranks", [(7, 3), (2, 4), (8, 2), (0, 2)])
def test_every_sample_belongs_to_exactly_one_process(monkeypatch, size, ranks):
    shares = []
    for rank in range(ranks):
        monkeypatch.setattr(module.paddle.distributed, "get_world_size", lambda: ranks)
        monkeypatch.setattr(module.paddle.distributed, "get_rank", lambda: rank)
        share = shard(range(size))
        assert [share[i] for i in range(len(share))] == list(share.indices)
        shares.append(list(share.indices))
    assert sorted(sum(shares, [])) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_shares_of_several_processes_add_up_to_the_whole(monkeypatch, root, model):
    dataset, whole = make_val(root), run(model, make_val(root)).confusion
    total, heard = np.zeros_like(whole), []
    for rank in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(module.paddle.distributed, "get_world_size", lambda: 3)
            patch.setattr(module.paddle.distributed, "get_rank", lambda: rank)
            patch.setattr(module.paddle.distributed, "all_reduce", lambda tensor: None)
            total += run(model, dataset,
                         on_prediction=lambda index, *_: heard.append(index)).confusion
    assert np.array_equal(total, whole)
    assert sorted(heard) == list(range(len(dataset)))
