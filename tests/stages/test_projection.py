"""SPNet and SegDeViSE through the command line: stages, records, the stock model at the end."""

import os
import shutil

import cv2
import numpy as np
import paddle
import pytest

import paddle_csrl  # noqa: F401  (first: it orders the imports of cv2 and paddle)
from helpers import tiny_runs
from helpers.tiny_config import tiny_content, write_config
from helpers.tiny_runs import STAGES, config_path, run_all, times
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.cli import train
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation.evaluate import evaluate
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.models import ProjectionSegmentor
from paddle_csrl.run import Run

SYSTEMS = ("spnet", "segdevise")
SIMILARITY = {"spnet": "dot", "segdevise": "cosine"}
DATA = [f"{data}_unseen{count}" for data in ("voc", "context") for count in (2, 4, 6, 8, 10)]


def weights(path):
    return {key: value.numpy() for key, value in paddle.load(path).items()}


def same_weights(first, second):
    one, other = weights(first), weights(second)
    return list(one) == list(other) and all(
        one[key].tobytes() == other[key].tobytes() for key in one)


def redone(before, after):
    """Stages that differ between two results of ``times``."""
    return {name.split(os.sep)[0] for name in set(before) | set(after)
            if before.get(name) != after.get(name)} & set(STAGES)


# Configs.

@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("data", [*DATA, "shapes", "custom"])
def test_a_config_is_that_of_csrl_but_for_the_system(system, data):
    """Data, splits, network and schedule are stated once, in the config of CSRL."""
    own = ZeroShotConfig(config_path(f"{system}/{system}_{data}"))
    csrl = ZeroShotConfig(config_path(f"csrl_{data}"))
    assert own.projection.similarity == SIMILARITY[system] and csrl.projection is None
    assert own.save_dir.endswith(f"{system}_{data}")
    loss = {"spnet": "CrossEntropyLoss", "segdevise": "CosineRegressionLoss"}[system]
    assert [item["type"] for item in own.dic["loss"]["types"]] == [loss]
    assert own.dic["classifier"]["calibration"] == 0
    changed = {key for key in own.dic if own.dic[key] != csrl.dic.get(key)}
    assert changed <= {"projection", "loss", "classifier", "save_dir"}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    whole = tiny_content(str(tmp_path_factory.mktemp("data")))
    del whole["generator"], whole["classifier"]
    return {**whole, "projection": {"similarity": "dot"}}


def load(tmp_path, content, **overrides):
    return ZeroShotConfig(write_config(tmp_path / "tiny.yml", content), overrides=overrides)


def test_sections_of_generation_are_not_needed(tmp_path, content):
    config = load(tmp_path, content)
    assert Run(config).stages == ("segmentor", "classifier") and Run(config).calibration == 0
    empty = load(tmp_path, {**content, "generator": None, "classifier": None, "seed": 3})
    assert Run(empty).calibration == 0 and Run(empty).seed("classifier") == 3


def test_a_projection_may_be_taken_back(tmp_path, content):
    whole = tiny_content(str(tmp_path))
    assert Run(load(tmp_path, {**whole, "projection": None})).stages == STAGES
    with pytest.raises(UserError, match="`generator` is missing"):
        load(tmp_path, {**content, "projection": None})


@pytest.mark.parametrize("changes, match", [
    ({"projection": {}}, "`projection.similarity` is missing"),
    ({"projection": 5}, "`projection` must hold `key: value` pairs"),
    ({"projection": {"similarity": "euclid"}}, "`projection.similarity: euclid` must be one of "
                                               "dot, cosine"),
    ({"projection": {"similarity": ["dot"]}}, "`projection.similarity: .* must be one of"),
    ({"projection": {"similarty": "dot"}}, "unknown key `projection.similarty`; did you mean "
                                           "`similarity`"),
    ({"loss": {"types": [{"type": "CosineRegressionLoss"}], "coef": [1]}},
     "`loss` names CosineRegressionLoss, .* set `projection.similarity: cosine`"),
    ({"classifier": {"calibration": "much"}}, "`classifier.calibration: much` must be a number"),
    ({"segmentor_weights": "a.pdparams"}, "`segmentor_weights` stands for a trained stage 1, .* "
                                          "set `model.pretrained: a.pdparams`"),
    ({"generator": {"iterss": 3}}, "unknown key `generator.iterss`"),
])
def test_mistakes_are_told_in_one_line(tmp_path, content, changes, match):
    with pytest.raises(UserError, match=match) as caught:
        load(tmp_path, {**content, **changes})
    assert "\n" not in str(caught.value)


