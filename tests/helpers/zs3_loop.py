"""ZS3Net's inner loop in PyTorch, written from its description; the peer of stages 2 and 3.

For every image of a batch, and in it class by class: a generated feature for each pixel of the
class, the root of MMD² between 128 of them, drawn with replacement, and the real features of the
same pixels, and a step of Adam. Then one step of the last layer over all pixels of the batch.
"""

import torch
import torch.nn.functional as F
from torch import nn

EMBED, NOISE, HIDDEN, FEATURE = 300, 300, 256, 256
#: Features of a class that a step compares.
COMPARED = 128
BANDWIDTHS = (2, 5, 10, 20, 40, 80)
#: Of the classification loss; seen classes weigh 1.
UNSEEN_WEIGHT = 100.0


def root_mmd(real, generated):
    """Root of the biased MMD² between two [N, D], with the sum of kernels exp(-d²/2v)."""
    both = torch.cat([real, generated])
    products = both @ both.t()
    halves = products.diagonal() / 2
    exponents = products - halves[:, None] - halves
    kernel = sum(torch.exp(exponents / v) for v in BANDWIDTHS)
    signs = both.new_ones(len(both)) / len(real)
    signs[len(real):] *= -1
    return (signs @ kernel @ signs).sqrt()


def make_generator():
    linear = nn.Linear(EMBED + NOISE, HIDDEN), nn.Linear(HIDDEN, FEATURE)
    for layer in linear:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.constant_(layer.bias, 0.01)
    return nn.Sequential(linear[0], nn.LeakyReLU(0.2), nn.Dropout(0.5), linear[1])


class Loop:
    """Generator and last layer in training, for ``embeddings`` float32 [C, EMBED].

    ``real`` are features [B, FEATURE, H, W], ``labels`` int64 [B, H, W].
    """

    def __init__(self, embeddings, unseen_ids):
        self.embeddings = embeddings
        self.generator, self.layer = make_generator(), nn.Conv2d(FEATURE, len(embeddings), 1)
        nn.init.uniform_(self.layer.weight)
        nn.init.uniform_(self.layer.bias)
        self.weights = torch.ones(len(embeddings))
        self.weights[unseen_ids] = UNSEEN_WEIGHT
        self.adam = torch.optim.Adam(self.generator.parameters(), lr=2e-4)
        self.sgd = torch.optim.SGD(self.layer.parameters(), lr=0.07, momentum=0.9,
                                   weight_decay=5e-4)

    def generator_steps(self, real, labels):
        """Train the generator on a batch; return how many steps that took."""
        steps = 0
        for features, label in zip(real.flatten(2).transpose(1, 2), labels.flatten(1)):
            for class_id in label.unique():
                self._generator_step(features, (label == class_id).nonzero()[:, 0], class_id)
                steps += 1
        return steps

    def _generator_step(self, features, pixels, class_id):
        embeddings = self.embeddings[class_id].expand(len(pixels), EMBED)
        generated = self.generator(torch.cat([embeddings, torch.rand(len(pixels), NOISE)], 1))
        drawn = torch.randint(len(pixels), (COMPARED,))
        self.adam.zero_grad()
        root_mmd(features[pixels[drawn]], generated[drawn]).backward()
        self.adam.step()

    def layer_step(self, features, labels):
        """Train the last layer on the features of all pixels, real or generated."""
        self.sgd.zero_grad()
        F.cross_entropy(self.layer(features), labels, self.weights).backward()
        self.sgd.step()
