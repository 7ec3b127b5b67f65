"""The code blocks of docs/extending.md do what the text says."""

import os
import re

import paddle_csrl  # noqa: F401  before paddle

import numpy as np
import paddle
import pytest
import tiny_runs
import yaml
from paddleseg.cvlibs import manager

from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.models.generator_task import GeneratorTask
from paddle_csrl.models.mlp_generator import MLPGenerator


def blocks(language):
    with open(os.path.join(tiny_runs.ROOT, "docs", "extending.md"), encoding="utf-8") as file:
        return re.findall(rf"^```{language}\n(.*?)^```", file.read(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def margin_loss():
    code, = blocks("python")
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
    content = yaml.safe_load(blocks("yaml")[0])
    content["_base_"] = os.path.join(tiny_runs.ROOT, content["_base_"])
    path = tmp_path / "mine.yml"
    path.write_text(yaml.safe_dump(content))
    named = ZeroShotConfig(str(path)).dic["generator"]["loss"]
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