def test_the_regression_loss_needs_a_projection(tmp_path):
    whole = tiny_content(str(tmp_path))
    whole["loss"]["types"] = [{"type": "CosineRegressionLoss"}]
    with pytest.raises(UserError, match="`loss` names CosineRegressionLoss"):
        load(tmp_path, whole)


def test_what_a_stage_depends_on(tmp_path, content):
    """The projection adds to what stage 1 depends on; without it nothing is added."""
    run = Run(load(tmp_path, content, save_dir=str(tmp_path / "out")))
    plain = Run(load(tmp_path, {**tiny_content(str(tmp_path))}))
    inputs = run.inputs("segmentor")
    assert set(inputs) - set(plain.inputs("segmentor")) == {"projection", "embeddings"}
    assert inputs["projection"] == {"similarity": "dot"}
    for stage in run.stages:
        run.begin(stage)
        with open(run.output(stage), "w", encoding="utf-8") as file:
            file.write(stage)
        run.finish(stage, format=1, inputs=run.inputs(stage))

    def changed(**overrides):
        other = Run(load(tmp_path, content, save_dir=str(tmp_path / "out"), **overrides))
        return {stage: other.changes(stage) for stage in other.stages if other.changes(stage)}

    assert changed() == {}
    assert changed(**{"classifier.calibration": 1.0}) == {"classifier": ["calibration"]}
    assert changed(**{"classifier.iters": 9, "generator.iters": 9}) == {}
    assert changed(**{"projection.similarity": "cosine"}) == {"segmentor": ["projection"]}
    assert changed(**{"zero_shot.embeddings.words": {"cat": "tiger"}}) == {
        "segmentor": ["embeddings"], "classifier": ["embeddings"]}


# Finished runs.

@pytest.mark.parametrize("name", SYSTEMS)
def test_a_run_leaves_a_stock_segmentor(finished, name):
    run = finished(name)
    written = set(os.listdir(run.folder))
    assert written >= {"segmentor", "classifier", "config.yml", "metrics.json", "model.pdparams",
                       "predictions"}
    assert not written & {"features", "generator"}
    stock = run.builder().model
    final, trained = weights(run.path("model.pdparams")), weights(
        run.path("segmentor", "model.pdparams"))
    assert {key: value.shape for key, value in final.items()} == {
        key: tuple(value.shape) for key, value in stock.state_dict().items()}
    for key in final:
        if not key.startswith("head.decoder.conv."):
            assert final[key].tobytes() == trained[f"segmentor.{key}"].tobytes(), key
    rows = run.builder().embeddings.astype(np.float64)
    projection = "segmentor.head.decoder.conv.projection"
    np.testing.assert_allclose(final["head.decoder.conv.weight"][:, :, 0, 0],
                               rows @ trained[f"{projection}.weight"][:, :, 0, 0], atol=1e-6)
    np.testing.assert_allclose(final["head.decoder.conv.bias"],
                               rows @ trained[f"{projection}.bias"], atol=1e-6)
    layer = weights(run.path("classifier", "model.pdparams"))
    assert {f"head.decoder.conv.{key}": value.tobytes() for key, value in layer.items()} == {
        key: final[key].tobytes() for key in final if key.startswith("head.decoder.conv.")}


@pytest.mark.parametrize("name", SYSTEMS)
def test_scores_are_those_of_the_nearest_embedding(finished, name):
    """val.py on the stock weights, the run itself and the projection itself agree."""
    run = finished(name)
    keys = ("seen_miou", "unseen_miou", "miou", "hiou", "pixel_accuracy", "classes")
    scored = run.val()
    assert [scored[key] for key in keys] == [run.metrics[key] for key in keys]
    builder = run.builder()
    model = builder.new_projection()
    assert isinstance(model, ProjectionSegmentor) and model.similarity == SIMILARITY[name]
    model.set_state_dict(paddle.load(run.path("segmentor", "model.pdparams")))
    evaluator = ZeroShotEvaluator(len(builder.classes.names), builder.classes.unseen_ids)
    scores = evaluate(model, builder.val_dataset, evaluator).compute()
    assert scores["pixel_accuracy"] == pytest.approx(run.metrics["pixel_accuracy"], abs=1e-3)
    for score, item in zip(scores["class_iou"], run.metrics["classes"]):
        assert score == pytest.approx(item["iou"], abs=1e-3)


