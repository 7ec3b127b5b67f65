"""ZS3Net's DeepLabV3+ in PyTorch, written from its description; the oracle of the converter.

Run it to make the fixture again:

    PYTHONPATH=.:tests .venv-torch/bin/python -m helpers.zs3_network
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from helpers import zs3_weights


def upsample(x, size):
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class Block(nn.Module):
    """1×1, 3×3 with stride and dilation, 1×1 to four times the width, around a shortcut."""

    def __init__(self, channels, width, stride, dilation):
        super().__init__()
        for number, (inside, outside, size) in enumerate(
                [(channels, width, 1), (width, width, 3), (width, 4 * width, 1)], start=1):
            options = {"stride": stride, "dilation": dilation, "padding": dilation} \
                if size == 3 else {}
            setattr(self, f"conv{number}", nn.Conv2d(inside, outside, size, bias=False, **options))
            setattr(self, f"bn{number}", nn.BatchNorm2d(outside))
        self.downsample = nn.Sequential()
        if stride > 1 or channels != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride=stride, bias=False),
                nn.BatchNorm2d(4 * width))

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return (self.bn3(self.conv3(y)) + self.downsample(x)).relu()


class ResNet101(nn.Module):
    """Output stride 16; the three blocks of layer 4 have dilations 2, 4 and 8."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = self.layer(64, 64, [1] * 3, 1)
        self.layer2 = self.layer(256, 128, [1] * 4, 2)
        self.layer3 = self.layer(512, 256, [1] * 23, 2)
        self.layer4 = self.layer(1024, 512, [2, 4, 8], 1)

    @staticmethod
    def layer(channels, width, dilations, stride):
        blocks = []
        for dilation in dilations:
            blocks.append(Block(channels, width, stride, dilation))
            channels, stride = 4 * width, 1
        return nn.Sequential(*blocks)

    def forward(self, x):
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        low = self.layer1(x)
        return low, self.layer4(self.layer3(self.layer2(low)))


class Atrous(nn.Module):
    def __init__(self, dilation):
        super().__init__()
        size = 3 if dilation > 1 else 1
        self.atrous_conv = nn.Conv2d(2048, 256, size, dilation=dilation,
                                     padding=dilation if size == 3 else 0, bias=False)
        self.bn = nn.BatchNorm2d(256)

    def forward(self, x):
        return self.bn(self.atrous_conv(x)).relu()


class ASPP(nn.Module):
    def __init__(self):
        super().__init__()
        self.aspp1, self.aspp2, self.aspp3, self.aspp4 = map(Atrous, (1, 6, 12, 18))
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d((1, 1)), nn.Conv2d(2048, 256, 1, bias=False),
            nn.BatchNorm2d(256), nn.ReLU())
        self.conv1 = nn.Conv2d(1280, 256, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(256)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        pooled = upsample(self.global_avg_pool(x), x.shape[2:])
        x = torch.cat([self.aspp1(x), self.aspp2(x), self.aspp3(x), self.aspp4(x), pooled], 1)
        return self.dropout(self.bn1(self.conv1(x)).relu())


class Decoder(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(256, 48, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(48)
        self.last_conv = nn.Sequential(
            nn.Conv2d(304, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(256, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU(),
            nn.Dropout(0.1))
        self.pred_conv = nn.Conv2d(256, num_classes, 1)

    def forward(self, low, x):
        low = self.bn1(self.conv1(low)).relu()
        return self.pred_conv(self.last_conv(torch.cat([upsample(x, low.shape[2:]), low], 1)))


class DeepLab(nn.Module):
    def __init__(self, num_classes=21):
        super().__init__()
        self.backbone, self.aspp, self.decoder = ResNet101(), ASPP(), Decoder(num_classes)

    def forward(self, x):
        low, high = self.backbone(x)
        return upsample(self.decoder(low, self.aspp(high)), x.shape[2:])


def random_network(num_classes=21, seed=0):
    """A network in eval mode with the weights of ``zs3_weights.random_state``."""
    network = DeepLab(num_classes)
    state = zs3_weights.random_state(shapes_of(network), seed)
    network.load_state_dict({name: torch.from_numpy(values) for name, values in state.items()},
                            strict=False)
    return network.eval()


def shapes_of(network):
    return {name: tuple(value.shape) for name, value in network.state_dict().items()
            if not name.endswith("num_batches_tracked")}


def logits_of(network, image):
    with torch.no_grad():
        return network(torch.from_numpy(image)).numpy()


def fixture():
    network = random_network()
    state = network.state_dict()
    shapes = shapes_of(network)
    return {"names": np.array(list(shapes)),
            "shapes": np.array(["x".join(map(str, shape)) for shape in shapes.values()]),
            "sums": np.array([state[name].double().sum().item() for name in shapes]),
            "logits": logits_of(network, zs3_weights.image())[0, :, ::4, ::4]}


if __name__ == "__main__":
    np.savez_compressed(zs3_weights.FIXTURE, **fixture())
    print(zs3_weights.FIXTURE)
