"""Mixed precision: who asks for it, and what stays float32. A CPU has none to compute with."""

import numpy as np
import paddle
import pytest
from paddle import nn

from helpers import tiny_runs
from paddle_csrl.bank.feature_bank import BottomKSampler, FeatureBank
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.errors import UserError
from paddle_csrl.losses import ListwiseRelationLoss, MMDLoss, PairwiseRelationLoss
from paddle_csrl.models.generator_task import GeneratorTask
from paddle_csrl.models.last_layer import FeatureExtractor
from paddle_csrl.models.structural_generator import StructuralGenerator
from paddle_csrl.run import Run
from paddle_csrl.stages import segmentor
from paddle_csrl.utils import precision
from paddle_csrl.utils.weights import save_state


@pytest.fixture
def asked(monkeypatch):
    """What ``auto_cast`` is asked for while it is switched on, one (level, dtype) each time."""
    found, original = [], paddle.amp.auto_cast

    def spy(enable=True, custom_white_list=None, custom_black_list=None, level="O1",
            dtype="float16", **kwargs):
        if enable:
            found.append((level, dtype))
        return original(enable, custom_white_list, custom_black_list, level, dtype, **kwargs)

    monkeypatch.setattr(paddle.amp, "auto_cast", spy)
    return found


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_every_stage_runs_under_the_flags_and_ends_in_float32(finished, tmp_path, asked, level,
                                                              monkeypatch):
    recipe, compute = finished("custom").recipe, GeneratorTask.loss_computation
    task_kinds = set()  # stages on features train in float32 whatever the config says

    def watched(task, *args):
        task_kinds.update(value.dtype for value in task.parameters())
        return compute(task, *args)

    monkeypatch.setattr(GeneratorTask, "loss_computation", watched)
    run = tiny_runs.run_all(recipe, tmp_path / "run", iters=2, precision="fp16", amp_level=level)
    images = {"segmentor": 2, "features": 12, "evaluations": 1 + 1}
    assert set(asked) == {(level, "float16")} and len(asked) >= sum(images.values())
    for name in (("segmentor", "model.pdparams"), ("generator", "model.pdparams"),
                 ("classifier", "model.pdparams"), ("model.pdparams",)):
        kinds = {value.dtype for value in paddle.load(run.path(*name)).values()}
        assert kinds == {paddle.float32}, name
    assert FeatureBank.load(run.path("features", "bank.npz")).features.dtype == np.float32
    assert task_kinds == {paddle.float32}
    asked.clear()
    assert run.val(precision="fp16", amp_level=level)["hiou"] is not None
    assert asked == [(level, "float16")]


def test_without_the_flags_nothing_is_asked_for(finished, tmp_path, asked):
    run = finished("custom").copy(tmp_path / "run")
    run.again(stage="features")
    run.again(stage="generator")
    assert asked == []


class _Half(nn.Layer):
    """Its features are of half precision, as under O1 and O2 on a GPU."""

    def __init__(self):
        super().__init__()
        self.stem, self.classes = nn.Conv2D(3, 5, 1), nn.Conv2D(5, 4, 1)

    def forward(self, x):
        return [self.classes(self.stem(x).astype("float16"))]


def test_features_are_float32_whatever_reaches_the_layer():
    extractor = FeatureExtractor(_Half(), 4, "classes", "fp16", "O2")
    image = paddle.to_tensor(np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32))
    features = extractor(image)
    assert features.dtype == paddle.float32
    np.testing.assert_allclose(features.numpy(), extractor.model.stem(image).numpy(), rtol=2e-3,
                               atol=1e-4)


def test_a_model_that_training_made_half_is_float32_again(finished, tmp_path, monkeypatch):
    made = finished("custom")
    run = Run(ZeroShotConfig(made.recipe.config, [*made.recipe.opts, f"save_dir={tmp_path}"]))
    models = []

    def halve(model, *args, iters, **kwargs):
        models.append(model)
        model.to(dtype="float16")
        save_state({}, str(tmp_path / "segmentor" / f"iter_{iters}" / "model.pdparams"))

    monkeypatch.setattr(segmentor, "train", halve)
    run.stage("segmentor").run(run.context)
    assert {value.dtype for value in models[0].state_dict().values()} == {paddle.float32}


def test_a_full_model_is_left_as_it_is():
    model = nn.Linear(2, 2)
    model.register_buffer("count", paddle.zeros([1], "int64"))
    weight = model.weight
    precision.restore_full_precision(model)
    assert model.weight is weight and model.count.dtype == paddle.int64


@pytest.mark.parametrize("relation", ["edges", "prototypes"])
def test_the_objective_is_float32_from_half_outputs(relation):
    rng = np.random.default_rng(0)
    paddle.seed(0)
    generator = StructuralGenerator(6, 5, 3, hidden_dim=4)
    task = GeneratorTask(generator, rng.normal(size=(7, 6)).astype(np.float32),
                         rng.normal(size=(4, 5)).astype(np.float32), [0, 1, 2, 3], [4, 5, 6], 8,
                         relation)
    losses = {"types": [MMDLoss("auto"), PairwiseRelationLoss(), ListwiseRelationLoss()],
              "coef": [1.0, 1.0, 1.0]}
    real = rng.normal(size=(1, 4, 9, 5)).astype(np.float16)
    data = {"img": paddle.to_tensor(real), "label": paddle.to_tensor([[9, 9, 9, 9]])}
    outputs = [output.detach().astype("float16") for output in task()]
    task.eval()
    with paddle.amp.auto_cast(level="O2"):
        terms = task.loss_computation(outputs, losses, data)
    exact = task.loss_computation([output.astype("float32") for output in outputs], losses,
                                  {**data, "img": data["img"].astype("float32")})
    for term, expected in zip(terms, exact):
        assert term.dtype == paddle.float32
        assert float(term) == pytest.approx(float(expected), rel=1e-5)


def test_a_bank_of_half_precision_takes_half_the_room_and_scales_to_float32(tmp_path):
    rng = np.random.default_rng(0)
    features, labels = rng.normal(3, 2, (40, 6)).astype(np.float32), np.arange(40) % 2
    banks = []
    for dtype in ("float32", "float16"):
        sampler = BottomKSampler(2, 10, dtype=dtype)
        positions, classes, keys = sampler.candidates(labels, [0])
        sampler.add(features[positions], classes, keys)
        path = str(tmp_path / f"{dtype}.npz")
        sampler.bank().save(path)
        banks.append(FeatureBank.load(path))
    full, half = banks
    assert half.features.nbytes * 2 == full.features.nbytes
    np.testing.assert_allclose(half.features.astype(np.float32), full.features, rtol=1e-3)
    scaled = half.scaled(half.scale())
    assert scaled.features.dtype == scaled.prototypes(np.arange(2)).dtype == np.float32
    np.testing.assert_allclose(scaled.features, full.scaled(full.scale()).features, atol=5e-3)


def test_another_dtype_of_the_bank_is_refused():
    with pytest.raises(UserError, match="`zero_shot.features.dtype: int8` must be float32 or "):
        BottomKSampler(2, 10, dtype="int8")