@pytest.mark.parametrize("name", SYSTEMS)
def test_pictures_decode(finished, name):
    run = finished(name)
    pictures = os.listdir(run.path("predictions"))
    assert len(pictures) == run.metrics["images"]
    for picture in pictures:
        assert cv2.imread(run.path("predictions", picture)).std() > 10


def test_training_moves_the_projection_and_the_network(finished):
    run = finished("spnet")
    first, last = (weights(run.path("segmentor", name, "model.pdparams"))
                   for name in ("iter_2", "iter_4"))
    for part in ("backbone.low", "head.decoder.conv.projection"):
        assert any((first[key] != last[key]).any() for key in first if part in key), part


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_finished_run_is_not_run_again(finished, tmp_path, name, capsys):
    run = finished(name).copy(tmp_path / "run")
    before = times(run.folder)
    run.again()
    assert redone(before, times(run.folder)) == set()
    assert "[segmentor] up to date" in capsys.readouterr().out


def test_calibration_is_folded_without_training(finished, tmp_path):
    original = finished("spnet")
    run = original.copy(tmp_path / "run")
    before = times(run.folder)
    run.again("classifier.calibration=0.5")
    assert redone(before, times(run.folder)) == {"classifier"}
    one, other = (weights(item.path("model.pdparams")) for item in (original, run))
    bias = "head.decoder.conv.bias"
    seen = [item["seen"] for item in original.metrics["classes"]]
    np.testing.assert_allclose(one.pop(bias) - other.pop(bias), 0.5 * np.array(seen), atol=1e-6)
    assert all(one[key].tobytes() == other[key].tobytes() for key in one)
    shutil.rmtree(run.path("classifier"))
    run.again()
    assert same_weights(run.path("model.pdparams"), original.path("model.pdparams"))


def test_other_embeddings_train_anew(finished, tmp_path):
    run = finished("spnet").copy(tmp_path / "run")
    before = times(run.folder)
    run.again("zero_shot.embeddings.words={'cow':'horse'}")
    assert redone(before, times(run.folder)) == {"segmentor", "classifier"}


def test_an_interrupted_training_goes_on(finished, tmp_path):
    run = finished("spnet").copy(tmp_path / "run")
    before = times(run.folder)
    run.again("iters=6", resume_model=run.path("segmentor", "iter_4"))
    after = times(run.folder)
    assert after["segmentor/iter_4/model.pdparams"] == before["segmentor/iter_4/model.pdparams"]
    state = paddle.load(run.path("segmentor", "iter_6", "model.pdopt"))
    assert state["LR_Scheduler"]["last_epoch"] == 6
    moments = [key for key in state if "moment1" in key]
    assert len(moments) == len([item for item in run.builder().new_projection().parameters()
                                if not item.stop_gradient])
    assert redone(before, after) == {"segmentor", "classifier"}


def test_stages_one_by_one_make_the_same_bits(finished, tmp_path):
    recipe = finished("spnet").recipe
    argv = [recipe.argv(save_dir=tmp_path / "run", stage=stage)
            for stage in ("segmentor", "classifier")]
    with pytest.raises(UserError, match="stage segmentor has not finished"):
        train.main(argv[1])
    results = [train.main(line) for line in argv]
    assert results[0] == {} and results[1]["hiou"] == finished("spnet").metrics["hiou"]
    for output in ("segmentor/model.pdparams", "model.pdparams"):
        assert same_weights(str(tmp_path / "run" / output), finished("spnet").path(output))


@pytest.mark.parametrize("name, policy", [("spnet", "ignore"), ("segdevise", "drop")])
def test_policies(finished, name, policy):
    """The two runs are under one policy each."""
    run = finished(name)
    audit = run.builder().train_dataset.audit()
    assert audit["policy"] == policy and audit["pixels_unseen_used"] == 0
    assert (audit["images_dropped"] > 0) is (policy == "drop")
    assert all(np.isfinite(value).all() for value in weights(run.path("model.pdparams")).values())


