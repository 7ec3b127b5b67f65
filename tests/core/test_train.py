"""Whole runs through the command line, on fabricated data in the official layouts."""

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

import paddle_csrl
from helpers import tiny_runs
from helpers.fabricated import read_label
from helpers.tiny_runs import ROOT, STAGES, Recipe, digest, predictions, recorded, run_all, times
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.cli import train, val
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.errors import UserError
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.utils import read_json, write_json

train_module = sys.modules["paddle_csrl.core.train"]
score_module = sys.modules["paddle_csrl.evaluation.score"]
SUMMARY = ("seen_miou", "unseen_miou", "miou", "hiou")
UNSEEN = {
    "shapes": ["green striped", "blue dotted", "red checkered", "yellow plain"],
    "voc": ["cow", "motorbike", "aeroplane", "sofa"],
    "context": ["cow", "motorbike"],
    "custom": ["cow", "car"],
}
NUM_CLASSES = {"shapes": 21, "voc": 21, "context": 60, "custom": 5}
CONFIGS = sorted(UNSEEN)


def without_folder(metrics: dict) -> dict:
    """Metrics that do not say where they were written."""
    config = {key: value for key, value in metrics["config"].items() if key != "save_dir"}
    return {**metrics, "config": config}


# What a run leaves behind.

@pytest.mark.parametrize("name", CONFIGS)
def test_metrics_hold_the_contract(finished, name):
    run = finished(name)
    metrics = read_json(run.path("metrics.json"))
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


@pytest.mark.parametrize("name", [*CONFIGS, "spnet", "segdevise"])
def test_pictures_decode(finished, name):
    run = finished(name)
    pictures = [run.path("predictions", name) for name in os.listdir(run.path("predictions"))]
    assert len(pictures) == run.metrics["images"]
    relations = [run.path("generator", "relations.png")] if name in CONFIGS else []
    for path in pictures + relations:
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
    changed = tiny_runs.differing(run.weights("segmentor"), run.weights())
    assert len(changed) == 2 and all(key.startswith("head.decoder.conv.") for key in changed)
    # Paddle's FLOPs counter leaves buffers in layers; none of them is saved.
    for folder in ("segmentor", "generator", "classifier", ""):
        assert not [key for key in run.weights(folder) if "total_" in key]


@pytest.mark.parametrize("number", [2, 4, 6, 8, 10])
@pytest.mark.parametrize("data", ["voc", "context"])
def test_every_split_of_the_paper_loads(tmp_path, data, number):
    make = getattr(tiny_runs, data)
    builder = make(str(tmp_path), str(tmp_path / "cache"), f"csrl_{data}_unseen{number}").builder()
    assert len(builder.classes.unseen_ids) == number and 0 not in builder.classes.unseen_ids
    assert builder.embeddings.shape == (NUM_CLASSES[data], 100)
    splits = builder.config.settings.zero_shot.unseen
    assert splits[:2] == ["cow", "motorbike"]


def test_records_count_the_labels_that_were_drawn(finished):
    run = finished("custom")
    labels = [read_label(path) for _, path in run.builder().train_dataset.file_list]
    pixels = np.bincount(np.concatenate([label.ravel() for label in labels]), minlength=256)
    trained, featured = (read_json(run.path(stage, "stage.json"))["labels_drawn"]
                         for stage in ("segmentor", "features"))
    assert featured == {"samples": len(labels), "pixels_seen": pixels[:3].sum(),
                        "pixels_unlabelled": pixels[3:].sum(), "pixels_unseen": 0}
    assert trained["pixels_unseen"] == 0 and trained["samples"] >= 4 * 2
    assert trained["pixels_seen"] + trained["pixels_unlabelled"] == trained["samples"] * 32 * 32


# Stock PaddleSeg.

STOCK = ("model.backbone={'type': 'MobileNetV3_small_x1_0'}", "model.backbone_indices=[0, 3]",
         "model.align_corners=False", "model.aspp_ratios=[1, 2, 4, 6]")


