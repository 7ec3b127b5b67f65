"""A segmentor with a second head that reads embeddings off its features, and is dropped."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddleseg.cvlibs import manager
from paddleseg.models.losses import CrossEntropyLoss

from helpers.toy_segmentor import NUM_CLASSES, SEEN, UNSEEN, Toy, embeddings, images, labels
from paddle_csrl.models import CSRLTinyNet
from paddle_csrl.models.embedding_head import EmbeddingHead


def build(rows=None, seed=0, weight=0.5, **kwargs):
    paddle.seed(seed)
    rows = embeddings() if rows is None else rows
    return EmbeddingHead(Toy(**kwargs), "head.0", rows, SEEN, weight)


def losses(number=1):
    return {"types": [CrossEntropyLoss()] * number, "coef": [1.0] * number}


def products(model, batch):
    """float64 [B, C, H, W]: e_c·p of resized projections; by NumPy up to the resizing."""
    features = model.segmentor.stem(batch).numpy().astype(np.float64)
    layer = dict(model.segmentor.named_sublayers())["head.0"].projection
    small = np.einsum("kd,bdij->bkij", layer.weight.numpy()[:, :, 0, 0], features)
    small += layer.bias.numpy()[:, None, None]
    large = F.interpolate(paddle.to_tensor(small), batch.shape[2:], mode="bilinear").numpy()
    return np.einsum("ck,bkij->bcij", embeddings().astype(np.float64), large)


def test_in_evaluation_it_is_the_segmentor():
    model, batch = build(), images()
    model.eval()
    [found] = model(batch)
    stock = model.stock()
    stock.eval()
    np.testing.assert_array_equal(found.numpy(), stock(batch)[0].numpy())


@pytest.mark.parametrize("auxiliary", [(), (NUM_CLASSES, 3)])
def test_in_training_the_products_stand_behind_the_segmentors_outputs(auxiliary):
    model, batch = build(auxiliary=auxiliary), images()
    *outputs, scores = model(batch)
    expected = products(model, batch)
    np.testing.assert_allclose(scores.numpy()[:, SEEN], expected[:, SEEN], atol=1e-5)
    assert (scores.numpy()[:, UNSEEN] < -9000).all()
    for found, wanted in zip(outputs, model.stock()(batch), strict=True):
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-6)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_its_term_is_a_cross_entropy_over_seen_classes(weight):
    model, batch, label = build(weight=weight), images(), labels()
    stock, own = model.loss_computation(model(batch), losses(), {"img": batch, "label": label})
    scores, total = products(model, batch)[:, SEEN], []
    for n, i, j in np.ndindex(*label.shape):
        if int(label[n, i, j]) != 255:
            here = scores[n, :, i, j]
            total.append(np.log(np.exp(here).sum()) - here[SEEN.index(int(label[n, i, j]))])
    # PaddleSeg divides by the number of labelled pixels.
    assert float(own) == pytest.approx(weight * np.mean(total), rel=1e-4)
    logits = model.stock()(batch)[0]
    assert float(stock) == pytest.approx(float(CrossEntropyLoss()(logits, label)), rel=1e-5)


def test_no_embedding_of_an_unseen_class_has_an_influence():
    changed = embeddings()
    changed[UNSEEN] = 7.0
    gradients = []
    for rows in (embeddings(), changed):
        model, data = build(rows), {"img": images(), "label": labels()}
        sum(model.loss_computation(model(data["img"]), losses(), data)).backward()
        gradients.append({name: value.grad.numpy() for name, value in model.named_parameters()})
    one, other = gradients
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    assert all(np.abs(value).max() > 0 for value in one.values())  # also the projection learns


def test_the_stock_segmentor_has_the_names_and_weights_it_had():
    paddle.seed(0)
    before = Toy().state_dict()
    after = build().stock().state_dict()
    assert list(before) == list(after)
    for name, value in before.items():
        np.testing.assert_array_equal(value.numpy(), after[name].numpy())


def test_labels_outside_of_a_segmentors_own_losses():
    """A segmentor that computes its losses itself goes on doing so."""
    class Own(Toy):
        def loss_computation(self, logits_list, losses, data):
            return [logits_list[0].mean() * 0 + 3.5]

    paddle.seed(0)
    model = EmbeddingHead(Own(), "head.0", embeddings(), SEEN, 0.5)
    data = {"img": images(), "label": labels()}
    terms = model.loss_computation(model(data["img"]), losses(), data)
    assert float(terms[0]) == 3.5 and len(terms) == 2


@pytest.mark.parametrize("name, arguments, outputs, layer", [
    ("DeepLabV3P", {"backbone_indices": [0, 1], "aspp_ratios": [1, 2, 4, 6],
                    "align_corners": False}, 1, "head.decoder.conv"),
    ("FCN", {"backbone_indices": [1]}, 1, "head.cls")])
def test_heads_of_paddleseg(name, arguments, outputs, layer):
    model = EmbeddingHead(
        manager.MODELS[name](num_classes=NUM_CLASSES, backbone=CSRLTinyNet(width=8), **arguments),
        layer, embeddings(), SEEN, 0.5)
    found = model(images(side=32))
    assert [tuple(output.shape) for output in found] == [(2, NUM_CLASSES, 32, 32)] * (outputs + 1)
