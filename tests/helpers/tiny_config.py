"""A whole config that is quick to run, on the fabricated five-class data set."""

import json
from typing import Any

import yaml

from helpers.fabricated import make_dataset

CLASS_NAMES = ("background", "cat", "dog", "cow", "car")

_NORMALIZE = {"type": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3}
_SCHEDULE = {"type": "PolynomialDecay", "learning_rate": 0.01, "end_lr": 0.0, "power": 0.9}
_CROSS_ENTROPY = {"types": [{"type": "CrossEntropyLoss"}], "coef": [1.0]}


def tiny_content(root: str) -> dict[str, Any]:
    """The config as a dict; its data set is written below ``root``."""
    data = make_dataset(root, CLASS_NAMES)
    dataset = {"type": "Dataset", "dataset_root": data, "num_classes": 5,
               "transforms": [_NORMALIZE]}
    return json.loads(json.dumps({  # nothing shared
        "batch_size": 2, "iters": 2, "save_dir": f"{root}/output",
        "train_dataset": {**dataset, "mode": "train", "train_path": f"{data}/train.txt"},
        "val_dataset": {**dataset, "mode": "val", "val_path": f"{data}/val.txt"},
        "model": {"type": "DeepLabV3P", "num_classes": 5, "backbone_indices": [0, 1],
                  "aspp_ratios": [1, 2],
                  "backbone": {"type": "CSRLTinyNet", "width": 4}},
        "optimizer": {"type": "Adam"}, "lr_scheduler": _SCHEDULE, "loss": _CROSS_ENTROPY,
        "zero_shot": {"unseen": ["cow"], "policy": "ignore", "class_names": f"{data}/classes.txt",
                      "cache_dir": f"{root}/cache", "features": {"samples_per_class": 16}},
        "generator": {
            "model": {"type": "StructuralGenerator", "noise_dim": 4, "hidden_dim": 8},
            "num_samples": 4, "iters": 2, "optimizer": {"type": "Adam"},
            "lr_scheduler": _SCHEDULE, "loss": {"types": [{"type": "MMDLoss"}], "coef": [1.0]}},
        "classifier": {"batch_size": 8, "iters": 2, "num_generated": 8,
                       "optimizer": {"type": "Adam"}, "lr_scheduler": _SCHEDULE,
                       "loss": _CROSS_ENTROPY},
    }))


def write_config(path: str, content: dict[str, Any]) -> str:
    """Write ``content`` as YAML and return ``path``."""
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(content, file, sort_keys=False)
    return str(path)
