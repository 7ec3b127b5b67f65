"""Runs of the whole pipeline that take seconds: tiny data, a tiny segmentor, a few iterations."""

import glob
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import paddle
from visualdl import LogReader

from helpers.fabricated import make_context, make_dataset, make_voc
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.cli import train, val
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.reports.run_report import REPORT_FILE
from paddle_csrl.run import Run
from paddle_csrl.utils import read_json, write_json, write_text

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
STAGES = ("segmentor", "features", "generator", "classifier")
CLASSES = ("background", "cat", "dog", "cow", "car")

#: What shrinks any config; see the classes' own defaults for what it replaces.
SHRUNK = (
    "iters=4", "batch_size=2", "save_interval=2", "log_iters=1", "num_workers=0",
    "model.backbone={'type': 'CSRLTinyNet', 'width': 4}", "model.backbone_indices=[0, 1]",
    "model.aspp_ratios=[1, 2]",
    "zero_shot.features.samples_per_class=64",
    "generator.iters=4", "generator.num_samples=16", "generator.model.hidden_dim=16",
    "generator.model.noise_dim=4", "generator.relation_warmup=2",
    "generator.relation=edges",
    "generator.log_iters=1", "classifier.save_interval=2", "classifier.calibration=0.0",
    "classifier.iters=4", "classifier.batch_size=64", "classifier.num_generated=32",
)

#: In place of the large network of ``_base_/custom``, whose weights come with a package.
TINY_NETWORK = ("model={'type': 'DeepLabV3P', 'backbone': {'type': 'CSRLTinyNet', 'width': 4}, "
                "'backbone_indices': [0, 1], 'aspp_ratios': [1, 2]}")

#: Validation images of VOC and Context are padded to one size: this one in place of 512 x 512.
PADDED_SIDE = 80
PADDED = (f"val_dataset.transforms=[{{'type': 'Padding', 'target_size': [{PADDED_SIDE}, "
          f"{PADDED_SIDE}]}}, {{'type': 'Normalize'}}]")


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

    def load(self, *opts: str, **overrides: Any) -> ZeroShotConfig:
        return ZeroShotConfig(self.config, [*self.opts, *opts], overrides)

    def builder(self, *opts: str) -> ZeroShotBuilder:
        return ZeroShotBuilder(self.load(*opts))


class Finished(NamedTuple):
    """A finished run: its recipe, folder and the content of ``metrics.json``."""

    recipe: Recipe
    folder: str
    metrics: dict[str, Any]

    def path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def weights(self, *folder: str) -> dict[str, np.ndarray]:
        """``model.pdparams`` of the run, or of a folder within it."""
        return weights(self.path(*folder, "model.pdparams"))

    def copy(self, folder: Any) -> "Finished":
        """The same run in a folder of its own, to be changed; times are kept."""
        shutil.copytree(self.folder, str(folder))
        return self._replace(folder=str(folder))

    def without_checksums(self) -> "Finished":
        """The same run, changed into what earlier versions left, whose records have none."""
        for path in glob.glob(self.path("*", "stage.json")):
            record = read_json(path)
            del record["outputs"]
            write_json(path, record)
        return self

    def again(self, *opts: str, drawn: bool = False, **flags: Any) -> dict[str, Any]:
        """Run the command line once more on this folder; page and pictures are blank if not wanted.

        To draw them takes as long as all the rest of such a run.
        """
        with nullcontext() if drawn else undrawn():
            return train.main(self.recipe.argv(*opts, save_dir=self.folder, **flags))

    def redo(self, *opts: str, **flags: Any) -> set[str]:
        """Run it once more; folders, and files outside of them, that this changes."""
        before = times(self.folder)
        self.again(*opts, **flags)
        after = times(self.folder)
        return {name.split(os.sep)[0] for name in before | after
                if before.get(name) != after.get(name)}

    def moved(self, folder: Any) -> Recipe:
        """The recipe on a copy of the data beside the run; no cache fits it."""
        source = os.path.dirname(self.folder)
        shutil.copytree(os.path.join(source, "data"), os.path.join(folder, "data"))
        return self.recipe._replace(opts=tuple(
            item.replace(source, str(folder)) for item in self.recipe.opts))

    def val(self, *opts: str, **flags: Any) -> dict[str, Any]:
        flags.setdefault("model_path", self.path("model.pdparams"))
        return val.main(self.recipe.argv(*opts, **flags))

    def builder(self, *opts: str) -> ZeroShotBuilder:
        """A builder of the run's config, with an untrained segmentor."""
        return self.recipe.builder(*opts)

    def open(self, *opts: str) -> Run:
        """The run under its recipe and more ``opts``."""
        return Run(self.recipe.load(*opts, save_dir=self.folder))