def test_final_model_predicts_alike_in_stock_paddleseg(finished, tmp_path):
    """On a backbone of PaddleSeg; nothing of this package is imported where weights are loaded."""
    run = run_all(finished("custom").recipe, tmp_path / "run", *STOCK)
    assert all(0 <= run.metrics[key] <= 1 for key in SUMMARY)
    assert len(tiny_runs.differing(run.weights("segmentor"), run.weights())) == 2
    images = [item[0] for item in run.builder(*STOCK).val_dataset.file_list]
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
        prepare = Compose([Normalize([0.49803922] * 3, [0.50196078] * 3)])
        found = []
        for path in images:
            image = paddle.to_tensor(prepare({"img": path, "trans_info": []})["img"][None])
            found.append(model(image)[0].argmax(1).numpy()[0])
        assert "paddle_csrl" not in sys.modules
        np.savez(out, *found)
    """)
    out = str(tmp_path / "predictions.npz")
    command = [sys.executable, "-c", script, run.path("model.pdparams"), out, *images]
    subprocess.run(command, check=True, cwd=str(tmp_path), capture_output=True)
    with np.load(out) as content:
        stock = list(content.values())
    ours = predictions(run.builder(*STOCK), run.path("model.pdparams"))
    assert len(stock) == len(ours) == 4
    for first, second in zip(stock, ours):
        assert np.array_equal(first, second)
    assert np.unique(np.concatenate([label.ravel() for label in ours])).size > 1


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


def test_val_needs_none_of_the_weights_that_training_began_with(finished):
    run = finished("custom")
    assert run.val("model.pretrained=gone.pdparams")["classes"] == run.metrics["classes"]


def test_val_averages_over_flips(finished):
    def predict(model, image):
        return model(image)[0] + model(image.flip(3))[0].flip(3)

    run = finished("custom")
    metrics, builder = run.val(aug_eval=True, scales=[1.0], flip_horizontal=True), run.builder()
    evaluator = ZeroShotEvaluator(len(builder.classes.names), builder.classes.unseen_ids)
    found = predictions(builder, run.path("model.pdparams"), predict)
    for prediction, data in zip(found, builder.val_dataset):
        evaluator.update(prediction, np.asarray(data["label"]).squeeze())
    assert [item["iou"] for item in metrics["classes"]] == pytest.approx(
        evaluator.compute()["class_iou"].tolist(), abs=1e-3)
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

@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    return finished("custom").copy(tmp_path / "run")


@pytest.fixture
def original(finished):
    """The same run, to be compared with."""
    return finished("custom")


def test_second_run_does_nothing(run, capsys):
    capsys.readouterr()
    changed = run.redo()
    said = capsys.readouterr().out
    assert [f"[{stage}] up to date" in said for stage in STAGES] == [True] * 4
    assert not changed & {*STAGES, "model.pdparams"}
    assert without_folder(read_json(run.path("metrics.json"))) == without_folder(run.metrics)


def scored_again(run, monkeypatch, *opts) -> bool:
    """Whether the run, once more, looks at validation images."""
    calls = []
    scoring = train_module.score
    monkeypatch.setattr(train_module, "score", lambda *args, **kwargs: (
        calls.append(1) or scoring(*args, **kwargs)))
    run.again(*opts)
    monkeypatch.setattr(train_module, "score", scoring)
    return bool(calls)


def test_scores_that_would_be_the_same_are_shown_again(run, monkeypatch, capsys):
    run.again()  # in its present folder
    capsys.readouterr()
    before = read_json(run.path("metrics.json"))
    assert not scored_again(run, monkeypatch)
    said = capsys.readouterr().out
    assert f"scores: up to date: {run.path('metrics.json')}" in said
    assert all(f"{100 * item['iou']:.2f} |" in said for item in before["classes"])
    assert f"{100 * before['hiou']:.2f}" in said
    assert read_json(run.path("metrics.json")) == before


def _remove_pictures(run):
    shutil.rmtree(run.path("predictions"))


def _remove_report(run):
    os.remove(run.path("report.html"))


def _tear_scores(run):
    content = open(run.path("metrics.json"), "rb").read()
    with open(run.path("metrics.json"), "wb") as file:
        file.write(content[:100])


def _keep_what_scores_were_made_from(run):
    made_from = read_json(run.path("metrics.json"))["made_from"]
    write_json(run.path("metrics.json"), {"made_from": made_from, "classes": [{"iou": "much"}]})


def _lose_the_classes(run):
    metrics = read_json(run.path("metrics.json"))
    del metrics["classes"]
    write_json(run.path("metrics.json"), metrics)


def _score_another_model(run):
    metrics = read_json(run.path("metrics.json"))
    write_json(run.path("metrics.json"),
               {**metrics, "made_from": {**metrics["made_from"], "model": "0" * 64}})


@pytest.mark.parametrize("change", [
    _remove_pictures, _remove_report, _tear_scores, _keep_what_scores_were_made_from,
    _lose_the_classes, _score_another_model])
def test_scores_are_made_again_where_something_of_them_is_missing(run, monkeypatch, change):
    run.again()
    before = read_json(run.path("metrics.json"))
    change(run)
    assert scored_again(run, monkeypatch)
    assert read_json(run.path("metrics.json")) == before
    assert os.path.isfile(run.path("report.html")) and os.listdir(run.path("predictions"))


def test_scores_are_made_again_with_other_settings_or_versions(run, monkeypatch):
    run.again()
    assert scored_again(run, monkeypatch, "test_config.is_slide=True",
                        "test_config.crop_size=[24, 24]", "test_config.stride=[16, 16]")
    assert not scored_again(run, monkeypatch, "test_config.is_slide=True",
                            "test_config.crop_size=[24, 24]", "test_config.stride=[16, 16]")
    monkeypatch.setattr(score_module, "versions", lambda: {"paddle_csrl": "another"})
    assert scored_again(run, monkeypatch, "test_config.is_slide=True",
                        "test_config.crop_size=[24, 24]", "test_config.stride=[16, 16]")


def test_nothing_of_an_earlier_model_passes_for_new_after_a_stop(run, monkeypatch):
    run.again(drawn=True)
    earlier = {name: digest(run.path(name)) for name in ("report.html", "predictions/00.png")}
    shutil.copy(run.path("predictions", "00.png"), run.path("predictions", "07.png"))

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(score_module.PictureBook, "save", stop)
        run.again("classifier.iters=2", drawn=True)
    run.again("classifier.iters=2", drawn=True)
    assert {name: digest(run.path(name)) for name in earlier}.items().isdisjoint(earlier.items())
    assert len(os.listdir(run.path("predictions"))) == run.metrics["images"]
    os.remove(run.path("report.html"))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(score_module, "evaluate_as_configured", stop)
        run.again("classifier.iters=2")
    assert not os.path.exists(run.path("metrics.json"))


def test_scores_are_made_again_from_changed_labels(tmp_path, monkeypatch):
    run = run_all(tiny_runs.custom(str(tmp_path), str(tmp_path / "cache")), tmp_path / "run")
    assert not scored_again(run, monkeypatch)
    label = run.builder().val_dataset.file_list[0][1]
    ids = read_label(label)
    cv2.imwrite(label, np.where(ids == ids[0, 0], 255, ids))
    assert scored_again(run, monkeypatch)


@pytest.mark.parametrize("change, redone", [
    (["generator.iters=2"], {"generator", "classifier"}),
    (["generator.seed=5"], {"generator", "classifier"}),
    (["classifier.calibration=0.5"], {"classifier"}),
    (["zero_shot.features.samples_per_class=32"], {"features", "generator", "classifier"}),
    (["zero_shot.features.normalize=False"], {"generator", "classifier"}),
    (["zero_shot.unseen=cow"], set(STAGES)),
    (["zero_shot.policy=drop"], set(STAGES)),
    (["log_iters=4", "generator.log_iters=2"], set()),
])
def test_change_runs_again_what_depends_on_it(run, change, redone):
    changed = run.redo(*change)
    assert changed & set(STAGES) == redone
    assert ("model.pdparams" in changed) == bool(redone)
    assert not run.redo(*change) & set(STAGES)


def test_change_of_the_data_runs_all_again(tmp_path):
    run = run_all(tiny_runs.custom(str(tmp_path), str(tmp_path / "cache")), tmp_path / "run")
    image = run.builder().train_dataset.file_list[0][0]
    cv2.imwrite(image, 255 - cv2.imread(image))
    assert run.redo() >= {*STAGES, "model.pdparams"}


@pytest.mark.parametrize("output", [
    "model.pdparams", "segmentor/model.pdparams", "features/bank.npz", "generator/model.pdparams",
    "classifier/model.pdparams"])
def test_lost_output_is_made_again(run, original, output):
    os.remove(run.path(output))
    run.again()
    assert digest(run.path("features", "bank.npz")) == digest(original.path("features", "bank.npz"))
    for folder in (os.path.dirname(output) if output.endswith("params") else "", ""):
        assert not tiny_runs.differing(run.weights(folder), original.weights(folder))


def test_interrupted_stage_runs_again(run, original, monkeypatch):
    """A run that dies within a stage does not pass for a finished one."""
    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("paddle_csrl.stages.generator.GeneratorBatches.__getitem__", die)
        with pytest.raises(KeyboardInterrupt):
            run.again("generator.iters=2")
    run.again()
    assert not tiny_runs.differing(run.weights(), original.weights())


def test_same_seed_gives_the_same_bits_stage_by_stage(original, tmp_path):
    """Every stage by itself once more: the same weights, bank and scores."""
    run = original._replace(folder=str(tmp_path / "run"))
    results = [run.again(stage=stage) for stage in STAGES]
    assert results[:3] == [{}, {}, {}]
    assert without_folder(results[3]) == without_folder(original.metrics)
    for folder in ("segmentor", "generator", "classifier", ""):
        assert not tiny_runs.differing(run.weights(folder), original.weights(folder)), folder
    assert digest(run.path("features", "bank.npz")) == digest(original.path("features", "bank.npz"))


def test_what_is_beside_a_model_stays_that_of_its_training(run, capsys):
    """Else val.py would score seen classes as unseen, on which the model was trained."""
    beside = [run.path(name) for name in ("config.yml", "classes.json", "model.pdparams")]
    before = list(map(digest, beside))
    run.again("zero_shot.unseen=dog", stage="segmentor")
    assert list(map(digest, beside)) == before
    assert "of an earlier training until --stage classifier has run" in capsys.readouterr().out
    run.again("zero_shot.unseen=dog")
    assert read_json(beside[1])["unseen"] == ["dog"]
    assert not set(map(digest, beside)) & set(before)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_stage_without_the_ones_before_it(original, tmp_path, stage):
    with pytest.raises(UserError, match="stage segmentor has not finished in .*segmentor; "
                                        "run --stage segmentor first, or leave --stage out"):
        original._replace(folder=str(tmp_path / "run")).again(stage=stage)
    assert not (tmp_path / "run").exists()


def test_stage_generator_without_features(run):
    shutil.rmtree(run.path("features"))
    before = times(run.folder)
    with pytest.raises(UserError, match="stage features has not finished.*--stage features"):
        run.again(stage="generator")
    assert times(run.folder) == before


def test_stage_on_an_outdated_one(run):
    with pytest.raises(UserError, match="segmentor was made with another batch_size, iters; "
                                        "run --stage segmentor again"):
        run.again("iters=3", "batch_size=1", stage="generator")


def test_flags_of_a_stage(run):
    """--iters and --learning_rate mean the stage that --stage names."""
    run.again(stage="generator", iters=3, learning_rate=0.01)
    section = read_json(run.path("generator", "stage.json"))["inputs"]["generator"]
    assert section["iters"] == 3 and section["lr_scheduler"]["learning_rate"] == 0.01
    assert os.path.isdir(run.path("generator", "iter_3"))


@pytest.mark.parametrize("name, opts, redone", [
    ("custom", ["iters=6", "do_eval=False"], STAGES),  # else the best may be an earlier one
    ("custom", ["generator.iters=6"], STAGES[2:]),
    ("custom", ["classifier.iters=6"], STAGES[3:]),
    ("spnet", ["iters=6", "do_eval=False"], ("segmentor", "classifier"))])
def test_a_stage_resumes(finished, tmp_path, name, opts, redone):
    run = finished(name).copy(tmp_path / "run")
    checkpoint = os.path.join(redone[0], "iter_4")
    before = os.stat(run.path(checkpoint, "model.pdparams")).st_mtime_ns
    changed = run.redo(*opts, resume_model=run.path(checkpoint))
    assert os.stat(run.path(checkpoint, "model.pdparams")).st_mtime_ns == before
    assert changed & set(STAGES) == set(redone) and "model.pdparams" in changed
    state = paddle.load(run.path(redone[0], "iter_6", "model.pdopt"))
    assert state["LR_Scheduler"]["last_epoch"] == 6
    if redone[0] == "generator":  # the warm-up goes on where it was, too
        assert run.weights("generator", "iter_6")["step"] == 6
    if name == "spnet":
        trained = [item for item in run.builder().new_projection().parameters()
                   if not item.stop_gradient]
        assert len([key for key in state if "moment1" in key]) == len(trained)
    assert not run.redo(*opts) & set(STAGES)


@pytest.mark.parametrize("stage, opt, changed", [
    ("segmentor", "zero_shot.unseen=cat,dog", "unseen"),
    ("segmentor", "zero_shot.policy=drop", "data, policy"),
    ("segmentor", "model.backbone.width=8", "model"),
    ("generator", "zero_shot.embeddings.normalize=false", "embeddings"),
    ("generator", "generator.num_samples=5", "generator"),
])
def test_a_checkpoint_of_other_inputs_is_not_resumed(run, stage, opt, changed):
    """One of another split would have learned classes that are unseen now."""
    with pytest.raises(UserError, match=f"iter_2 was trained with another .*{changed}"):
        run.again(opt, stage=stage, resume_model=run.path(stage, "iter_2"))


def test_a_checkpoint_says_where_it_is_from(run, tmp_path):
    checkpoint = run.path("segmentor", "iter_2")
    shutil.copytree(checkpoint, tmp_path / "elsewhere" / "iter_2")
    with pytest.raises(UserError, match="no stage.json in the folder above"):
        run.again(resume_model=str(tmp_path / "elsewhere" / "iter_2"))
    run.again(resume_model=checkpoint)
    assert read_json(run.path("segmentor", "stage.json"))["resumed_from"] == checkpoint


def test_weights_that_do_not_fit_are_not_resumed(run):
    for stage in ("segmentor", "generator"):
        path = run.path(stage, "iter_2", "model.pdparams")
        paddle.save({f"module.{key}": value for key, value in paddle.load(path).items()}, path)
        os.remove(run.path(stage, "iter_2", "checkpoint.json"))  # its checksums, as of 0.1.0
        with pytest.raises(UserError, match="model.pdparams does not fit"):
            run.again(stage=stage, resume_model=os.path.dirname(path))


# Variants.

def test_seed_changes_every_stage(run, original):
    assert run.redo(seed=1) >= {*STAGES, "model.pdparams"}
    assert read_json(run.path("metrics.json"))["seed"] == 1
    for stage in ("segmentor", "generator", "classifier"):
        assert tiny_runs.differing(original.weights(stage), run.weights(stage)), stage


def test_prototypes_as_relation(run, original):
    run.again("generator.relation=prototypes")
    assert tiny_runs.differing(run.weights("generator"), original.weights("generator"))
    assert cv2.imread(run.path("generator", "relations.png")) is not None


def test_without_evaluation_the_last_segmentor_is_kept(original, tmp_path):
    run = run_all(original.recipe, tmp_path / "run", **{"no-do_eval": True, "no-use_vdl": True})
    assert not os.path.exists(run.path("segmentor", "best_model"))
    assert digest(run.path("segmentor", "model.pdparams")) == digest(
        run.path("segmentor", "iter_4", "model.pdparams"))
    assert all(0 <= run.metrics[key] <= 1 for key in SUMMARY)
    assert not [name for name in times(run.folder) if "vdlrecords" in name]


def test_best_segmentor_is_kept(finished):
    run = finished("custom")
    assert digest(run.path("segmentor", "model.pdparams")) == digest(
        run.path("segmentor", "best_model", "model.pdparams"))


def test_calibration_lowers_seen_classes_only(run, original):
    run.again("classifier.calibration=2.5")
    before, after, key = original.weights(), run.weights(), "head.decoder.conv.bias"
    assert tiny_runs.differing(before, after) == [key]
    assert after[key] - before[key] == pytest.approx([-2.5, -2.5, -2.5, 0, 0], abs=1e-5)


def test_wrapper_written_out_in_the_config(run, tmp_path):
    """``type: ZeroShotDataset`` around the data set means what ``zero_shot`` says."""
    config = run.recipe.load().dic
    zero_shot = config["zero_shot"]
    for split in ("train", "val"):
        config[f"{split}_dataset"] = {
            "type": "ZeroShotDataset", "dataset": config[f"{split}_dataset"],
            "unseen": zero_shot["unseen"], "policy": zero_shot["policy"]}
    path = tmp_path / "written_out.yml"
    path.write_text(yaml.safe_dump(config))
    changed = run._replace(recipe=Recipe(str(path), ())).redo()
    assert not changed & {*STAGES, "model.pdparams"}


def test_worker_processes_change_nothing(original, tmp_path):
    run = original._replace(folder=str(tmp_path / "run"))
    for stage in ("segmentor", "features"):
        run.again(stage=stage, num_workers=2)
    one, other = (FeatureBank.load(item.path("features", "bank.npz")) for item in (run, original))
    assert np.array_equal(one.counts, other.counts)


# VisualDL.

def test_log_of_the_segmentor(finished):
    found = recorded(finished("custom").path("segmentor"))
    assert sorted(found["Train/loss"]) == sorted(found["Train/lr"]) == [1, 2, 3, 4]
    assert found["Train/CrossEntropyLoss"] == found["Train/loss"]
    rate = finished("custom").metrics["config"]["lr_scheduler"]["learning_rate"]
    assert found["Train/lr"] == pytest.approx(
        {step: rate * (1 - (step - 1) / 4)**0.9 for step in (1, 2, 3, 4)}, rel=1e-4)
    assert sorted(found["Evaluate/selection_miou"]) == [2, 4]


def test_log_of_the_generator(finished):
    run = finished("custom")
    found = recorded(run.path("generator"))
    terms = [item["type"] for item in run.metrics["config"]["generator"]["loss"]["types"]]
    assert {"MMDLoss", "PairwiseRelationLoss", "ListwiseRelationLoss"} <= set(terms)
    for step in (1, 2, 3, 4):
        total = sum(found[f"Train/{term}"][step] for term in terms)
        assert found["Train/loss"][step] == pytest.approx(total, rel=1e-4)
    assert not [tag for tag in found if tag.startswith("Train/loss_")]
    assert found["Train/MMDLoss"][1] > 0 and sorted(found["Train/lr"]) == [1, 2, 3, 4]
    pictures = recorded(run.path("generator"), "image")
    assert {tag: list(steps) for tag, steps in pictures.items()} == {
        "Relations/semantic_generated": [2, 4]}


def test_log_of_the_classifier(finished):
    """Scores over time; those of the last step are the final ones."""
    run = finished("custom")
    found = recorded(run.path("classifier"))
    for key in SUMMARY:
        assert sorted(found[f"Evaluate/{key}"]) == [2, 4]
        assert found[f"Evaluate/{key}"][4] == pytest.approx(run.metrics[key], abs=1e-6)
    for item in run.metrics["classes"]:
        assert found[f"IoU/{item['name']}"][4] == pytest.approx(item["iou"], abs=1e-6)
    pictures = recorded(run.path("classifier"), "image")
    assert sorted(pictures) == [f"Predictions/{number}" for number in range(4)]
    for steps in pictures.values():
        assert list(steps) == [2, 4]
        encoded = np.frombuffer(steps[2].image.encoded_image_string, np.uint8)
        assert cv2.imdecode(encoded, cv2.IMREAD_COLOR).std() > 10


def test_log_of_the_scores(finished):
    run = finished("shapes")
    found = recorded(run.path("scores"))
    for key in SUMMARY:
        assert found[f"Evaluate/{key}"][0] == pytest.approx(run.metrics[key], abs=1e-6)
    assert "IoU/red_plain" in found
    pictures = recorded(run.path("scores"), "image")
    assert sorted(pictures) == [f"Predictions/{n}" for n in range(4)]
