"""Runs of the whole pipeline that take seconds: tiny data, a tiny segmentor, a few iterations."""

import hashlib
import os
import shutil
from typing import Any, NamedTuple

from helpers.fabricated import make_context, make_dataset, make_voc
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.cli import train, val
from paddle_csrl.config import ZeroShotConfig

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STAGES = ("segmentor", "features", "generator", "classifier")
CLASSES = ("background", "cat", "dog", "cow", "car")

#: What shrinks any config; see the classes' own defaults for what it replaces.
SHRUNK = (
    "iters=4", "batch_size=2", "save_interval=2", "log_iters=1", "num_workers=0",
    "model.backbone={'type': 'CSRLTinyNet', 'width': 4}", "model.backbone_indices=[0, 1]",
    "zero_shot.features.samples_per_class=64",
    "generator.iters=4", "generator.num_samples=16", "generator.model.hidden_dim=16",
    "generator.model.noise_dim=4", "generator.relation_warmup=2",
    "generator.relation=edges",
    "generator.log_iters=1", "classifier.save_interval=2", "classifier.calibration=0.0",
    "classifier.iters=4", "classifier.batch_size=64", "classifier.num_generated=32",
)


class Recipe(NamedTuple):
    """A config file and the ``--opts`` that point it at fabricated data."""

    config: str
    opts: tuple

    def argv(self, *opts: str, **flags: Any) -> list[str]:
        """The command line with more ``opts``; flags as ``save_dir=...``, True for a switch."""
        line = ["-c", self.config, "--device", "cpu"]
        for name, value in flags.items():
            values = [] if value is True else value if isinstance(value, list) else [value]
            line += [f"--{name}", *map(str, values)]
        opts = (*self.opts, *opts)
        return [*line, "--opts", *opts] if opts else line


class Finished(NamedTuple):
    """A finished run: its recipe, folder and the content of ``metrics.json``."""

    recipe: Recipe
    folder: str
    metrics: dict[str, Any]

    def path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def copy(self, folder: Any) -> "Finished":
        """The same run in a folder of its own, to be changed; times are kept."""
        shutil.copytree(self.folder, str(folder))
        return self._replace(folder=str(folder))

    def again(self, *opts: str, **flags: Any) -> dict[str, Any]:
        """Run the command line once more on this folder."""
        return train.main(self.recipe.argv(*opts, save_dir=self.folder, **flags))

    def val(self, *opts: str, **flags: Any) -> dict[str, Any]:
        flags.setdefault("model_path", self.path("model.pdparams"))
        return val.main(self.recipe.argv(*opts, **flags))

    def builder(self, *opts: str) -> ZeroShotBuilder:
        """A builder of the run's config, with an untrained segmentor."""
        return ZeroShotBuilder(ZeroShotConfig(self.recipe.config, [*self.recipe.opts, *opts]))


def run_all(recipe: Recipe, folder: Any, *opts: str, **flags: Any) -> Finished:
    """Run all stages into ``folder``."""
    finished = Finished(recipe, str(folder), {})
    return finished._replace(metrics=finished.again(*opts, **flags))


def config_path(name: str) -> str:
    return os.path.join(ROOT, "configs", f"{name}.yml")


def shapes(root: str, cache: str, name: str = "csrl_shapes") -> Recipe:
    size = ("num_train=40", "num_val=4", "image_size=48", f"dataset_root={root}")
    return _recipe(name, cache, *(f"{split}_dataset.{item}" for item in size
                                 for split in ("train", "val")))


def voc(root: str, cache: str, name: str = "csrl_voc_unseen4") -> Recipe:
    data = make_voc(root, num_train=10, num_val=3, num_aug=2, size=(48, 56))
    return _recipe(name, cache, *_roots(data), _crop(32))


def context(root: str, cache: str, name: str = "csrl_context_unseen2") -> Recipe:
    data = make_context(root, num_train=8, num_val=2, size=(48, 56))
    return _recipe(name, cache, *_roots(data), _crop(32))


def custom(root: str, cache: str, name: str = "csrl_custom", **kwargs: Any) -> Recipe:
    """The generic layout, five classes of which cow and car are unseen."""
    data = make_dataset(root, **{"class_names": CLASSES, "num_train": 12, "num_val": 4,
                                 "size": (48, 56), **kwargs})
    return _recipe(
        name, cache, *_roots(data), _crop(32), "zero_shot.unseen=cow,car",
        f"zero_shot.class_names={data}/classes.txt",
        f"train_dataset.train_path={data}/train.txt", "train_dataset.num_classes=5",
        f"val_dataset.val_path={data}/val.txt", "val_dataset.num_classes=5")


def zs3net(root: str, cache: str) -> Recipe:
    """ZS3Net on the data of ``custom``, with enough predictions of unseen classes to train on."""
    recipe = custom(root, cache, os.path.join("zs3net", "zs3net_custom"))
    return recipe._replace(opts=(*recipe.opts, "generator.relation=prototypes",
                                 "classifier.calibration=3.0"))


def _recipe(name: str, cache: str, *opts: str) -> Recipe:
    return Recipe(config_path(name), (*SHRUNK, f"zero_shot.cache_dir={cache}", *opts))


def _roots(data: str) -> list[str]:
    return [f"{split}_dataset.dataset_root={data}" for split in ("train", "val")]


def _crop(side: int) -> str:
    return ("train_dataset.transforms=[{'type': 'RandomPaddingCrop', 'crop_size': "
            f"[{side}, {side}]}}, {{'type': 'RandomHorizontalFlip'}}, {{'type': 'Normalize'}}]")


def files(folder: str) -> list[str]:
    """All files below ``folder``, relative to it."""
    return sorted(os.path.relpath(os.path.join(parent, name), folder)
                  for parent, _, names in os.walk(folder) for name in names)


def times(folder: str) -> dict[str, int]:
    """Modification time of every file below ``folder``, in ns."""
    return {name: os.stat(os.path.join(folder, name)).st_mtime_ns for name in files(folder)}


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