# Mistakes on the command line.

@pytest.mark.parametrize("stage", ["features", "generator"])
def test_a_stage_that_the_run_has_not_is_refused(finished, tmp_path, stage):
    recipe = finished("spnet").recipe
    with pytest.raises(UserError, match=f"--stage {stage}: .*spnet_custom.yml has a `projection` "
                                        f"and its stages are segmentor, classifier") as caught:
        train.main(recipe.argv(save_dir=tmp_path / "run", stage=stage))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_folding_takes_no_flags_of_training(finished, tmp_path):
    run = finished("spnet").copy(tmp_path / "run")
    with pytest.raises(UserError, match="classifier: leave out --iters, for it trains nothing"):
        run.again(stage="classifier", iters=5)


def test_folding_cannot_be_resumed(finished, tmp_path):
    run = finished("spnet").copy(tmp_path / "run")
    shutil.copytree(run.path("segmentor", "iter_2"), run.path("classifier", "iter_2"))
    with pytest.raises(UserError, match="classifier cannot go on from a checkpoint; leave the"):
        run.again(resume_model=run.path("classifier", "iter_2"))


def test_torn_weights_of_stage_one_are_named(finished, tmp_path):
    run = finished("spnet").copy(tmp_path / "run")
    with open(run.path("segmentor", "model.pdparams"), "r+b") as file:
        file.truncate(900)
    before = times(run.folder)
    with pytest.raises(UserError, match="segmentor/model.pdparams is not a whole .pdparams"):
        run.again(stage="classifier")
    assert times(run.folder)["model.pdparams"] == before["model.pdparams"]


# Other starting points.

@pytest.mark.parametrize("name", ["segmentor", "segmentor/iter_2", ""])
def test_a_stock_checkpoint_starts_all_but_the_last_layer(finished, name):
    source = finished("custom")
    path = source.path(name, "model.pdparams")
    recipe = tiny_runs.Recipe(config_path("spnet/spnet_custom"), source.recipe.opts)
    config = ZeroShotConfig(recipe.config, [*recipe.opts, f"model.pretrained={path}"])
    state = ZeroShotBuilder(config).new_projection().state_dict()
    start = weights(path)
    last = [key for key in start if key.startswith("head.decoder.conv.")]
    assert len(last) == 2 and len(start) == len(state)
    for key in start:
        if key not in last:
            assert state[f"segmentor.{key}"].numpy().tobytes() == start[key].tobytes(), key


def test_a_run_starts_from_a_stock_checkpoint(finished, tmp_path):
    source = finished("custom")
    recipe = tiny_runs.Recipe(config_path("spnet/spnet_custom"), source.recipe.opts)
    path = source.path("segmentor", "model.pdparams")
    run = run_all(recipe, tmp_path / "run", f"model.pretrained={path}", "iters=2",
                  "lr_scheduler.learning_rate=0.0000001", "save_interval=2")
    start, end = weights(path), weights(run.path("model.pdparams"))
    key = "backbone.low.0._conv.weight"
    np.testing.assert_allclose(end[key], start[key], atol=1e-5)
    assert not np.allclose(start["head.decoder.conv.weight"], end["head.decoder.conv.weight"],
                           atol=1e-3)


def test_held_out_classes_choose_the_calibration(finished, tmp_path):
    """The comparison on held-out seen classes shares stage 1 among calibrations."""
    import importlib.util

    path = os.path.join(tiny_runs.ROOT, "scripts", "held_out.py")
    spec = importlib.util.spec_from_file_location("held_out", path)
    held_out = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(held_out)
    recipe = finished("spnet").recipe
    summary = held_out.main([
        "-c", recipe.config, "--out", str(tmp_path), "--fold", "dog", "--variant", "none=",
        "--variant", "all=classifier.calibration=100.0", "--opts", *recipe.opts])
    # Nothing seen is predicted where 100 is taken off the scores of seen classes.
    assert summary["all", "seen_miou"] == 0 < summary["none", "seen_miou"]
