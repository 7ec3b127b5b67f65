"""A segmentor that projects onto class embeddings: its scores, its training, its stock form."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from paddleseg.cvlibs import manager
from paddleseg.models import DeepLabV3P
from paddleseg.models.losses import CrossEntropyLoss

from helpers.toy_segmentor import (
    DIMENSIONS,
    NUM_CLASSES,
    SEEN,
    UNSEEN,
    Toy,
    embeddings,
    images,
    labels,
)
from paddle_csrl.errors import UserError
from paddle_csrl.losses import CosineRegressionLoss
from paddle_csrl.models import ProjectionSegmentor
from paddle_csrl.models.projection_segmentor import cosines

LOSSES = {"dot": CrossEntropyLoss, "cosine": CosineRegressionLoss}


def build(similarity, rows=None, seed=0, **kwargs):
    """The projecting toy; one ``seed`` gives one model, whatever the embeddings."""
    paddle.seed(seed)
    rows = embeddings() if rows is None else rows
    return ProjectionSegmentor(Toy(**kwargs), "head.0", rows, SEEN, similarity)


def projections(model, batch):
    """float64 [B, d_w, H, W]: projections at the layer, resized; by NumPy up to the resizing."""
    features = model.segmentor.stem(batch).numpy().astype(np.float64)
    layer = model.layer.projection
    weight, bias = layer.weight.numpy()[:, :, 0, 0], layer.bias.numpy()
    small = np.einsum("kd,bdij->bkij", weight, features) + bias[:, None, None]
    return F.interpolate(paddle.to_tensor(small), batch.shape[2:], mode="bilinear").numpy()


def cosines_by_loop(projected, rows):
    found = np.zeros((len(projected), len(rows), *projected.shape[2:]))
    for n, c, i, j in np.ndindex(found.shape):
        p, e = projected[n, :, i, j], rows[c].astype(np.float64)
        found[n, c, i, j] = p @ e / np.linalg.norm(p) / np.linalg.norm(e)
    return found


# Scores.

def test_dot_scores_are_products_with_the_embeddings():
    model, batch = build("dot"), images()
    expected = np.einsum("ck,bkij->bcij", embeddings(), projections(model, batch))
    model.eval()
    np.testing.assert_allclose(model(batch)[0].numpy(), expected, atol=1e-5)
    model.train()
    found = model(batch)[0].numpy()
    np.testing.assert_allclose(found[:, SEEN], expected[:, SEEN], atol=1e-5)
    assert (found[:, UNSEEN] < -9000).all()


def test_cosine_scores_in_training_are_cosines_after_resizing():
    model, batch = build("cosine"), images()
    expected = cosines_by_loop(projections(model, batch), embeddings())
    found = model(batch)[0].numpy()
    np.testing.assert_allclose(found[:, SEEN], expected[:, SEEN], atol=1e-5)
    assert (found[:, UNSEEN] < -9000).all()


def test_the_nearest_embedding_by_cosine_wins():
    """Exactly that of the resized projection, which is not that of cosines taken before."""
    model, batch = build("cosine"), images(side=32)
    rows = embeddings()
    projected = projections(model, batch)
    nearest = cosines_by_loop(projected, rows).argmax(1)
    model.eval()
    decided = model(batch)[0].numpy().argmax(1)
    # Float32 may turn ties, which random numbers all but exclude.
    assert (decided == nearest).mean() > 0.999 and len(np.unique(nearest)) >= 3
    small = projected[:, :, 1::4, 1::4]
    early = F.interpolate(paddle.to_tensor(cosines_by_loop(small, rows)), [32, 32],
                          mode="bilinear").numpy().argmax(1)
    assert (early != nearest).mean() > 0.001


def test_the_length_of_embeddings_matters_to_the_dot_alone():
    longer = embeddings() * np.float32([[1], [2], [3], [1], [1]])
    batch = images()
    for similarity, same in (("dot", False), ("cosine", True)):
        found = [build(similarity, rows)(batch)[0].numpy()[:, SEEN]
                 for rows in (embeddings(), longer)]
        assert np.allclose(*found, atol=1e-5) is same


# Training.

@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_unseen_embeddings_reach_no_gradient(similarity):
    """Neither the loss nor any gradient changes by a bit with the embeddings of unseen classes."""
    found = []
    for seed in (0, 1):
        rows = embeddings()
        rows[UNSEEN] = embeddings(seed)[UNSEEN] * (1 + 9 * seed)
        model = build(similarity, rows)
        loss = LOSSES[similarity]()(model(images())[0], labels())
        loss.backward()
        found.append([loss.numpy(), *(item.grad.numpy() for item in model.parameters())])
    for one, other in zip(*found):
        assert one.tobytes() == other.tobytes()
    assert all(np.abs(item).max() > 0 for item in found[0][1:])


def test_seen_embeddings_do_reach_it():
    """The control of the one above."""
    losses = []
    for seed in (0, 1):
        rows = embeddings()
        rows[SEEN] = embeddings(seed)[SEEN]
        losses.append(float(CrossEntropyLoss()(build("dot", rows)(images())[0], labels())))
    assert losses[0] != losses[1]


def test_the_softmax_runs_over_seen_classes_alone():
    model, batch, truth = build("dot"), images(), labels().numpy()
    scores = np.einsum("ck,bkij->bcij", embeddings(), projections(model, batch))[:, SEEN]
    probability = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    terms = [-np.log(probability[n, SEEN.index(truth[n, i, j]), i, j])
             for n, i, j in np.ndindex(truth.shape) if truth[n, i, j] != 255]
    loss = float(CrossEntropyLoss()(model(batch)[0], paddle.to_tensor(truth)))
    assert loss == pytest.approx(np.mean(terms), rel=1e-4)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_a_batch_without_labelled_pixel_trains_nothing_and_breaks_nothing(similarity):
    model = build(similarity)
    loss = LOSSES[similarity]()(model(images())[0], paddle.full([2, 16, 16], 255, "int64"))
    loss.backward()
    assert float(loss) == 0
    assert all(not item.grad.numpy().any() for item in model.parameters())


def test_projections_without_length_give_a_finite_gradient():
    model = build("cosine")
    for item in model.layer.parameters():
        item.set_value(paddle.zeros_like(item))
    scores = model(images())[0]
    CosineRegressionLoss()(scores, labels()).backward()
    assert not scores.numpy()[:, SEEN].any()
    assert all(np.isfinite(item.grad.numpy()).all() for item in model.parameters())


def test_cosines_of_half_precision_do_not_overflow():
    rows = np.random.default_rng(0).normal(0, 1000, (1, DIMENSIONS, 2, 2)).astype(np.float16)
    unit = embeddings() / np.linalg.norm(embeddings(), axis=1, keepdims=True)
    found = cosines(paddle.to_tensor(rows), paddle.to_tensor(unit[:, :, None, None]))
    assert found.dtype == paddle.float32
    np.testing.assert_allclose(found.numpy(), cosines_by_loop(rows.astype(np.float64), unit),
                               atol=1e-5)


def test_cosines_of_double_precision_keep_it():
    rows = np.random.default_rng(0).normal(size=(2, DIMENSIONS, 3, 2))
    unit = (embeddings() / np.linalg.norm(embeddings(), axis=1, keepdims=True)).astype("float64")
    found = cosines(paddle.to_tensor(rows), paddle.to_tensor(unit[:, :, None, None]))
    np.testing.assert_allclose(found.numpy(), cosines_by_loop(rows, unit), rtol=1e-6, atol=1e-7)


def test_auxiliary_outputs_hide_unseen_classes_too():
    model, batch = build("dot", auxiliary=(NUM_CLASSES, 1)), images()
    plain = [layer.numpy() for layer in model.segmentor(batch)]
    _, second, edge = (output.numpy() for output in model(batch))
    np.testing.assert_allclose(second[:, SEEN], plain[1][:, SEEN], atol=1e-5)
    assert (second[:, UNSEEN] < -9000).all()
    np.testing.assert_array_equal(edge, plain[2])
    model.eval()
    for output, expected in zip(model(batch), plain):
        np.testing.assert_allclose(output.numpy(), expected, atol=1e-5)


# The stock form.

BACKBONES = {"CSRLTinyNet": ({"width": 4}, (0, 1)), "ResNet50_vd": ({}, (0, 3)),
             "MixVisionTransformer_B0": ({}, (0, 3)), "STDC1": ({}, (1, 4))}


def deeplab(name):
    kwargs, indices = BACKBONES[name]
    with paddle.utils.unique_name.guard():
        paddle.seed(3)
        model = DeepLabV3P(NUM_CLASSES, manager.BACKBONES[name](**kwargs), indices,
                           aspp_ratios=(1, 2, 3, 4))
    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            layer._momentum = 0.0  # its statistics are those of the last batch
    return model


@pytest.mark.parametrize("similarity, name", [
    ("dot", "CSRLTinyNet"), ("cosine", "CSRLTinyNet"), ("cosine", "ResNet50_vd"),
    ("dot", "MixVisionTransformer_B0"), ("dot", "STDC1")])
def test_deeplab_over_any_backbone_trains_and_folds(similarity, name):
    model = ProjectionSegmentor(deeplab(name), "head.decoder.conv", embeddings(), SEEN, similarity)
    batch, truth = images(side=32), labels(side=32)
    stem = model.parameters()[0]
    before = stem.numpy().copy(), model.layer.projection.weight.numpy().copy()
    optimizer = paddle.optimizer.SGD(0.01, model.parameters())
    for given in (truth, paddle.full_like(truth, 255)):
        loss = LOSSES[similarity]()(model(batch)[0], given)
        loss.backward()
        assert np.isfinite(float(loss))
        optimizer.step()
        optimizer.clear_grad()
    for old, new in zip(before, (stem, model.layer.projection.weight)):
        assert np.isfinite(new.numpy()).all() and (old != new.numpy()).any()
    model(batch)  # fits the statistics of batch norm
    model.eval()
    scores = model(batch)[0].numpy()
    scale = float(np.abs(scores).max())  # depends on the statistics of two tiny images
    folded = model.fold(calibration=scale / 4)
    stock = deeplab(name)
    assert list(folded.state_dict()) == list(stock.state_dict())
    stock.set_state_dict(folded.state_dict())
    stock.eval()
    scores[:, SEEN] -= scale / 4
    np.testing.assert_allclose(stock(batch)[0].numpy() / scale, scores / scale, atol=1e-4)


def test_the_folded_layer_is_the_product_of_embeddings_and_projection():
    model = build("cosine")
    projection, rows = model.layer.projection, embeddings().astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    layer = model.fold(0.5).head[0]
    np.testing.assert_allclose(layer.weight.numpy()[:, :, 0, 0],
                               rows @ projection.weight.numpy()[:, :, 0, 0], rtol=1e-5, atol=1e-6)
    expected = rows @ projection.bias.numpy() - 0.5 * np.isin(np.arange(NUM_CLASSES), SEEN)
    np.testing.assert_allclose(layer.bias.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_layer_without_bias_stays_without():
    model, batch = build("dot", bias_attr=False), images()
    model.eval()
    scores = model(batch)[0].numpy()
    with pytest.raises(UserError, match="`classifier.calibration: 0.5` needs a bias, .* head.0 of "
                                        "Toy has not"):
        model.fold(0.5)
    folded = model.fold()
    assert list(folded.state_dict()) == list(Toy(bias_attr=False).state_dict())
    np.testing.assert_allclose(folded(batch)[0].numpy(), scores, atol=1e-5)


def test_the_embeddings_are_no_weights():
    names = list(build("dot").state_dict())
    assert names == ["segmentor.stem.weight", "segmentor.stem.bias",
                     "segmentor.head.0.projection.weight", "segmentor.head.0.projection.bias"]


# Mistakes.

def test_an_embedding_without_direction_is_refused():
    rows = embeddings()
    rows[3] = 0
    with pytest.raises(UserError, match="that of class id 3 is zero"):
        build("cosine", rows)
    assert build("dot", rows)
