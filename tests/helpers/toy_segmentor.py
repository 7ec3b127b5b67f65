"""A toy segmentor with embeddings, images and labels for it."""

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

NUM_CLASSES, FEATURES, DIMENSIONS = 5, 6, 3
SEEN, UNSEEN = [0, 1, 3], [2, 4]


class Toy(nn.Layer):
    """Two convolutions and a resizing by 4, with an auxiliary head if wanted."""

    def __init__(self, bias_attr=None, auxiliary=()):
        super().__init__()
        self.stem = nn.Conv2D(3, FEATURES, 4, stride=4)
        self.head = nn.Sequential(nn.Conv2D(FEATURES, NUM_CLASSES, 1, bias_attr=bias_attr))
        self.auxiliary = nn.LayerList([nn.Conv2D(FEATURES, width, 1) for width in auxiliary])

    def forward(self, images):
        features = self.stem(images)
        outputs = [self.head(features), *(layer(features) for layer in self.auxiliary)]
        return [F.interpolate(output, images.shape[2:], mode="bilinear") for output in outputs]


def embeddings(seed=0, num_classes=NUM_CLASSES):
    return np.random.default_rng(seed).normal(size=(num_classes, DIMENSIONS)).astype(np.float32)


def images(seed=0, side=16):
    paddle.seed(seed + 1)
    return paddle.randn([2, 3, side, side])


def labels(seed=0, side=16):
    found = np.random.default_rng(seed).choice([*SEEN, 255], (2, side, side))
    return paddle.to_tensor(found.astype(np.int64))
