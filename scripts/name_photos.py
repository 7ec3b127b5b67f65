"""Do the released weights of EfficientNet-Lite0 name photographs rightly, and with which mean?

    python scripts/name_photos.py LIST [LIST ...] --root DIR --classes DIR/classes.txt

A list has a line `image label` for every photograph, as a training has; the classes of DIR must
have a cat, a dog or an aeroplane among them, which ImageNet has as 5, 118 and 3 classes. Every
photograph with a pixel of one of these is shown whole to the backbone with ImageNet's own
classifier on top, and is named rightly if the class with the highest score is one of those. Once
with the mean and deviation that the weights were trained with, once with ImageNet's.
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import paddle_csrl  # noqa: F401, I001  before Paddle

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F

from paddle_csrl.datasets.class_names import read_class_names
from paddle_csrl.datasets.label_scan import read_label
from paddle_csrl.models import EfficientNetLite0
from paddle_csrl.models.named_weights import released_tensors
from paddle_csrl.utils.io import asset

NAME = "efficientnet_lite0"
#: First and last of each row of names in ImageNet's list, which is sorted by kinds.
RIGHT = {"cat": [("tabby, tabby cat", "Egyptian cat")],
         "dog": [("Chihuahua", "Mexican hairless")],
         "aeroplane": [("airliner", "airliner"), ("warplane, military plane",) * 2, ("wing",) * 2]}
NORMALIZE = {"as trained": (EfficientNetLite0.input_mean, EfficientNetLite0.input_std),
             "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}


def main(argv=None) -> dict[str, int]:
    """Return how many photographs are named rightly, by what they were normalised with."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", nargs="+", metavar="LIST", help="lists of `image label` pairs")
    parser.add_argument("--root", required=True, help="what the paths in the lists start from")
    parser.add_argument("--classes", required=True, help="names of the classes, one a line")
    args = parser.parse_args(argv)
    paddle.set_device("cpu")
    names = read_class_names(args.classes)
    wanted = {names.index(name): right_labels(name) for name in RIGHT if name in names}
    photos = [(image, class_id) for image, label in pairs(args.lists, args.root)
              for class_id in np.intersect1d(read_label(label), list(wanted)).tolist()]
    classify, result = classifier(), {}
    for title, (mean, std) in NORMALIZE.items():
        labels = [classify(image, mean, std) for image, _ in photos]
        rightly = [label in wanted[class_id] for label, (_, class_id) in zip(labels, photos)]
        result[title] = sum(rightly)
        print(f"{title}: {sum(rightly)} of {len(photos)}: " + ", ".join(
            f"{names[key]} {sum(right for right, (_, c) in zip(rightly, photos) if c == key)} of "
            f"{sum(c == key for _, c in photos)}" for key in wanted))
    return result


def pairs(lists, root):
    for path in lists:
        with open(path, encoding="utf-8") as file:
            for line in file:
                yield [os.path.join(root, part) for part in line.split()]


def right_labels(name) -> set[int]:
    with open(asset("imagenet1k", "labels.txt"), encoding="utf-8") as file:
        labels = [line.rstrip("\n").split(" ", 1)[1] for line in file]
    return {index for first, last in RIGHT[name]
            for index in range(labels.index(first), labels.index(last) + 1)}


def classifier():
    """Return a function from path, mean and deviation to one of ImageNet's classes."""
    backbone, tensors = EfficientNetLite0(pretrained=NAME), released_tensors(NAME)
    backbone.eval()
    head = {name: paddle.to_tensor(value) for name, value in tensors.items()
            if name.startswith(("_conv_head", "_bn1", "_fc"))}

    @paddle.no_grad()
    def classify(path, mean, std) -> int:
        image = cv2.imread(path)[..., ::-1] / 255
        image = ((image - mean) / std).transpose(2, 0, 1)[None].astype("float32")
        x = F.conv2d(backbone(paddle.to_tensor(image))[-1], head["_conv_head.weight"])
        x = F.batch_norm(x, head["_bn1.running_mean"], head["_bn1.running_var"],
                         head["_bn1.weight"], head["_bn1.bias"], epsilon=1e-3)
        x = F.relu6(x).mean([2, 3])
        return int(F.linear(x, head["_fc.weight"].T, head["_fc.bias"]).argmax())

    return classify


if __name__ == "__main__":
    main()
