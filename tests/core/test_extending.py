"""A stage, a loss, a data set and a generator of one's own: a file each, and a config."""

import importlib
import json
import os
import re
import sys
import textwrap

import cv2
import numpy as np
import paddle
import pytest
from paddleseg.cvlibs import manager

from helpers import tiny_runs
from helpers.tiny_config import tiny_content, write_config
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.cli import train, visualize
from paddle_csrl.config.schema import SECTIONS
from paddle_csrl.errors import UserError
from paddle_csrl.stages import STAGES

with open(os.path.join(tiny_runs.ROOT, "docs", "extending.md"), encoding="utf-8") as _file:
    LOSS, STAGE = re.findall(r"^```python\n(.*?)^```", _file.read(), re.MULTILINE | re.DOTALL)

DATA_SET = textwrap.dedent("""
    import numpy as np
    import paddle
    from paddleseg.cvlibs import manager
    from paddleseg.transforms import Compose

    from paddle_csrl.registry import register


    @register(manager.DATASETS)
    class Squares(paddle.io.Dataset):
        class_names = ["background", "cat", "dog", "cow", "car"]
        NUM_CLASSES, IGNORE_INDEX, IMG_CHANNELS = 5, 255, 3
        num_classes, ignore_index = NUM_CLASSES, IGNORE_INDEX

        def __init__(self, mode="train", transforms=(), num_images=8, num_classes=None):
            self.mode, self.num_images = mode, num_images
            self.transforms = Compose(list(transforms), to_rgb=False)

        def __len__(self):
            return self.num_images

        def label(self, index):
            label = np.zeros((32, 32), np.uint8)
            label[4:20, 4:20], label[20:30, 8:28] = 1 + index % 4, 1 + (index + 1) % 2
            return label

        def label_histogram(self):
            return np.stack([np.bincount(self.label(index).ravel(), minlength=5)
                             for index in range(self.num_images)])

        def __getitem__(self, index):
            label = self.label(index)
            image = np.stack([50 * label, 255 - 40 * label, label], axis=2).astype("float32")
            data = {"img": image, "label": label, "trans_info": [], "gt_fields": []}
            if self.mode == "train":
                data["gt_fields"].append("label")
            data = self.transforms(data)
            if self.mode == "val":
                data["label"] = data["label"][None]
            return data
    """)

GENERATOR = textwrap.dedent("""
    import paddle
    from paddle import nn
    from paddleseg.cvlibs import manager

    from paddle_csrl.models.feature_generator import (
        FeatureGenerator,
        GeneratorOutput,
        semantic_relations,
    )
    from paddle_csrl.registry import register


    @register(manager.MODELS)
    class LinearGenerator(FeatureGenerator):
        def __init__(self, embed_dim, feature_dim, noise_dim=4, num_classes=None, in_channels=3):
            super().__init__(embed_dim, noise_dim, 0.0, feature_dim=feature_dim)
            self.straight = nn.Linear(embed_dim + noise_dim, feature_dim)

        def generate(self, embeddings, noise, share):
            own = share.take(embeddings).unsqueeze(1).expand([-1, noise.shape[1], -1])
            features = self.straight(paddle.concat([own, share.take(noise)], axis=2))
            return GeneratorOutput(features, [semantic_relations(embeddings)])
    """)


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """The four files, imported; afterwards nobody knows of them."""
    sources = {"margin_loss": LOSS, "spread_stage": STAGE, "squares": DATA_SET,
               "linear_generator": GENERATOR}
    dicts = [SECTIONS, *(registry.components_dict for registry in (
        manager.LOSSES, manager.DATASETS, manager.MODELS))]
    before, stages = list(map(dict, dicts)), list(STAGES)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
        importlib.import_module(name)
    yield
    STAGES[:] = stages
    for content, old in zip(dicts, before):
        content.clear()
        content.update(old)
    for name in sources:
        sys.modules.pop(name)


@pytest.fixture
def argv(modules, tmp_path):
    content = tiny_content(str(tmp_path / "unused"))
    for split in ("train", "val"):
        content[f"{split}_dataset"] = {"type": "Squares", "mode": split,
                                       "transforms": [{"type": "Normalize"}]}
    del content["zero_shot"]["class_names"]
    content["zero_shot"]["features"]["normalize"] = False
    content["generator"].update(
        model={"type": "LinearGenerator"},
        loss={"types": [{"type": "MMDLoss"}, {"type": "MarginLoss", "margin": 2.0}],
              "coef": [1.0, 0.1]})
    content.update(save_dir=str(tmp_path / "run"), spread={"digits": 3}, use_vdl=False)
    return ["-c", write_config(tmp_path / "mine.yml", content), "--device", "cpu"]


def test_all_four_take_part(argv, tmp_path, capsys):
    folder = str(tmp_path / "run")
    metrics = train.main(argv)
    assert [item["name"] for item in metrics["classes"] if not item["seen"]] == ["cow"]
    assert "straight.weight" in paddle.load(os.path.join(folder, "generator", "model.pdparams"))

    path = os.path.join(folder, "spread", "spread.json")
    bank = FeatureBank.load(os.path.join(folder, "features", "bank.npz"))
    expected = {name: np.std(bank.of(class_id).astype("float64"), axis=0).mean()
                for class_id, name in ((0, "background"), (1, "cat"), (2, "dog"), (4, "car"))}
    with open(path, encoding="utf-8") as file:
        assert json.load(file) == pytest.approx(expected, abs=6e-4)
    with open(os.path.join(folder, "report.html"), encoding="utf-8") as file:
        assert "<td>spread</td>" in file.read()

    # Without files of images, pictures are made from the samples.
    assert len(os.listdir(os.path.join(folder, "predictions"))) == 8
    visualize.main(["compare", "--run", folder, "--num", "1", "--device", "cpu",
                    "--save_dir", str(tmp_path / "figures")])
    image = cv2.imread(str(tmp_path / "figures" / "compare.png"))
    assert image.std() > 10

    before = tiny_runs.times(folder)
    capsys.readouterr()
    train.main(argv)
    said = capsys.readouterr().out
    assert all(f"[{stage}] up to date" in said for stage in (*tiny_runs.STAGES, "spread"))
    assert tiny_runs.times(folder)[os.path.join("spread", "spread.json")] == before[
        os.path.join("spread", "spread.json")]

    assert train.main([*argv, "--stage", "spread", "--opts", "spread.digits=1"]) == {}
    said = capsys.readouterr().out
    assert "[spread] runs again, for these changed: spread" in said
    with open(path, encoding="utf-8") as file:
        assert json.load(file) == pytest.approx(expected, abs=6e-2)
    after = tiny_runs.times(folder)
    assert {name for name in after if before[name] != after[name]
            and name.split(os.sep)[0] in (*tiny_runs.STAGES, "spread", "model.pdparams")} == {
        os.path.join("spread", name) for name in ("spread.json", "stage.json")}


def test_help_and_messages_know_the_stage(argv, capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "spread with a section of that name: how far the features of each class spread" in said
    with pytest.raises(UserError, match="--stage spread: leave out --iters, for it trains nothing"):
        train.main([*argv, "--stage", "spread", "--iters", "3"])
    with pytest.raises(UserError, match="`spread.digts`.*digits"):
        train.main([*argv, "--opts", "spread.digts=1"])


def test_nothing_is_left_of_them():
    assert "spread" not in SECTIONS and [stage.name for stage in STAGES][-1] == "self_training"
    assert "Squares" not in manager.DATASETS.components_dict
