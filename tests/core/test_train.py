"""Whole runs through the command line, on fabricated data in the official layouts."""

import filecmp
import json
import os
import shutil
import subprocess
import sys
import textwrap

import cv2
import numpy as np
import paddle
import paddleseg
import pytest
import yaml
from visualdl import LogReader

import paddle_csrl  # first: it orders the imports of cv2 and paddle
from helpers.tiny_runs import ROOT, STAGES, Recipe, context, custom, digest, run_all, times
from helpers.tiny_runs import voc as voc_recipe
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.cli import train, val
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation.evaluate import evaluate
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.utils.weights import load_weights

SUMMARY = ("seen_miou", "unseen_miou", "miou", "hiou")
UNSEEN = {
    "shapes": ["green striped", "blue dotted", "red checkered", "yellow plain"],
    "voc": ["cow", "motorbike", "aeroplane", "sofa"],
    "context": ["cow", "motorbike"],
    "custom": ["cow", "car"],
}
NUM_CLASSES = {"shapes": 21, "voc": 21, "context": 60, "custom": 5}
CONFIGS = sorted(UNSEEN)


def weights(path: str) -> dict:
    return {key: value.numpy() for key, value in paddle.load(path).items()}


def same_weights(first: str, second: str) -> bool:
    """Whether two files hold the same names and bits; how Paddle numbers tensors is no part."""
    one, other = weights(first), weights(second)
    return list(one) == list(other) and all(
        one[key].tobytes() == other[key].tobytes() for key in one)


def changed(before: dict, after: dict) -> set:
    """Stages, or files outside of them, that differ between two results of ``times``."""
    return {name.split(os.sep)[0] for name in set(before) | set(after)
            if before.get(name) != after.get(name)}


def without_folder(metrics: dict) -> dict:
    """Metrics that do not say where they were written."""
    config = {key: value for key, value in metrics["config"].items() if key != "save_dir"}
    return {**metrics, "config": config}


def predictions(run, path: str) -> list:
    """What the weights at ``path`` predict for every validation image."""
    builder, found = run.builder(), []
    load_weights(builder.model, path)
    evaluator = ZeroShotEvaluator(len(builder.classes.names), builder.classes.unseen_ids)
    evaluate(builder.model, builder.val_dataset, evaluator,
             on_prediction=lambda index, prediction, label: found.append(prediction))
    return found


# What a run leaves behind.

@pytest.mark.parametrize("name", CONFIGS)
def test_metrics_hold_the_contract(finished, name):
    run = finished(name)
    with open(run.path("metrics.json"), encoding="utf-8") as file:
        metrics = json.load(file)
    assert metrics == json.loads(json.dumps(run.metrics))
    classes = metrics["classes"]
    assert len(classes) == NUM_CLASSES[name]
    assert sorted(item["name"] for item in classes if not item["seen"]) == sorted(UNSEEN[name])
    iou = {seen: np.array([item["iou"] for item in classes if item["seen"] is seen])
           for seen in (True, False)}
    seen, unseen = iou[True].mean(), iou[False].mean()
    assert metrics["seen_miou"] == pytest.approx(seen, abs=1e-12)
    assert metrics["unseen_miou"] == pytest.approx(unseen, abs=1e-12)
    assert metrics["miou"] == pytest.approx(np.concatenate(list(iou.values())).mean(), abs=1e-12)
    harmonic = 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0
    assert metrics["hiou"] == pytest.approx(harmonic, abs=1e-12)
    assert all(0 <= metrics[key] <= 1 for key in SUMMARY)
    assert metrics["seed"] == 0
    assert metrics["config"]["generator"]["iters"] == 4
    assert metrics["versions"]["paddlepaddle"] == paddle.__version__
    assert metrics["versions"]["paddleseg"] == paddleseg.__version__
    assert metrics["versions"]["paddle_csrl"] == paddle_csrl.__version__


@pytest.mark.parametrize("name", CONFIGS)
def test_pictures_decode(finished, name):
    run = finished(name)
    pictures = os.listdir(run.path("predictions"))
    assert len(pictures) == run.metrics["images"]
    for path in [run.path("generator", "relations.png"),
                 *(run.path("predictions", picture) for picture in pictures)]:
        image = cv2.imread(path)
        assert min(image.shape[:2]) > 100 and image.std() > 10, path


