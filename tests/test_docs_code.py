"""The code blocks of the documents do what the text says."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from paddleseg.cvlibs import manager

from helpers import tiny_runs
from helpers.fabricated import make_dataset
from paddle_csrl.cli import predict, train
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.models.generator_task import GeneratorTask
from paddle_csrl.models.mlp_generator import MLPGenerator
from paddle_csrl.stages.calibration import Calibration
from paddle_csrl.tuning.space import Space


def blocks(language, *path):
    """The blocks of a document, docs/extending.md unless another is named."""
    text = Path(tiny_runs.ROOT, *(path or ("docs", "extending.md"))).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def write_config(folder):
    """Write the config of docs/extending.md and return its path."""
    content = yaml.safe_load(blocks("yaml")[0])
    content["_base_"] = os.path.join(tiny_runs.ROOT, content["_base_"])
    path = folder / "mine.yml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.fixture
def margin_loss():
    code, _ = blocks("python")
    assert len([line for line in code[code.index("@"):].splitlines() if line]) <= 20
    space = {"__name__": "margin_loss"}
    exec(compile(code, "extending.md", "exec"), space)
    yield space["MarginLoss"]
    manager.LOSSES.components_dict.pop("MarginLoss")


def test_the_loss_is_what_its_docstring_says(margin_loss):
    rng = np.random.default_rng(0)
    generated, real = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    nearest = [min(np.linalg.norm(u - s) for s in real) for u in generated]
    expected = np.mean([max(0.0, 2.0 - distance) for distance in nearest])
    assert expected > 0
    value = margin_loss(margin=2.0)(paddle.to_tensor(generated), paddle.to_tensor(real))
    assert float(value) == pytest.approx(expected, rel=1e-6)


def test_a_config_names_the_loss_and_the_generator_trains_on_it(margin_loss, tmp_path):
    named = ZeroShotConfig(write_config(tmp_path)).dic["generator"]["loss"]
    assert named["types"][1] == {"type": "MarginLoss", "margin": 2.0}

    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(4, 5)).astype("float32")
    prototypes = np.zeros((3, 6), "float32")
    task = GeneratorTask(MLPGenerator(5, 6, noise_dim=2, hidden_dim=8, dropout=0.0), embeddings,
                         prototypes, seen_ids=[0, 1, 2], unseen_ids=[3], num_samples=4)
    data = {"img": paddle.zeros([1, 3, 4, 6]), "label": paddle.full([1, 3], 4, "int64")}
    term, = task.loss_computation(task(), {"types": [margin_loss(margin=1e3)], "coef": [0.1]},
                                  data)
    term.sum().backward()
    gradients = [parameter.grad for parameter in task.generator.parameters()]
    assert float(term) > 0
    assert any(grad is not None and float(grad.abs().sum()) > 0 for grad in gradients)


def test_the_command_trains_with_the_loss_through_all_stages(tmp_path):
    """In a folder of its own, as the text says, but on tiny data."""
    code, _ = blocks("python")
    (tmp_path / "margin_loss.py").write_text(code)
    write_config(tmp_path)
    recipe = tiny_runs.shapes(str(tmp_path / "data"), str(tmp_path / "cache"))
    command, = (shlex.split(line) for block in blocks("bash") for line in block.splitlines())
    assert command[0] == "python"
    ended = subprocess.run(
        [sys.executable, *command[1:], "--device", "cpu", "--opts", *recipe.opts], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": tiny_runs.ROOT}, capture_output=True, text=True,
        check=False)
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "output" / "mine" / "report.html").read_text("utf-8")
    assert "<title>generator: MarginLoss</title>" in page


def test_the_tour_of_the_readme_trains_and_predicts_on_ones_own_data(tmp_path, monkeypatch):
    """Its commands as they stand, but on tiny images and with the tests' short training."""
    names = ("background", "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence",
             "car", "bicyclist")
    data = make_dataset(str(tmp_path), names, num_train=12, num_val=2, size=(48, 56))
    block, = (block for block in blocks("bash", "README.md") if "csrl_custom.yml" in block)
    assert block in blocks("bash", "README_cn.md")
    first, second = (shlex.split(line)[2:] for line in block.replace("\\\n", " ").replace(
        "DIR", data).replace("photos ", f"{data}/images ").splitlines())
    monkeypatch.chdir(tmp_path)
    os.symlink(os.path.join(tiny_runs.ROOT, "configs"), "configs")
    shrunk = [opt for opt in tiny_runs.SHRUNK if not opt.startswith("generator.")]
    with tiny_runs.undrawn():
        metrics = train.main([*first, *shrunk, tiny_runs.TINY_NETWORK,
                              f"zero_shot.cache_dir={tmp_path}/cache"])
    assert [item["name"] for item in metrics["classes"]] == list(names)
    assert [item["name"] for item in metrics["classes"] if not item["seen"]] == ["tree", "car"]
    predict.main(second)
    written = os.listdir("output/photos/label_prediction")
    assert len(written) == len(os.listdir(f"{data}/images")) == 14


def test_the_space_of_the_tuning_document_is_one(tmp_path):
    name = "terms_point.yml"
    os.symlink(os.path.join(tiny_runs.ROOT, "configs", "_base_", name), tmp_path / name)
    path = tmp_path / "space.yml"
    path.write_text(blocks("yaml", "docs", "tuning.md")[1])
    space = Space(str(path), "mine")
    assert space.calibrations == [Calibration(value, is_cost=True) for value in (0.05, 0.1, 0.2)]
    assert [axis.name for axis in space.axes] == [
        "generator.iters", "classifier.iters", "generator.model.num_layers", "gamma"]


def test_the_settings_of_the_scaling_document_are_keys_of_a_config(tmp_path):
    block, = blocks("yaml", "docs", "scaling.md")
    base = os.path.join(tiny_runs.ROOT, "configs", "csrl_custom.yml")
    path = tmp_path / "many.yml"
    path.write_text(f"_base_: {base}\n{block}")
    dic = ZeroShotConfig(str(path)).dic
    assert dic["train_dataset"]["ignore_index"] == 65535
    assert dic["classifier"]["loss"]["types"][0]["ignore_index"] == 65535
