"""ZS3Net's loop, against which benchmarks/zs3net_loop.py times stages 2 and 3."""

import math

import numpy as np
import pytest
import torch

from helpers import zs3_loop

pytestmark = pytest.mark.torch
CLASSES, UNSEEN = 4, [3]
BANDWIDTHS = [2, 5, 10, 20, 40, 80]


@pytest.fixture
def batch():
    """Two images of 6 × 6: classes 0 and 1, then class 2 alone; features lie apart by class."""
    torch.manual_seed(0)
    labels = torch.tensor([[[0] * 6] * 2 + [[1] * 6] * 4, [[2] * 6] * 6])
    features = 0.1 * torch.randn(2, zs3_loop.FEATURE, 6, 6) + 0.2 * labels[:, None]
    return features, labels


@pytest.fixture
def loop():
    torch.manual_seed(1)
    return zs3_loop.Loop(torch.nn.functional.normalize(torch.randn(CLASSES, zs3_loop.EMBED)),
                         UNSEEN)


def copied(layer):
    return [value.clone() for value in layer.state_dict().values()]


def changed(layer, before):
    return [not torch.equal(old, new) for old, new in zip(before, layer.state_dict().values())]


def test_root_of_mmd_agrees_with_loops():
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(5, 3)), rng.normal(1, 2, (5, 3))

    def mean_kernel(a, b):
        return np.mean([[sum(math.exp(-((p - q)**2).sum() / (2 * v)) for v in BANDWIDTHS)
                         for q in b] for p in a])

    expected = math.sqrt(mean_kernel(real, real) + mean_kernel(generated, generated)
                         - 2 * mean_kernel(real, generated))
    found = zs3_loop.root_mmd(torch.from_numpy(real), torch.from_numpy(generated))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_a_step_for_every_class_of_an_image_and_a_feature_for_every_pixel(loop, batch):
    generated = []
    loop.generator.register_forward_hook(lambda _, inputs, __: generated.append(inputs[0]))
    before, of_layer = copied(loop.generator), copied(loop.layer)
    assert loop.generator_steps(*batch) == 3
    assert [len(rows) for rows in generated] == [12, 24, 36]
    for class_id, rows in enumerate(generated):
        assert (rows[:, :zs3_loop.EMBED] == loop.embeddings[class_id]).all()
        noise = rows[:, zs3_loop.EMBED:]
        assert noise.min() >= 0 and noise.max() < 1 and len(noise.unique(dim=0)) == len(rows)
    assert all(changed(loop.generator, before)) and not any(changed(loop.layer, of_layer))


def test_the_generator_learns_the_features_of_a_class(loop, batch):
    features = batch[0][1].flatten(1).t()

    def distance():
        inputs = torch.cat([loop.embeddings[[2] * 36], torch.rand(36, zs3_loop.NOISE)], 1)
        return zs3_loop.root_mmd(features, loop.generator(inputs)).item()

    before = distance()
    for _ in range(80):
        loop.generator_steps(*batch)
    assert distance() < before / 2


def test_the_layer_step_is_one_of_weighted_cross_entropy(loop, batch):
    features, labels = batch
    labels = labels.clone()
    labels[0, 0] = UNSEEN[0]
    weight = loop.layer.weight.detach().clone().requires_grad_()
    bias = loop.layer.bias.detach().clone().requires_grad_()
    rows = features.permute(0, 2, 3, 1).flatten(0, 2).double()
    logits = rows @ weight[:, :, 0, 0].double().t() + bias.double()
    of_pixel = torch.where(labels.flatten() == UNSEEN[0], 100.0, 1.0)
    own = logits.gather(1, labels.flatten()[:, None])[:, 0]
    ((logits.logsumexp(1) - own) * of_pixel / of_pixel.sum()).sum().backward()
    loop.layer_step(features, labels)
    for found, start in ((loop.layer.weight, weight), (loop.layer.bias, bias)):
        expected = start - 0.07 * (start.grad + 5e-4 * start)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