@pytest.mark.parametrize("name", CONFIGS)
def test_written_config_makes_the_same_run(finished, name):
    """config.yml is the whole config: read alone it means the same as file and --opts."""
    run = finished(name)
    again = ZeroShotConfig(run.path("config.yml"), overrides={"save_dir": run.folder})
    with open(run.path("config.yml"), encoding="utf-8") as file:
        assert yaml.safe_load(file) == again.dic
    assert again.dic == json.loads(json.dumps(run.metrics["config"]))
    assert again.dic["zero_shot"]["unseen"] in (UNSEEN[name], ",".join(UNSEEN[name]))


@pytest.mark.parametrize("name", CONFIGS)
def test_final_model_is_the_segmentor_with_another_last_layer(finished, name):
    run = finished(name)
    first, final = (weights(run.path(*path)) for path in (["segmentor", "model.pdparams"],
                                                          ["model.pdparams"]))
    assert list(first) == list(final)
    differing = [key for key in first if not np.array_equal(first[key], final[key])]
    assert len(differing) == 2 and all(key.startswith("head.decoder.conv.") for key in differing)


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_hold_nothing_but_weights(finished, name):
    """Paddle's FLOPs counter leaves buffers in layers; none of them is saved."""
    for path in ("segmentor", "generator", "classifier", ""):
        state = paddle.load(finished(name).path(path, "model.pdparams"))
        assert not [key for key in state if "total_" in key]


@pytest.mark.parametrize("number", [2, 4, 6, 8, 10])
@pytest.mark.parametrize("data", ["voc", "context"])
def test_every_split_of_the_paper_loads(tmp_path, data, number):
    make = {"voc": voc_recipe, "context": context}[data]
    recipe = make(str(tmp_path), str(tmp_path / "cache"), f"csrl_{data}_unseen{number}")
    builder = ZeroShotBuilder(ZeroShotConfig(recipe.config, recipe.opts))
    assert len(builder.classes.unseen_ids) == number and 0 not in builder.classes.unseen_ids
    assert builder.embeddings.shape == (NUM_CLASSES[data], 100)
    splits = builder.config.settings.zero_shot.unseen
    assert splits[:2] == ["cow", "motorbike"]


# Stock PaddleSeg.

STOCK = ("model.backbone={'type': 'MobileNetV3_small_x1_0'}", "model.backbone_indices=[0, 3]",
         "model.align_corners=False", "model.aspp_ratios=[1, 2, 4, 6]")


@pytest.fixture(scope="module")
def stock_run(finished, tmp_path_factory):
    """A run on a backbone that PaddleSeg itself has."""
    recipe = finished("custom").recipe
    return run_all(recipe._replace(opts=(*recipe.opts, *STOCK)),
                   tmp_path_factory.mktemp("stock") / "run")


def test_final_model_predicts_alike_in_stock_paddleseg(stock_run, tmp_path):
    """Nothing of this package is imported where the weights are loaded."""
    images = [item[0] for item in stock_run.builder().val_dataset.file_list]
    script = textwrap.dedent("""
        import sys
        import cv2
        import numpy as np
        import paddle
        from paddleseg.models import DeepLabV3P, MobileNetV3_small_x1_0
        from paddleseg.transforms import Compose, Normalize

        weights, out, *images = sys.argv[1:]
        paddle.set_device("cpu")
        model = DeepLabV3P(5, MobileNetV3_small_x1_0(), backbone_indices=[0, 3],
                           aspp_ratios=[1, 2, 4, 6], align_corners=False)
        state, own = paddle.load(weights), model.state_dict()
        assert set(state) == set(own), set(state) ^ set(own)
        assert all(list(state[key].shape) == list(own[key].shape) for key in own)
        model.set_state_dict(state)
        model.eval()
        prepare = Compose([Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
        found = []
        for path in images:
            image = paddle.to_tensor(prepare({"img": path, "trans_info": []})["img"][None])
            found.append(model(image)[0].argmax(1).numpy()[0])
        assert not [name for name in sys.modules if "paddle_csrl" in name]
        np.savez(out, *found)
    """)
    out = str(tmp_path / "predictions.npz")
    command = [sys.executable, "-c", script, stock_run.path("model.pdparams"), out, *images]
    subprocess.run(command, check=True, cwd=str(tmp_path), capture_output=True)
    with np.load(out) as content:
        stock = list(content.values())
    ours = predictions(stock_run, stock_run.path("model.pdparams"))
    assert len(stock) == len(ours) == 4
    for first, second in zip(stock, ours):
        assert np.array_equal(first, second)
    assert np.unique(np.concatenate([label.ravel() for label in ours])).size > 1


