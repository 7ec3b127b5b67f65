"""What the tests of prediction and of export start from."""

import shutil

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image


@pytest.fixture(scope="session")
def deployed(finished, tmp_path_factory):
    """What a user takes along of the run on shapes: config, weights and classes, no data."""
    run, folder = finished("shapes"), tmp_path_factory.mktemp("deployed")
    for name in ("config.yml", "model.pdparams", "classes.json"):
        shutil.copy(run.path(name), folder / name)
    content = yaml.safe_load((folder / "config.yml").read_text(encoding="utf-8"))
    for split in ("train_dataset", "val_dataset"):
        content[split]["dataset_root"] = "gone/data"
    content["model"]["pretrained"] = "gone/backbone.pdparams"
    (folder / "config.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Three images of different sizes, one in a subfolder, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    (folder / "sub").mkdir()
    for name, size in (("a.jpg", (40, 56)), ("b.PNG", (48, 48)), ("sub/c.bmp", (33, 61))):
        small = rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)
        Image.fromarray(cv2.resize(small, size[::-1])).save(folder / name)
    (folder / "notes.md").write_text("none")
    return str(folder)
