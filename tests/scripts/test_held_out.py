"""scripts/held_out.py: settings compared on seen classes held out."""

import json
import shlex

import numpy as np
import pytest

import held_out
from helpers import tiny_runs
from helpers.fabricated import swap_ids
from paddle_csrl.datasets import AttributeShapes, ZeroShotDataset
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation.evaluate import evaluate
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.run import Run


def test_the_example_fits_the_config_that_it_names(tmp_path, monkeypatch):
    """A loss has as many coefficients as terms, and every name is that of a seen class."""
    monkeypatch.chdir(tiny_runs.ROOT)
    example = held_out.__doc__.split("held_out.py", 1)[1].replace("\\\n", " ")
    args = held_out.parse_args(shlex.split(example))
    assert len(args.fold) == 2 and len(args.variant) == 2
    names = AttributeShapes("val", str(tmp_path), num_train=1, num_val=1).class_names
    for fold in args.fold:
        plain = held_out.held_out_config(args, fold)
        unseen = set(names) & set(plain.settings.zero_shot.unseen)
        assert len(unseen) == 4 + 2  # its own and the fold's
        for variant in args.variant:
            config = held_out.held_out_config(args, fold, variant.split("=", 1)[1].split(";"))
            assert config.given["generator"] != plain.given["generator"]


def test_every_variant_and_seed_is_scored_on_the_fold(tmp_path, capsys):
    recipe = tiny_runs.custom(str(tmp_path / "data"), str(tmp_path / "cache"))
    summary = held_out.main([
        "-c", recipe.config, "--out", str(tmp_path / "out"), "--seeds", "0", "1",
        "--fold", "dog", "--variant", "point=generator.loss.coef=[1,0,0]",
        "--variant", "edges=", "--opts", *recipe.opts])
    with open(tmp_path / "out" / "held_out.json", encoding="utf-8") as file:
        rows = json.load(file)
    assert [(row["variant"], row["seed"]) for row in rows] == [
        ("point", 0), ("point", 1), ("edges", 0), ("edges", 1)]
    for row in rows:
        total = row["seen_miou"] + row["unseen_miou"]
        expected = 2 * row["seen_miou"] * row["unseen_miou"] / total if total else 0.0
        assert row["hiou"] == pytest.approx(expected)
    points = [row["seen_miou"] for row in rows if row["variant"] == "point"]
    assert summary["point", "seen_miou"] == pytest.approx(np.mean(points))
    assert "point" in capsys.readouterr().out
    # Stage 1 is shared: it was trained once, without the fold.
    with open(tmp_path / "out" / "fold0" / "segmentor" / "stage.json", encoding="utf-8") as file:
        assert "dog" in str(json.load(file)["inputs"]["unseen"])


def test_true_unseen_classes_take_no_part_in_the_score(tmp_path):
    """Permuting the ids of the true unseen classes in the validation labels changes nothing."""
    scores = []
    for number, swap in enumerate((False, True)):
        recipe = tiny_runs.custom(str(tmp_path / f"data{number}"), str(tmp_path / f"cache{number}"))
        if swap:
            swap_ids(str(tmp_path / f"data{number}"), 3, 4)
        args = ["-c", recipe.config, "--out", str(tmp_path / f"out{number}"), "--fold", "dog",
                "--variant", "edges=", "--opts", *recipe.opts]
        held_out.main(args)
        with open(tmp_path / f"out{number}" / "held_out.json", encoding="utf-8") as file:
            scores.append(json.load(file))
    assert scores[0] == scores[1]


def test_a_fold_is_scored_as_the_config_says(tmp_path):
    """Its labels by their own names, in its windows; expected: the same spelt out by hand."""
    recipe = tiny_runs.custom(str(tmp_path / "data"), str(tmp_path / "cache"))
    swap_ids(str(tmp_path / "data"), 1, 2)
    names = ["background", "cat", "dog", "cow", "car"]
    labels = ["background", "dog", "cat", "cow", "car"]
    windows = {"is_slide": True, "crop_size": [16, 16], "stride": [16, 16]}
    argv = ["-c", recipe.config, "--out", str(tmp_path / "out"), "--fold", "dog", "--variant",
            "edges=", "--opts", *recipe.opts, f"zero_shot.label_names={labels}",
            f"test_config={windows}"]
    held_out.main(argv)
    with open(tmp_path / "out" / "held_out.json", encoding="utf-8") as file:
        row, = json.load(file)
    run = Run(held_out.held_out_config(held_out.parse_args(argv), "dog", overrides={
        "save_dir": str(tmp_path / "out" / "fold0")}))

    def scores(label_names=None, **options):
        dataset = ZeroShotDataset(recipe.builder().val_dataset.dataset, "cow,car", "ignore",
                                  names, label_names, mode="val", hide_unseen=True)
        found = evaluate(run.builder.trained_segmentor(run.final_model), dataset,
                         ZeroShotEvaluator(5, [2]), **options).compute()["class_iou"]
        return [np.mean(found[:2]), found[2]]

    wanted = scores(labels, **windows)
    assert [row["seen_miou"], row["unseen_miou"]] == pytest.approx(wanted)
    assert wanted != pytest.approx(scores(labels)) and wanted != pytest.approx(scores(**windows))


def test_a_segmentor_that_may_know_the_fold_is_refused(tmp_path):
    recipe = tiny_runs.custom(str(tmp_path / "data"), str(tmp_path / "cache"))
    with pytest.raises(UserError, match="`segmentor_weights: w.pdparams` may know the cl"):
        held_out.main(["-c", recipe.config, "--out", str(tmp_path / "out"), "--fold", "dog",
                       "--variant", "plain=", "--opts", *recipe.opts,
                       "segmentor_weights=w.pdparams"])
