"""SPNet and SegDeViSE through the command line: stages, records, the stock model at the end."""

import os
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest

import held_out
from helpers.tiny_config import tiny_content, write_config
from helpers.tiny_runs import STAGES, Recipe, config_path, differing, run_all, times
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation.evaluate import evaluate
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.models import ProjectionSegmentor
from paddle_csrl.run import Run
from paddle_csrl.stages.seen_cost import COSTS
from paddle_csrl.utils import read_json

SYSTEMS = ("spnet", "segdevise")
SIMILARITY = {"spnet": "dot", "segdevise": "cosine"}
#: Of the configs, which tiny runs are without.
PRICED = ("classifier.calibration=auto", "classifier.seen_cost=auto")
DATA = [f"{data}_unseen{count}" for data in ("voc", "context") for count in (2, 4, 6, 8, 10)]


# Configs.

@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("data", [*DATA, "shapes", "custom"])
def test_a_config_is_that_of_csrl_but_for_the_system(system, data):
    """Data, splits, network and schedule are stated once, in the config of CSRL."""
    own = ZeroShotConfig(config_path(f"{system}/{system}_{data}"))
    csrl = ZeroShotConfig(config_path(
        "ablation/csrl_hull_custom" if data == "custom" else f"csrl_{data}"))
    assert own.projection.similarity == SIMILARITY[system] and csrl.projection is None
    assert own.save_dir.endswith(f"{system}_{data}")
    loss = {"spnet": "CrossEntropyLoss", "segdevise": "CosineRegressionLoss"}[system]
    assert [item["type"] for item in own.dic["loss"]["types"]] == [loss]
    assert own.dic["classifier"]["calibration"] == own.dic["classifier"]["seen_cost"] == "auto"
    changed = {key for key in own.dic if own.dic[key] != csrl.dic.get(key)}
    assert changed <= {"projection", "loss", "save_dir"}


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
    ({"projection": {"similarity": "euclid"}}, "`projection.similarity: euclid` must be "
                                               "'dot' or 'cosine'"),
    ({"projection": {"similarity": ["dot"]}}, "`projection.similarity: .* must be 'dot' or"),
    ({"projection": {"similarty": "dot"}}, "unknown key `projection.similarty`; did you mean "
                                           "`similarity`"),
    ({"loss": {"types": [{"type": "CosineRegressionLoss"}], "coef": [1]}},
     "`loss` names CosineRegressionLoss, .* set `projection.similarity: cosine`"),
    ({"classifier": {"calibration": "much"}}, "`classifier.calibration: much` must be a valid"),
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
        Path(run.output(stage)).write_text(stage)
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
    Path(tmp_path / "out" / "features").mkdir()
    Path(tmp_path / "out" / "features" / "bank.npz").write_text("features")
    assert changed(**{"classifier.calibration": "auto"}) == {
        "classifier": ["bank", "calibration", "normalize", "seen_cost"]}


# Finished runs.

@pytest.mark.parametrize("name", SYSTEMS)
def test_a_run_leaves_a_stock_segmentor(finished, name):
    run = finished(name)
    written = set(os.listdir(run.folder))
    assert written >= {"segmentor", "classifier", "config.yml", "metrics.json", "model.pdparams",
                       "predictions"}
    assert not written & {"features", "generator"}
    stock = run.builder().model
    final, trained = run.weights(), run.weights("segmentor")
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
    layer = run.weights("classifier")
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


def test_training_moves_the_projection_and_the_network(finished):
    first, last = (finished("spnet").weights("segmentor", name) for name in ("iter_2", "iter_4"))
    changed = differing(first, last)
    for part in ("backbone.low", "head.decoder.conv.projection"):
        assert any(part in key for key in changed), part


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_finished_run_is_not_run_again(finished, tmp_path, name, capsys):
    assert not finished(name).copy(tmp_path / "run").redo() & set(STAGES)
    assert "[segmentor] up to date" in capsys.readouterr().out


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished SPNet, to be changed."""
    return finished("spnet").copy(tmp_path / "run")


def test_calibration_is_folded_without_training(finished, run):
    original = finished("spnet")
    assert run.redo("classifier.calibration=0.5") & set(STAGES) == {"classifier"}
    one, other, bias = original.weights(), run.weights(), "head.decoder.conv.bias"
    assert differing(one, other) == [bias]
    seen = [item["seen"] for item in original.metrics["classes"]]
    np.testing.assert_allclose(one[bias] - other[bias], 0.5 * np.array(seen), atol=1e-6)
    shutil.rmtree(run.path("classifier"))
    run.again()
    assert not differing(run.weights(), original.weights())


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_price_makes_features_and_is_paid(finished, tmp_path, name):
    """`auto`: the final layer gives the share of the bank's features away that the record says."""
    run = finished(name).copy(tmp_path / "run")
    assert run.redo(*PRICED) & set(STAGES) == {"features", "classifier"}
    record = read_json(run.path("calibration.json"))
    assert record["seen_cost"] in COSTS
    bank, is_unseen = FeatureBank.load(run.path("features", "bank.npz")), \
        run.builder().classes.is_unseen
    assert bank.counts.any() and not bank.counts[is_unseen].any()
    one, other, bias = finished(name).weights(), run.weights(), "head.decoder.conv.bias"
    assert differing(one, other) == [bias]
    np.testing.assert_allclose(one[bias] - other[bias], record["calibration"] * ~is_unseen,
                               atol=1e-5)
    weight = other["head.decoder.conv.weight"][:, :, 0, 0]
    lost = [is_unseen[(bank.of(c) @ weight.T + other[bias]).argmax(1)].mean()
            for c in bank.present_ids]
    assert np.mean(lost) == pytest.approx(record["seen_cost"], abs=0.02)
    assert not run.redo(*PRICED) & set(STAGES)