@contextmanager
def undrawn() -> Iterator[None]:
    """Within, a run writes a blank page and blank pictures where it has to draw them."""
    def page(folder: str) -> str:
        path = os.path.join(folder, REPORT_FILE)
        write_text(path, "")
        return path

    def picture(*args: Any, **kwargs: Any) -> np.ndarray:
        return np.full((8, 8, 3), 255, np.uint8)

    with patch("paddle_csrl.core.train.write_page", page), \
            patch("paddle_csrl.visualize.relation_panel", picture), \
            patch("paddle_csrl.visualize.prediction_panel", picture):
        yield


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
    return _recipe(name, cache, *_roots(data), _crop(32), PADDED)


def context(root: str, cache: str, name: str = "csrl_context_unseen2") -> Recipe:
    data = make_context(root, num_train=8, num_val=2, size=(48, 56))
    return _recipe(name, cache, *_roots(data), _crop(32), PADDED)


def custom(root: str, cache: str, name: str = os.path.join("_base_", "custom"),
           **kwargs: Any) -> Recipe:
    """The generic layout, five classes of which cow and car are unseen."""
    data = make_dataset(root, **{"class_names": CLASSES, "num_train": 12, "num_val": 4,
                                 "size": (48, 56), **kwargs})
    return _recipe(
        name, cache, TINY_NETWORK, *_roots(data), _crop(32), "zero_shot.unseen=cow,car",
        f"zero_shot.class_names={data}/classes.txt", "zero_shot.embeddings.path=null",
        f"train_dataset.train_path={data}/train.txt", "train_dataset.num_classes=5",
        f"val_dataset.val_path={data}/val.txt", "val_dataset.num_classes=5")


def zs3net(root: str, cache: str) -> Recipe:
    """ZS3Net on the data of ``custom``, with enough predictions of unseen classes to train on."""
    recipe = custom(root, cache, os.path.join("zs3net", "zs3net_custom"))
    return recipe._replace(opts=(*recipe.opts, "generator.relation=prototypes",
                                 "classifier.calibration=3.0"))


#: By name: how the recipe of a run is made from a folder for its data and one for its cache.
RECIPES: dict[str, Callable[[str, str], Recipe]] = {
    "shapes": shapes,
    "voc": voc,
    "context": context,
    "custom": custom,
    "spnet": partial(custom, name="spnet/spnet_custom"),
    "segdevise": partial(shapes, name="segdevise/segdevise_shapes"),
    "zs3net": zs3net,
}


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


def weights(path: str) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in paddle.load(str(path)).items()}


def differing(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> list[str]:
    """Names of the arrays that are not the same bit for bit; both must have the same names."""
    assert list(first) == list(second)
    return [name for name in first if first[name].tobytes() != second[name].tobytes()]


def predictions(builder: ZeroShotBuilder, path: Any,
                predict: Callable = lambda model, image: model(image)[0]) -> list[np.ndarray]:
    """Class ids that the weights at ``path`` give for every validation image."""
    model = builder.new_segmentor()
    model.set_state_dict(paddle.load(str(path)))
    model.eval()
    with paddle.no_grad():
        return [predict(model, paddle.to_tensor(data["img"][None])).numpy()[0].argmax(0)
                for data in builder.val_dataset]


def recorded(folder: str, kind: str = "scalar") -> dict[str, dict[int, Any]]:
    """Values, or records of another kind, of the only VisualDL log in a folder: by tag and step."""
    path, = glob.glob(os.path.join(folder, "vdlrecords*"))
    reader = LogReader(file_path=path)
    return {tag: {item.id: item.value if kind == "scalar" else item
                  for item in reader.get_data(kind, tag)}
            for tag in reader.get_tags().get(kind, [])}


def cells(features: np.ndarray, label: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Of every cell of features [D, h, w]: the label [H, W] under its middle, and the vector."""
    for row, column in np.ndindex(*features.shape[1:]):
        y = int((row + 0.5) * label.shape[0] / features.shape[1])
        x = int((column + 0.5) * label.shape[1] / features.shape[2])
        yield int(label[y, x]), features[:, row, column]


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