def test_backbone_of_paddleseg_trains(stock_run):
    assert all(0 <= stock_run.metrics[key] <= 1 for key in SUMMARY)
    first, final = (weights(stock_run.path(*path)) for path in (["segmentor", "model.pdparams"],
                                                                ["model.pdparams"]))
    assert sum(not np.array_equal(first[key], final[key]) for key in first) == 2


def test_tools_run_as_programs(finished, tmp_path):
    """tools/train.py and tools/val.py from a foreign folder, with nothing installed."""
    recipe = finished("custom").recipe
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def tool(name, argv):
        return subprocess.run([sys.executable, os.path.join(ROOT, "tools", name), *argv],
                              cwd=str(tmp_path), env=environment, capture_output=True, text=True)

    trained = tool("train.py", recipe.argv(save_dir="made"))
    assert trained.returncode == 0, trained.stderr
    assert digest(str(tmp_path / "made" / "model.pdparams")) == digest(
        finished("custom").path("model.pdparams"))
    assert "hIoU" in trained.stdout and "visualdl --logdir made" in trained.stdout
    scored = tool("val.py", recipe.argv(model_path="made/model.pdparams", out="scores.json"))
    assert scored.returncode == 0, scored.stderr
    scores, metrics = (json.loads((tmp_path / name).read_text()) for name in
                       ("scores.json", os.path.join("made", "metrics.json")))
    assert {key: scores[key] for key in SUMMARY} == {key: metrics[key] for key in SUMMARY}


@pytest.mark.parametrize("main", [train.main, val.main], ids=["train", "val"])
def test_help_needs_nothing(capsys, main):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and "--config" in said and "examples:" in said


# tools/val.py.

@pytest.mark.parametrize("name", CONFIGS)
def test_val_gives_the_numbers_of_the_run(finished, tmp_path, name):
    run = finished(name)
    out = tmp_path / "below" / "scores.json"
    metrics = run.val(out=out, picture_dir=tmp_path / "pictures")
    for key in (*SUMMARY, "classes", "images", "pixel_accuracy"):
        assert metrics[key] == run.metrics[key]
    assert json.loads(out.read_text()) == json.loads(json.dumps(metrics))
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in pictures] == sorted(os.listdir(run.path("predictions")))
    for path in pictures:
        assert np.array_equal(cv2.imread(str(path)),
                              cv2.imread(run.path("predictions", path.name)))