def test_features_of_a_projection_are_those_of_its_network(finished, run):
    """Folding takes its last layer away, and nothing before it."""
    run.redo(*PRICED)
    builder = run.builder(*PRICED)
    model = builder.new_projection()
    model.set_state_dict(paddle.load(run.path("segmentor", "model.pdparams")))
    model.eval()
    seen, layer = [], model.layer
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
    for sample in builder.feature_dataset:
        model(paddle.to_tensor(sample["img"][None]))
    rows = np.concatenate([item[0].reshape(item.shape[1], -1).T for item in seen])
    bank = FeatureBank.load(run.path("features", "bank.npz"))
    for feature in bank.features[::7]:
        assert np.abs(rows - feature).max(1).min() < 1e-4


def test_other_embeddings_train_anew(run):
    changed = run.redo("zero_shot.embeddings.words={'cow':'horse'}")
    assert changed & set(STAGES) == {"segmentor", "classifier"}


def test_stages_one_by_one_make_the_same_bits(finished, tmp_path):
    original = finished("spnet")
    run = original._replace(folder=str(tmp_path / "run"))
    with pytest.raises(UserError, match="stage segmentor has not finished"):
        run.again(stage="classifier")
    assert run.again(stage="segmentor") == {}
    assert run.again(stage="classifier")["hiou"] == original.metrics["hiou"]
    for folder in ("segmentor", ""):
        assert not differing(run.weights(folder), original.weights(folder))


@pytest.mark.parametrize("name, policy", [("spnet", "ignore"), ("segdevise", "drop")])
def test_policies(finished, name, policy):
    """The two runs are under one policy each."""
    run = finished(name)
    audit = run.builder().train_dataset.audit()
    assert audit["policy"] == policy and audit["pixels_unseen_used"] == 0
    assert (audit["images_dropped"] > 0) is (policy == "drop")
    assert (audit["pixels_ignored_unseen"] > 0) is (policy == "ignore")
    assert all(np.isfinite(value).all() for value in run.weights().values())


# Mistakes on the command line.

@pytest.mark.parametrize("stage, opts, stages", [
    ("features", (), "segmentor, classifier"),
    ("generator", PRICED, "segmentor, features, classifier")])
def test_a_stage_that_the_run_has_not_is_refused(finished, tmp_path, stage, opts, stages):
    run = finished("spnet")._replace(folder=str(tmp_path / "run"))
    with pytest.raises(UserError, match=f"--stage {stage}: .*spnet_custom.yml has a `projection` "
                                        f"and its stages are {stages}") as caught:
        run.again(*opts, stage=stage)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_folding_takes_no_flags_of_training(run):
    with pytest.raises(UserError, match="classifier: leave out --iters, for it trains nothing"):
        run.again(stage="classifier", iters=5)


def test_folding_cannot_be_resumed(run):
    shutil.copytree(run.path("segmentor", "iter_2"), run.path("classifier", "iter_2"))
    with pytest.raises(UserError, match="classifier cannot go on from a checkpoint; leave the"):
        run.again(resume_model=run.path("classifier", "iter_2"))


def test_torn_weights_of_stage_one_are_named(run):
    os.truncate(run.path("segmentor", "model.pdparams"), 900)
    before = times(run.folder)
    with pytest.raises(UserError, match="segmentor/model.pdparams has 900 bytes instead of"):
        run.again(stage="classifier")
    assert times(run.folder)["model.pdparams"] == before["model.pdparams"]


# Other starting points.

@pytest.fixture
def spnet(finished):
    """SPNet's recipe on the data of a finished CSRL run."""
    return Recipe(config_path("spnet/spnet_custom"), finished("custom").recipe.opts)


@pytest.mark.parametrize("name", ["segmentor", "segmentor/iter_2", ""])
def test_a_stock_checkpoint_starts_all_but_the_last_layer(finished, spnet, name):
    source = finished("custom")
    builder = spnet.builder(f"model.pretrained={source.path(name, 'model.pdparams')}")
    state, start = builder.new_projection().state_dict(), source.weights(name)
    last = [key for key in start if key.startswith("head.decoder.conv.")]
    assert len(last) == 2 and len(start) == len(state)
    for key in start:
        if key not in last:
            assert state[f"segmentor.{key}"].numpy().tobytes() == start[key].tobytes(), key


def test_a_run_starts_from_a_stock_checkpoint(finished, spnet, tmp_path):
    source = finished("custom")
    run = run_all(spnet, tmp_path / "run", "iters=2", "lr_scheduler.learning_rate=0.0000001",
                  f"model.pretrained={source.path('segmentor', 'model.pdparams')}")
    start, end = source.weights("segmentor"), run.weights()
    key = "backbone.low.0._conv.weight"
    np.testing.assert_allclose(end[key], start[key], atol=1e-5)
    assert not np.allclose(start["head.decoder.conv.weight"], end["head.decoder.conv.weight"],
                           atol=1e-3)


def test_held_out_classes_choose_the_calibration(finished, tmp_path):
    """The comparison on held-out seen classes shares stage 1 among calibrations."""
    recipe = finished("spnet").recipe
    summary = held_out.main([
        "-c", recipe.config, "--out", str(tmp_path), "--fold", "dog", "--variant", "none=",
        "--variant", "all=classifier.calibration=100.0", "--opts", *recipe.opts])
    # Nothing seen is predicted where 100 is taken off the scores of seen classes.
    assert summary["all", "seen_miou"] == 0 < summary["none", "seen_miou"]