def test_val_without_out_writes_nothing(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished("custom").val()
    assert os.listdir(tmp_path) == []


def score_of(run, predict) -> dict:
    """Scores of ``predict(model, image batch) -> logits-like [1, C, H, W]``, computed here."""
    builder = run.builder()
    load_weights(builder.model, run.path("model.pdparams"))
    builder.model.eval()
    evaluator = ZeroShotEvaluator(len(builder.classes.names), builder.classes.unseen_ids)
    with paddle.no_grad():
        for data in builder.val_dataset:
            image = paddle.to_tensor(data["img"][None])
            label = np.asarray(data["label"]).squeeze()
            evaluator.update(predict(builder.model, image).numpy()[0].argmax(0), label)
    return evaluator.compute()


def test_val_averages_over_flips(finished):
    def predict(model, image):
        return model(image)[0] + model(image.flip(3))[0].flip(3)

    run = finished("custom")
    metrics = run.val(aug_eval=True, scales=[1.0], flip_horizontal=True)
    expected = score_of(run, predict)
    assert [item["iou"] for item in metrics["classes"]] == pytest.approx(
        expected["class_iou"].tolist(), abs=1e-3)
    assert metrics["config"]["test_config"] == {
        "aug_eval": True, "scales": [1.0], "flip_horizontal": True}


def test_val_averages_over_scales(finished):
    run = finished("custom")
    single, both = run.val(aug_eval=True, scales=[1.0]), run.val(aug_eval=True, scales=[1.0, 2.0])
    assert single["classes"] == run.metrics["classes"]
    assert both["classes"] != single["classes"]


def test_val_slides_a_window(finished):
    run = finished("custom")
    whole = run.val(is_slide=True, crop_size=[64, 64], stride=[64, 64])
    assert whole["classes"] == run.metrics["classes"]
    parts = run.val(is_slide=True, crop_size=[24, 24], stride=[16, 16])
    assert parts["classes"] != whole["classes"]
    assert all(0 <= parts[key] <= 1 for key in SUMMARY)


# Running again.

def test_second_run_does_nothing(finished, tmp_path, capsys):
    run = finished("custom").copy(tmp_path / "run")
    before = times(run.folder)
    capsys.readouterr()
    metrics = run.again()
    said = capsys.readouterr().out
    assert [f"[{stage}] up to date" in said for stage in STAGES] == [True] * 4
    assert not changed(before, times(run.folder)) & {*STAGES, "model.pdparams"}
    assert without_folder(metrics) == without_folder(run.metrics)


@pytest.mark.parametrize("change, redone", [
    (["generator.iters=2"], {"generator", "classifier"}),
    (["classifier.calibration=0.5"], {"classifier"}),
    (["zero_shot.features.samples_per_class=32"], {"features", "generator", "classifier"}),
    (["zero_shot.features.normalize=False"], {"generator", "classifier"}),
    (["zero_shot.unseen=cow"], set(STAGES)),
    (["zero_shot.policy=drop"], set(STAGES)),
    (["seed=3"], set(STAGES)),
    (["log_iters=4", "generator.log_iters=2"], set()),
])
def test_change_runs_again_what_depends_on_it(finished, tmp_path, change, redone):
    run = finished("custom").copy(tmp_path / "run")
    before = times(run.folder)
    run.again(*change)
    after = times(run.folder)
    assert changed(before, after) & set(STAGES) == redone
    assert ("model.pdparams" in changed(before, after)) == bool(redone)
    again = times(run.folder)
    run.again(*change)
    assert not changed(again, times(run.folder)) & set(STAGES)


def test_change_of_the_data_runs_all_again(tmp_path):
    recipe = custom(str(tmp_path), str(tmp_path / "cache"))
    run = run_all(recipe, tmp_path / "run")
    before = times(run.folder)
    image = run.builder().train_dataset.file_list[0][0]
    cv2.imwrite(image, 255 - cv2.imread(image))
    run.again()
    assert changed(before, times(run.folder)) >= {*STAGES, "model.pdparams"}


def test_lost_final_model_is_made_again(finished, tmp_path):
    run = finished("custom").copy(tmp_path / "run")
    os.remove(run.path("model.pdparams"))
    run.again()
    assert same_weights(run.path("model.pdparams"),
                        finished("custom").path("model.pdparams"))


@pytest.mark.parametrize("stage, output", [
    ("segmentor", "model.pdparams"), ("features", "bank.npz"), ("generator", "model.pdparams"),
    ("classifier", "model.pdparams")])
def test_lost_output_of_a_stage_is_made_again(finished, tmp_path, stage, output):
    run = finished("custom").copy(tmp_path / "run")
    os.remove(run.path(stage, output))
    run.again()
    same = same_weights if output.endswith("pdparams") else filecmp.cmp
    assert same(run.path(stage, output), finished("custom").path(stage, output))
    assert same_weights(run.path("model.pdparams"),
                        finished("custom").path("model.pdparams"))


def test_interrupted_stage_runs_again(finished, tmp_path, monkeypatch):
    """A run that dies within a stage does not pass for a finished one."""
    run = finished("custom").copy(tmp_path / "run")

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("paddle_csrl.stages.generator.GeneratorBatches.__getitem__", die)
        with pytest.raises(KeyboardInterrupt):
            run.again("generator.iters=2")
    run.again()
    assert same_weights(run.path("model.pdparams"),
                        finished("custom").path("model.pdparams"))


def test_stages_one_by_one_make_the_same_model(finished, tmp_path):
    recipe = finished("custom").recipe
    results = [train.main(recipe.argv(save_dir=tmp_path / "run", stage=stage))
               for stage in STAGES]
    assert results[:3] == [{}, {}, {}]
    assert without_folder(results[3]) == without_folder(
        finished("custom").metrics)
    assert same_weights(str(tmp_path / "run" / "model.pdparams"),
                        finished("custom").path("model.pdparams"))


@pytest.mark.parametrize("stage, missing", [
    ("features", "segmentor"), ("generator", "segmentor"), ("classifier", "segmentor")])
def test_stage_without_the_ones_before_it(finished, tmp_path, stage, missing):
    recipe = finished("custom").recipe
    with pytest.raises(UserError, match=f"stage {missing} has not finished.*--stage {missing}"):
        train.main(recipe.argv(save_dir=tmp_path / "run", stage=stage))
    assert not (tmp_path / "run").exists()


def test_stage_generator_without_features(finished, tmp_path):
    run = finished("custom").copy(tmp_path / "run")
    shutil.rmtree(run.path("features"))
    before = times(run.folder)
    with pytest.raises(UserError, match="stage features has not finished.*--stage features"):
        run.again(stage="generator")
    assert times(run.folder) == before


def test_stage_on_an_outdated_one(finished, tmp_path):
    run = finished("custom").copy(tmp_path / "run")
    with pytest.raises(UserError, match="stage segmentor .* was made with another iters"):
        run.again("iters=3", stage="generator")


def test_flags_of_a_stage(finished, tmp_path):
    """--iters and --learning_rate mean the stage that --stage names."""
    run = finished("custom").copy(tmp_path / "run")
    run.again(stage="generator", iters=3, learning_rate=0.01)
    with open(run.path("generator", "stage.json"), encoding="utf-8") as file:
        section = json.load(file)["inputs"]["generator"]
    assert section["iters"] == 3 and section["lr_scheduler"]["learning_rate"] == 0.01
    assert os.path.isdir(run.path("generator", "iter_3"))


# Resuming.

def test_segmentor_resumes(finished, tmp_path):
    run = finished("custom").copy(tmp_path / "run")
    before = times(run.folder)
    run.again("iters=6", resume_model=run.path("segmentor", "iter_4"))
    after = times(run.folder)
    assert after["segmentor/iter_4/model.pdparams"] == before["segmentor/iter_4/model.pdparams"]
    state = paddle.load(run.path("segmentor", "iter_6", "model.pdopt"))
    assert state["LR_Scheduler"]["last_epoch"] == 6
    assert changed(before, after) >= {*STAGES, "model.pdparams"}
    again = times(run.folder)
    run.again("iters=6")
    assert not changed(again, times(run.folder)) & set(STAGES)


def test_generator_resumes(finished, tmp_path):
    run = finished("custom").copy(tmp_path / "run")
    before = times(run.folder)
    run.again("generator.iters=6", resume_model=run.path("generator", "iter_4"))
    after = times(run.folder)
    assert after["generator/iter_4/model.pdparams"] == before["generator/iter_4/model.pdparams"]
    assert changed(before, after) & set(STAGES) == {"generator", "classifier"}
    # The warm-up goes on where it was, too.
    assert int(paddle.load(run.path("generator", "iter_6", "model.pdparams"))["step"]) == 6


def test_classifier_resumes(finished, tmp_path):
    run = finished("custom").copy(tmp_path / "run")
    before = times(run.folder)
    run.again("classifier.iters=6", resume_model=run.path("classifier", "iter_4"))
    assert changed(before, times(run.folder)) & set(STAGES) == {"classifier"}
    assert paddle.load(run.path("classifier", "iter_6", "model.pdopt"))[
        "LR_Scheduler"]["last_epoch"] == 6


# Chance.

def test_same_seed_gives_the_same_bits(finished, tmp_path):
    """A second run of every stage, and the first one's weights, bank and scores."""
    first = finished("custom")
    second = run_all(first.recipe, tmp_path / "run")
    for name in ("model.pdparams", "segmentor/model.pdparams", "generator/model.pdparams",
                 "classifier/model.pdparams", "features/bank.npz"):
        assert digest(second.path(name)) == digest(first.path(name)), name
    assert without_folder(second.metrics) == without_folder(first.metrics)


def test_seed_changes_every_stage(finished, tmp_path):
    first = finished("custom")
    second = run_all(first.recipe, tmp_path / "run", seed=1)
    assert second.metrics["seed"] == 1
    for stage in ("segmentor", "generator", "classifier"):
        one, other = (weights(run.path(stage, "model.pdparams")) for run in (first, second))
        differing = [key for key in one if not np.array_equal(one[key], other[key])]
        assert differing, stage


def test_seed_of_a_stage_changes_that_stage(finished, tmp_path):
    run = finished("custom").copy(tmp_path / "run")
    before = times(run.folder)
    run.again("generator.seed=5")
    assert changed(before, times(run.folder)) & set(STAGES) == {"generator", "classifier"}


# Variants.

def test_policy_ignore_uses_every_image(finished):
    builder = finished("custom").builder()
    audit = builder.train_dataset.audit()
    assert audit["images_dropped"] == 0 and audit["pixels_ignored_unseen"] > 0
    assert audit["pixels_unseen_used"] == 0


def test_prototypes_as_relation(finished, tmp_path):
    run = finished("custom").copy(tmp_path / "run")
    run.again("generator.relation=prototypes")
    one, other = (weights(path) for path in (
        run.path("generator", "model.pdparams"),
        finished("custom").path("generator", "model.pdparams")))
    assert any(not np.array_equal(one[key], other[key]) for key in one)
    assert cv2.imread(run.path("generator", "relations.png")) is not None


def test_without_evaluation_the_last_segmentor_is_kept(finished, tmp_path):
    run = run_all(finished("custom").recipe, tmp_path / "run",
                  **{"no-do_eval": True, "no-use_vdl": True})
    assert not os.path.exists(run.path("segmentor", "best_model"))
    assert digest(run.path("segmentor", "model.pdparams")) == digest(
        run.path("segmentor", "iter_4", "model.pdparams"))
    assert all(0 <= run.metrics[key] <= 1 for key in SUMMARY)
    assert not [name for name in times(run.folder) if "vdlrecords" in name]


def test_best_segmentor_is_kept(finished):
    run = finished("custom")
    assert digest(run.path("segmentor", "model.pdparams")) == digest(
        run.path("segmentor", "best_model", "model.pdparams"))


def test_calibration_lowers_seen_classes_only(finished, tmp_path):
    run = finished("custom").copy(tmp_path / "run")
    run.again("classifier.calibration=2.5")
    before, after = (weights(path) for path in (finished("custom").path("model.pdparams"),
                                                run.path("model.pdparams")))
    key = "head.decoder.conv.bias"
    assert after[key] - before[key] == pytest.approx([-2.5, -2.5, -2.5, 0, 0], abs=1e-5)
    assert all(np.array_equal(before[name], after[name]) for name in before if name != key)


def test_wrapper_written_out_in_the_config(finished, tmp_path):
    """``type: ZeroShotDataset`` around the data set means what ``zero_shot`` says."""
    recipe = finished("custom").recipe
    config = ZeroShotConfig(recipe.config, recipe.opts).dic
    zero_shot = config["zero_shot"]
    for split in ("train", "val"):
        config[f"{split}_dataset"] = {
            "type": "ZeroShotDataset", "dataset": config[f"{split}_dataset"],
            "unseen": zero_shot["unseen"], "policy": zero_shot["policy"]}
    path = tmp_path / "written_out.yml"
    path.write_text(yaml.safe_dump(config))
    run = run_all(Recipe(str(path), ()), tmp_path / "run")
    assert same_weights(run.path("model.pdparams"),
                        finished("custom").path("model.pdparams"))


def test_worker_processes_change_nothing(finished, tmp_path):
    recipe = finished("custom").recipe
    train.main(recipe.argv(save_dir=tmp_path / "run", stage="segmentor", num_workers=2))
    train.main(recipe.argv(save_dir=tmp_path / "run", stage="features", num_workers=2))
    banks = [FeatureBank.load(os.path.join(folder, "features", "bank.npz"))
             for folder in (str(tmp_path / "run"), finished("custom").folder)]
    assert np.array_equal(banks[0].counts, banks[1].counts)


# VisualDL.

def read_log(run, folder: str) -> LogReader:
    [name] = [name for name in os.listdir(run.path(folder)) if name.startswith("vdlrecords")]
    return LogReader(file_path=run.path(folder, name))


def scalars(reader: LogReader) -> dict:
    """Tag to {step: value}."""
    tags = reader.get_tags().get("scalar", [])
    return {tag: {item.id: item.value for item in reader.get_data("scalar", tag)} for tag in tags}


def test_log_of_the_segmentor(finished):
    found = scalars(read_log(finished("custom"), "segmentor"))
    assert sorted(found["Train/loss"]) == sorted(found["Train/lr"]) == [1, 2, 3, 4]
    assert found["Train/CrossEntropyLoss"] == found["Train/loss"]
    rate = finished("custom").metrics["config"]["lr_scheduler"]["learning_rate"]
    assert found["Train/lr"] == pytest.approx(
        {step: rate * (1 - (step - 1) / 4)**0.9 for step in (1, 2, 3, 4)}, rel=1e-4)
    assert sorted(found["Evaluate/selection_miou"]) == [2, 4]


def test_log_of_the_generator(finished):
    run = finished("custom")
    reader = read_log(run, "generator")
    found = scalars(reader)
    terms = [item["type"] for item in run.metrics["config"]["generator"]["loss"]["types"]]
    assert {"MMDLoss", "PairwiseRelationLoss", "ListwiseRelationLoss"} <= set(terms)
    for step in (1, 2, 3, 4):
        total = sum(found[f"Train/{term}"][step] for term in terms)
        assert found["Train/loss"][step] == pytest.approx(total, rel=1e-4)
    assert not [tag for tag in found if tag.startswith("Train/loss_")]
    assert found["Train/MMDLoss"][1] > 0 and sorted(found["Train/lr"]) == [1, 2, 3, 4]
    [tag] = reader.get_tags()["image"]
    assert tag == "Relations/semantic_generated"
    assert [item.id for item in reader.get_data("image", tag)] == [2, 4]


def test_log_of_the_classifier(finished):
    """Scores over time; those of the last step are the final ones."""
    run = finished("custom")
    reader = read_log(run, "classifier")
    found = scalars(reader)
    for key in SUMMARY:
        assert sorted(found[f"Evaluate/{key}"]) == [2, 4]
        assert found[f"Evaluate/{key}"][4] == pytest.approx(run.metrics[key], abs=1e-6)
    for item in run.metrics["classes"]:
        assert found[f"IoU/{item['name']}"][4] == pytest.approx(item["iou"], abs=1e-6)
    tags = reader.get_tags()["image"]
    assert sorted(tags) == [f"Predictions/{number}" for number in range(4)]
    for tag in tags:
        pictures = reader.get_data("image", tag)
        assert [item.id for item in pictures] == [2, 4]
        encoded = np.frombuffer(pictures[0].image.encoded_image_string, np.uint8)
        assert cv2.imdecode(encoded, cv2.IMREAD_COLOR).std() > 10


def test_log_of_the_scores(finished):
    run = finished("shapes")
    reader = read_log(run, "scores")
    found = scalars(reader)
    for key in SUMMARY:
        assert found[f"Evaluate/{key}"][0] == pytest.approx(run.metrics[key], abs=1e-6)
    assert "IoU/red_plain" in found
    assert sorted(reader.get_tags()["image"]) == [f"Predictions/{n}" for n in range(4)]


@pytest.mark.parametrize("stage, opts, changed", [
    ("segmentor", ("zero_shot.unseen=cat,dog",), "unseen"),
    ("segmentor", ("zero_shot.policy=drop",), "data, policy"),
    ("segmentor", ("model.backbone.width=8",), "model"),
    ("generator", ("zero_shot.embeddings.normalize=false",), "embeddings"),
    ("generator", ("generator.num_samples=5",), "generator"),
])
def test_a_checkpoint_of_other_inputs_is_not_resumed(finished, tmp_path, stage, opts, changed):
    """One of another split would have learned classes that are unseen now."""
    run = finished("custom").copy(tmp_path / "run")
    with pytest.raises(UserError, match=f"iter_2 was trained with another .*{changed}"):
        run.again(*opts, stage=stage, resume_model=run.path(stage, "iter_2"))


def test_a_checkpoint_says_where_it_is_from(finished, tmp_path):
    run = finished("custom").copy(tmp_path / "run")
    shutil.copytree(run.path("segmentor", "iter_2"), tmp_path / "elsewhere" / "iter_2")
    with pytest.raises(UserError, match="no stage.json in the folder above"):
        run.again(resume_model=str(tmp_path / "elsewhere" / "iter_2"))
    checkpoint = run.path("segmentor", "iter_2")
    run.again(resume_model=checkpoint)
    with open(run.path("segmentor", "stage.json"), encoding="utf-8") as file:
        assert json.load(file)["resumed_from"] == checkpoint


def test_weights_that_do_not_fit_are_not_resumed(finished, tmp_path):
    run = finished("custom").copy(tmp_path / "run")
    for stage in ("segmentor", "generator"):
        path = run.path(stage, "iter_2", "model.pdparams")
        paddle.save({f"module.{key}": value for key, value in paddle.load(path).items()}, path)
        with pytest.raises(UserError, match="model.pdparams does not fit"):
            run.again(stage=stage, resume_model=os.path.dirname(path))
