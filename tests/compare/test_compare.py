"""Comparisons: one YAML file, shared stage 1, cells that resume, exact scores, tables."""

import copy
import csv
import os
import runpy
import shutil
import sys
from unittest.mock import patch

import numpy as np
import paddle
import pytest

from helpers import tiny_runs
from helpers.tiny_config import tiny_content, write_config
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.cli import compare, train
from paddle_csrl.compare import cells as cells_module
from paddle_csrl.compare.curve import COSTS
from paddle_csrl.compare.plan import Cell, Plan
from paddle_csrl.compare.results import paper_table
from paddle_csrl.config import ZeroShotConfig, load_yaml
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation import layers as scoring
from paddle_csrl.evaluation.evaluate import evaluate
from paddle_csrl.metrics import ZeroShotEvaluator
from paddle_csrl.models.last_layer import load_layer, put_back, read_layer
from paddle_csrl.run import Run
from paddle_csrl.stages import StageContext, generator
from paddle_csrl.utils import read_json
from paddle_csrl.utils.lock import FolderInUse

PAIR = {"types": [{"type": "MMDLoss"}, {"type": "PairwiseRelationLoss", "gamma": 1.0}],
        "coef": [1.0, 1.0]}


class Comparison:
    """A comparison file over a tiny config, both in a folder of their own."""

    def __init__(self, root: str, **changes):
        self.root = str(root)
        config = tiny_content(self.root)
        # Small steps in, large steps out: seeds and methods then differ in what they predict.
        config["classifier"]["lr_scheduler"] = {**config["lr_scheduler"], "learning_rate": 0.3}
        config["train_dataset"]["transforms"].insert(
            0, {"type": "RandomPaddingCrop", "crop_size": [32, 32]})
        write_config(f"{self.root}/base.yml", config)
        self.content = {
            "config": "base.yml",
            "splits": {"one": ["cow"], "two": {"unseen": "dog,car"}},
            "seeds": [0, 1], "reference": "point",
            "methods": {"point": None, "pair": {"opts": {"generator.loss": PAIR}}},
            "save_dir": f"{self.root}/compared", **changes}
        self.write()

    def write(self) -> None:
        write_config(f"{self.root}/compare.yml", self.content)

    def path(self, *names: str) -> str:
        return os.path.join(self.root, "compared", *names)

    def argv(self, *flags: str) -> list:
        return ["-c", f"{self.root}/compare.yml", "--device", "cpu", *flags]

    def run(self, *flags: str) -> dict:
        with tiny_runs.undrawn(), patch("paddle_csrl.compare.output.all_plots", return_value={}):
            return compare.main(self.argv(*flags))

    def plan(self, *opts: str) -> Plan:
        return Plan.read(f"{self.root}/compare.yml", opts)

    def cell(self, method: str, seed: int = 0, split: str = "one") -> str:
        return self.path(split, method, f"stage1_seed0_seed{seed}")

    def rows(self) -> list:
        with open(self.path("results.csv"), encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def copy(self, root: str, **changes) -> "Comparison":
        """The same, finished cells and all, but for ``changes``. The data stay where they are."""
        other = copy.deepcopy(self)
        other.root = str(root)
        other.content |= {"save_dir": f"{other.root}/compared", **changes}
        shutil.copytree(self.path(), other.path())
        shutil.copy(f"{self.root}/base.yml", f"{other.root}/base.yml")
        other.write()
        return other


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Comparison:
    """Both splits, methods and seeds, finished. Not to be changed."""
    comparison = Comparison(tmp_path_factory.mktemp("done"))
    assert compare.main(comparison.argv()) == {"finished": 8, "failed": 0, "missing": 0}
    return comparison


def test_a_data_set_of_which_paddleseg_notes_things_in_the_config_shares_stage_1_too(tmp_path):
    """PaddleSeg adds AttributeShapes' ignore_index to the losses while it builds stage 1."""
    recipe = tiny_runs.shapes(str(tmp_path / "data"), str(tmp_path / "cache"))
    plan = {"config": recipe.config, "splits": {"one": ["red plain"]}, "reference": "point",
            "methods": {"point": {"opts": {"generator.unseen_prototypes": "free"}}, "csrl": None},
            "save_dir": f"{tmp_path}/compared"}
    write_config(f"{tmp_path}/compare.yml", plan)
    with tiny_runs.undrawn():
        counts = compare.main(["-c", f"{tmp_path}/compare.yml", "--device", "cpu", "--opts",
                               *(opt for opt in recipe.opts if "unseen=" not in opt)])
    assert counts == {"finished": 2, "failed": 0, "missing": 0}
    for method in ("point", "csrl"):
        cell = os.listdir(f"{tmp_path}/compared/one/{method}/stage1_seed0_seed0")
        assert "layer.npz" in cell and "segmentor" not in cell


def confusion_of(run: Run, model) -> np.ndarray:
    """Counts of a whole model, evaluated by itself."""
    dataset = run.builder.val_dataset
    evaluator = ZeroShotEvaluator(dataset.num_classes, run.builder.classes.unseen_ids,
                                  ignore_index=dataset.ignore_index)
    return evaluate(model, dataset, evaluator, **run.config.test_config).confusion


def assembled(plan: Plan, cell: Cell) -> np.ndarray:
    """Counts of a cell's layer in its segmentor, evaluated by itself."""
    run = Run(plan.cell_config(cell), shared_dir=plan.stage1_dir(cell.split, cell.stage1_seed))
    model = run.context.segmentor
    put_back(run.builder.classification_layer(model)[1], load_layer(run.final_layer))
    return confusion_of(run, model)


def test_folders_hold_one_stage_1_per_split_and_cells_without_segmentor_or_checkpoint(done):
    assert sorted(os.listdir(done.path())) == sorted([
        "one", "two", "results.md", "results.csv", "class_iou.csv", "results.html", "hiou.svg",
        "hiou_differences.svg", "hiou_by_seen_classes.svg"])
    assert sorted(os.listdir(done.path("two"))) == ["pair", "point", "stage1_seed0"]
    assert sorted(os.listdir(done.path("two", "stage1_seed0"))) == [
        "classes.json", "config.yml", "features", "segmentor"]
    assert tiny_runs.files(done.cell("pair", 1)) == [
        "classes.json", "classifier/model.pdparams", "classifier/stage.json", "config.yml",
        "generator/model.pdparams", "generator/relations.png", "generator/stage.json",
        "layer.npz", "scores.json"]


def test_scores_are_those_of_the_assembled_models(done):
    plan = done.plan()
    found = []
    for cell in plan.cells():
        scores = read_json(os.path.join(plan.cell_dir(cell), "scores.json"))
        assert np.array_equal(scores["confusion"], assembled(plan, cell)), cell
        found.append(scores["confusion"])
    assert len({str(item) for item in found}) > 4  # the cells differ, so none stands for another


def test_curves_hold_the_scores_of_every_calibration(done, tmp_path):
    calibrated = {"opts": {"classifier.calibration": 0.5}}
    comparison = done.copy(tmp_path, calibrations=[0.5, -1, 2], methods={"point": calibrated})
    comparison.run("--splits", "two", "--seeds", "0")
    plan = comparison.plan()
    cell, = plan.cells(splits=["two"], seeds=[0])
    scores = read_json(os.path.join(plan.cell_dir(cell), "scores.json"))
    curve = scores["curve"]
    assert curve["calibrations"] == [-1e4, -1, 0.5, 2, 1e4]
    run = Run(plan.cell_config(cell), shared_dir=plan.stage1_dir(cell.split, 0))
    seen = run.builder.classes.seen_ids
    for index, calibration in enumerate(curve["calibrations"]):
        layer = load_layer(run.final_layer)
        layer["bias"][seen] += 0.5 - calibration
        model = run.context.segmentor
        put_back(run.builder.classification_layer(model)[1], layer)
        iou = iou_of(confusion_of(run, model))
        for key, classes in (("seen_miou", seen), ("unseen_miou", run.builder.classes.unseen_ids)):
            assert curve[key][index] == pytest.approx(np.nanmean(iou[classes])), calibration
    assert (curve["seen_miou"][2], curve["unseen_miou"][2]) == pytest.approx(
        (scores["seen_miou"], scores["unseen_miou"]))
    assert curve["unseen_miou"][0] == curve["seen_miou"][-1] == 0
    assert len(set(curve["seen_miou"])) > 2
    unchanged = os.stat(os.path.join(plan.cell_dir(cell), "scores.json")).st_mtime_ns
    comparison.run("--splits", "two", "--seeds", "0")
    assert os.stat(os.path.join(plan.cell_dir(cell), "scores.json")).st_mtime_ns == unchanged


def test_a_new_calibration_scores_again_without_training(done, tmp_path, monkeypatch):
    comparison = done.copy(tmp_path, calibrations=[1])
    monkeypatch.setattr(cells_module, "run_stages", None)  # would fail if it were called
    assert comparison.run()["finished"] == 8
    assert all(row["ausuc"] for row in comparison.rows())


def iou_of(confusion: np.ndarray) -> np.ndarray:
    hits = confusion.diagonal()
    with np.errstate(invalid="ignore"):
        return hits / (confusion.sum(0) + confusion.sum(1) - hits)


def test_seeds_go_to_the_stages_after_the_first(done):
    plan = done.plan()
    config = plan.cell_config(Cell("one", 0, "pair", 1))
    assert [config.settings.seed, *(config.section(stage).seed for stage in (
        "generator", "classifier"))] == [0, 1, 1]
    kept = load_yaml(os.path.join(done.cell("pair", 1), "config.yml"))
    assert (kept["seed"], kept["generator"]["seed"], kept["classifier"]["seed"]) == (0, 1, 1)
    assert config.dic["generator"]["loss"] == PAIR
    assert plan.cell_config(Cell("one", 0, "point", 1)).dic["generator"]["loss"]["types"] == [
        {"type": "MMDLoss"}]
    first, second = (tiny_runs.digest(os.path.join(done.cell("pair", seed), "layer.npz"))
                     for seed in (0, 1))
    assert first != second


def test_the_csv_files_hold_every_cell_and_class(done):
    rows = done.rows()
    assert [row["status"] for row in rows] == ["finished"] * 8
    record = read_json(os.path.join(done.cell("pair", 1, "two"), "scores.json"))
    [row] = [row for row in rows if (row["split"], row["method"], row["seed"]) ==
             ("two", "pair", "1")]
    for column, key in (("seen", "seen_miou"), ("unseen", "unseen_miou"), ("miou", "miou"),
                        ("hiou", "hiou")):
        assert float(row[column]) == pytest.approx(100 * record[key], abs=1e-4)
    with open(done.path("class_iou.csv"), encoding="utf-8") as file:
        classes = [row for row in csv.DictReader(file) if (
            row["split"], row["method"], row["seed"]) == ("two", "pair", "1")]
    assert [row["class"] for row in classes if row["kind"] == "unseen"] == ["dog", "car"]
    assert [float(row["iou"]) for row in classes] == pytest.approx(
        [100 * item["iou"] for item in record["classes"]], abs=1e-4)


def test_a_second_call_changes_no_cell(done, tmp_path):
    again = done.copy(tmp_path)
    before = {split: tiny_runs.times(again.path(split)) for split in ("one", "two")}
    assert again.run() == {"finished": 8, "failed": 0, "missing": 0}
    after = {split: tiny_runs.times(again.path(split)) for split in ("one", "two")}
    assert after == before


def test_changed_settings_run_their_own_cells_again(done, tmp_path):
    changed = done.copy(tmp_path)
    changed.content["methods"]["pair"]["opts"]["generator.iters"] = 3
    changed.write()
    before = tiny_runs.times(changed.path("one"))
    assert changed.run("--tables_only") == {"finished": 4, "failed": 0, "missing": 4}
    changed.run("--splits", "one")
    after = tiny_runs.times(changed.path("one"))
    moved = {name.split("/")[0] for name in after if after[name] != before.get(name)}
    assert moved == {"pair"}
    assert changed.run("--tables_only") == {"finished": 6, "failed": 0, "missing": 2}


def test_a_lost_layer_is_made_and_scored_again(done, tmp_path):
    changed = done.copy(tmp_path)
    lost = os.path.join(changed.cell("pair", 1), "layer.npz")
    scores = read_json(os.path.join(changed.cell("pair", 1), "scores.json"))
    os.remove(lost)
    changed.run("--splits", "one")
    assert os.path.isfile(lost)
    assert read_json(os.path.join(changed.cell("pair", 1), "scores.json")) == scores


def test_selections_run_what_they_name(tmp_path):
    comparison = Comparison(tmp_path, stage1_seeds=[0, 3])
    counts = comparison.run("--splits", "two", "--methods", "point", "--seeds", "1",
                            "--stage1_seeds", "3")
    assert counts == {"finished": 1, "failed": 0, "missing": 15}
    assert os.listdir(comparison.path("two", "point")) == ["stage1_seed3_seed1"]
    assert read_json(comparison.path("two", "stage1_seed3", "segmentor",
                                     "stage.json"))["inputs"]["seed"] == 3
    for flags in (["--methods", "all"], ["--splits", "three"], ["--seeds", "7"]):
        with pytest.raises(UserError, match=rf"{flags[0]} {flags[1]} is none of .*compare.yml"):
            comparison.run(*flags)


def test_stage_1_made_by_the_train_tool_is_taken_as_it_is(tmp_path):
    comparison = Comparison(tmp_path)
    folder = comparison.path("two", "stage1_seed0")
    for stage in ("segmentor", "features"):
        train.main(["-c", f"{tmp_path}/base.yml", "--save_dir", folder, "--stage", stage,
                    "--no-use_vdl", "--seed", "0", "--device", "cpu",
                    "--opts", "zero_shot.unseen=dog,car"])
    before = tiny_runs.times(folder)
    comparison.run("--splits", "two", "--methods", "point", "--seeds", "0")
    assert tiny_runs.times(folder) == before


def test_the_backbone_sees_every_image_once_for_all_cells(done, tmp_path, monkeypatch):
    again = done.copy(tmp_path)
    for seed in (0, 1):
        os.remove(os.path.join(again.cell("point", seed), "scores.json"))
        os.remove(os.path.join(again.cell("pair", seed), "scores.json"))
    plan, counts = again.plan(), []
    load = StageContext.segmentor.func

    def counted(context):
        model = load(context)
        # An image of zeros is how the classification layer is looked for.
        model.backbone.register_forward_pre_hook(
            lambda _, inputs: counts.append(1) if inputs[0].abs().max() > 0 else None)
        return model

    monkeypatch.setattr(StageContext, "segmentor", property(counted))
    again.run("--splits", "one")
    assert len(counts) == 4  # images of the validation set
    scores = [read_json(os.path.join(done.plan().cell_dir(cell), "scores.json"))["confusion"]
              for cell in plan.cells(splits=["one"])]
    assert scores == [read_json(os.path.join(plan.cell_dir(cell), "scores.json"))["confusion"]
                      for cell in plan.cells(splits=["one"])]


@pytest.mark.parametrize("test_config", [
    {}, {"is_slide": True, "crop_size": [32, 32], "stride": [24, 24]},
    {"aug_eval": True, "scales": [0.75, 1.25], "flip_horizontal": True}], ids=str)
@pytest.mark.parametrize("resized", [False, True])
def test_layers_scored_together_count_as_one_by_one(done, tmp_path, monkeypatch, test_config,
                                                    resized):
    """Whatever follows the layer: sliding windows, augmentation, images of another size."""
    resize = [{"type": "Resize", "target_size": [48, 40]}, {"type": "Normalize"}]
    with open(os.path.join(done.root, "custom", "val.txt"), encoding="utf-8") as file:
        (tmp_path / "val.txt").write_text("".join(file.readlines()[:2]))  # each is seen 20 times
    plan = done.plan(f"test_config={test_config}", f"val_dataset.val_path={tmp_path}/val.txt",
                     *([f"val_dataset.transforms={resize}"] if resized else []))
    run = Run(plan.cell_config(Cell("one", 0, "point", 0)),
              shared_dir=plan.stage1_dir("one", 0))
    layers = [load_layer(os.path.join(done.cell(method, seed), "layer.npz"))
              for method in ("point", "pair") for seed in (0, 1)]
    monkeypatch.setattr(scoring, "MAX_LOGITS", 4 * 5 * 3 * 64 * 80)  # three at a time
    model = run.context.segmentor
    shifts = [[-0.3, 0.0, 0.2], [], [0.1], [-0.1, 0.4]]
    together = scoring.score_layers(run.builder, model, layers, shifts)
    _, convolution = run.builder.classification_layer(model)
    assert [len(scores) for scores in together] == [6, 1, 4, 5]
    for layer, own, (evaluator, *swept) in zip(layers, shifts, together):
        put_back(convolution, layer)
        assert np.array_equal(evaluator.confusion, confusion_of(run, model))
        for shift, moved in zip([-1e4, *own, 1e4], swept):
            put_back(convolution, at(layer, run.builder.classes, shift))
            assert np.array_equal(moved.confusion, confusion_of(run, model)), shift


def at(layer: dict, classes, shift: float) -> dict:
    """``layer`` with ``shift`` taken off its seen logits; at the ends without rounding them."""
    bias = layer["bias"].copy()
    if shift < -1e3:
        bias[classes.unseen_ids] += shift
    else:
        bias[classes.seen_ids] -= shift
    return {**layer, "bias": bias}


@pytest.mark.parametrize("follows", [lambda logits: logits * 2.0 + 1.0, paddle.nn.functional.relu],
                         ids=["scaled", "relu"])
def test_a_layer_that_more_comes_after_is_scored_once_for_every_shift(done, follows):
    """As `zero_shot.classifier_layer` may name it: δ at the layer is none at the logits."""
    plan = done.plan()
    run = Run(plan.cell_config(Cell("one", 0, "point", 0)), shared_dir=plan.stage1_dir("one", 0))
    model = run.context.segmentor
    name, convolution = run.builder.classification_layer(model)
    run.builder.config.settings.zero_shot.__dict__["classifier_layer"] = name
    model.register_forward_post_hook(lambda _, inputs, outputs: [follows(outputs[0])])
    layer, shifts = load_layer(run.final_layer), [-0.3, 0.2, 2.0]
    (_, *swept), = scoring.score_layers(run.builder, model, [layer], [shifts])
    for shift, moved in zip(shifts, swept[1:-1], strict=True):
        put_back(convolution, at(layer, run.builder.classes, shift))
        assert np.array_equal(moved.confusion, confusion_of(run, model))


def test_a_layer_whose_weights_are_used_elsewhere_too_is_scored_in_its_place(done):
    """As that of KNet, whose weights are the kernels that later ones are made from."""
    plan = done.plan()
    run = Run(plan.cell_config(Cell("one", 0, "point", 0)), shared_dir=plan.stage1_dir("one", 0))
    model = run.context.segmentor
    name, convolution = run.builder.classification_layer(model)
    run.builder.config.settings.zero_shot.__dict__["classifier_layer"] = name
    model.register_forward_post_hook(lambda _, inputs, outputs: [
        outputs[0] + 1e3 * convolution.weight.sum([1, 2, 3])[:, None, None]])
    layer = load_layer(run.final_layer)
    layers = [layer, {**layer, "weight": -layer["weight"]}]
    for given in (layers, layers[1:]):
        scores = scoring.score_layers(run.builder, model, given)
        for (own,), one in zip(scores, given, strict=True):
            put_back(convolution, one)
            assert np.array_equal(own.confusion, confusion_of(run, model))


def test_sweeps_of_several_processes_add_up(done, monkeypatch):
    plan = done.plan()
    run = Run(plan.cell_config(Cell("one", 0, "point", 0)), shared_dir=plan.stage1_dir("one", 0))
    layers, shifts = [load_layer(run.final_layer)] * 2, [[-0.3, 0.2], [0.1]]

    def confusions():
        return np.concatenate([[item.confusion for item in scores] for scores in
                               scoring.score_layers(run.builder, run.context.segmentor, layers,
                                                    shifts)])

    whole, total = confusions(), 0
    for rank in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(paddle.distributed, "get_world_size", lambda: 2)
            patch.setattr(paddle.distributed, "get_rank", lambda: rank)
            patch.setattr(paddle.distributed, "all_reduce", lambda tensor: None)
            total = total + confusions()
    assert np.array_equal(total, whole) and whole.sum() > 0


CLOSED = {"opts": {"classifier.mode": "closed_form"}}


def test_curves_at_costs_hold_what_the_layers_score_there(done, tmp_path, monkeypatch):
    comparison = done.copy(tmp_path, calibrations="auto", seeds=[0], splits={"one": ["cow"]},
                           methods={"point": None, "closed": CLOSED})
    assert comparison.run() == {"finished": 2, "failed": 0, "missing": 0}
    plan = comparison.plan()
    for cell in plan.cells():
        scores = read_json(os.path.join(plan.cell_dir(cell), "scores.json"))
        assert np.array_equal(scores["confusion"], assembled(plan, cell))
        run = Run(plan.cell_config(cell), shared_dir=plan.stage1_dir("one", 0))
        layer, classes, curve = load_layer(run.final_layer), run.builder.classes, scores["curve"]
        assert curve["costs"] == [0, *COSTS, 1]
        assert_costs(curve, layer, run)
        for index, shift in enumerate(curve["calibrations"]):
            model = run.context.segmentor
            put_back(run.builder.classification_layer(model)[1], at(layer, classes, shift))
            iou = iou_of(confusion_of(run, model))
            assert [curve[key][index] for key in ("seen_miou", "unseen_miou")] == pytest.approx(
                [np.nanmean(iou[ids]) for ids in (classes.seen_ids, classes.unseen_ids)])
        hious = [2 * s * u / (s + u) if s + u else 0 for s, u in zip(
            curve["seen_miou"], curve["unseen_miou"])]
        assert curve["best_hiou"] == pytest.approx(max([*hious, scores["hiou"]]))
    unchanged = tiny_runs.times(comparison.path("one"))
    comparison.run()
    assert tiny_runs.times(comparison.path("one")) == unchanged
    comparison.content["calibrations"] = [1]
    comparison.write()
    assert all(row["ausuc"] == "" for row in after(comparison, "--tables_only"))
    monkeypatch.setattr(cells_module, "run_stages", None)  # would fail if it were called
    assert all(row["ausuc"] for row in after(comparison))


def after(comparison: Comparison, *flags: str) -> list:
    comparison.run(*flags)
    return comparison.rows()


def assert_costs(curve: dict, layer: dict, run: Run) -> None:
    """δ is a margin: below it are at most as many features as it costs, with it at least."""
    margins = bank_margins(layer, run)
    for cost, shift in zip(curve["costs"][1:-1], curve["calibrations"][1:-1], strict=True):
        below, with_it = (np.mean([(rows < shift + step).mean() for rows in margins if len(rows)])
                          for step in (-1e-3, 1e-3))
        assert below <= cost + 1e-9 and cost - 1e-9 <= with_it


def bank_margins(layer: dict, run: Run) -> list:
    """Margins of the raw features of a bank, by class."""
    bank, classes = FeatureBank.load(run.output("features")), run.builder.classes
    logits = bank.features @ layer["weight"][:, :, 0, 0].T + layer["bias"]
    margins = logits[:, classes.seen_ids].max(1) - logits[:, classes.unseen_ids].max(1)
    return np.split(margins, np.cumsum(bank.counts)[:-1])


def test_costs_are_those_of_the_bank_that_the_cell_has(tmp_path):
    comparison = Comparison(tmp_path, calibrations="auto", seeds=[0], splits={"one": ["cow"]},
                            reference="few", methods={
        "few": {"opts": {"zero_shot.features.samples_per_class": 4}},
        "own": {"opts": {"iters": 1}}})
    assert comparison.run()["finished"] == 2
    plan = comparison.plan()
    few, own = plan.cells()
    shared = Run(plan.cell_config(few), shared_dir=plan.stage1_dir("one", 0),
                 shared_stages=("segmentor",))
    for cell, run in ((few, shared), (own, Run(plan.cell_config(own, own_stage1=True)))):
        model = run.builder.trained_segmentor(run.final_model) if run is not shared else None
        layer = load_layer(run.final_layer) if model is None else read_layer(
            run.builder.classification_layer(model)[1])
        curve = read_json(os.path.join(plan.cell_dir(cell), "scores.json"))["curve"]
        assert_costs(curve, layer, run)
        assert len(set(curve["calibrations"])) > 5


def test_what_is_calibrated_already_has_the_same_curve(done, tmp_path):
    """δ counts from the layer before any was taken off."""
    records = []
    for name, calibration in (("plain", 0.0), ("moved", 0.75)):
        comparison = done.copy(tmp_path / name, calibrations="auto", seeds=[0],
                               splits={"one": ["cow"]}, methods={"closed": {"opts": {
                                   "classifier.mode": "closed_form",
                                   "classifier.calibration": calibration}}}, reference="closed")
        comparison.run()
        records.append(read_json(os.path.join(comparison.cell("closed"), "scores.json")))
    first, second = (record["curve"] for record in records)
    assert first["calibrations"] == pytest.approx(second["calibrations"], abs=1e-3)
    assert first["ausuc"] == pytest.approx(second["ausuc"], abs=1e-3)
    assert records[0]["confusion"] != records[1]["confusion"]


def test_a_projection_has_its_costs_from_validation_images(tmp_path):
    comparison = Comparison(tmp_path, splits={"one": ["cow"]}, seeds=[0], reference="spnet",
                            calibrations="auto", methods={
        "spnet": {"opts": {"projection": {"similarity": "dot"}, "classifier.calibration": 0.5}}})
    assert comparison.run() == {"finished": 1, "failed": 0, "missing": 0}
    scores = read_json(os.path.join(comparison.cell("spnet"), "scores.json"))
    run = Run(comparison.plan().cell_config(Cell("one", 0, "spnet", 0), own_stage1=True))
    model = run.builder.trained_segmentor(run.final_model)
    assert np.array_equal(confusion_of(run, model), scores["confusion"])
    _, convolution = run.builder.classification_layer(model)
    layer, seen = read_layer(convolution), run.builder.classes.seen_ids
    layer["bias"][seen] += 0.5
    curve = scores["curve"]
    for cost, shift, miou in zip(*(curve[key][1:-1] for key in (
            "costs", "calibrations", "seen_miou"))):
        put_back(convolution, at(layer, run.builder.classes, shift))
        confusion = confusion_of(run, model)
        rows = confusion[seen][confusion[seen].sum(1) > 0]
        to_unseen = rows[:, run.builder.classes.unseen_ids].sum(1) / rows.sum(1)
        assert to_unseen.mean() == pytest.approx(cost, abs=2e-3)
        # δ is the margin of one of these pixels, which rounding may put on either side.
        assert miou == pytest.approx(np.nanmean(iou_of(confusion)[seen]), abs=2e-4)


def test_without_a_bias_there_is_no_curve(done, tmp_path):
    comparison = done.copy(tmp_path, calibrations="auto")
    plan = comparison.plan()
    cell = plan.cells()[0]
    run = Run(plan.cell_config(cell), shared_dir=plan.stage1_dir("one", 0))
    group = cells_module._Group(plan, "one", 0)
    assert group._calibrations(run.builder, None, run, {"weight": np.ones((5, 3, 1, 1))}) == []


def test_a_method_with_another_stage_1_trains_its_own_in_every_cell(tmp_path):
    comparison = Comparison(tmp_path, stage1_seeds=[2], methods={
        "point": None, "wide": {"opts": {"iters": 1}}})
    comparison.run("--splits", "one")
    cell = comparison.path("one", "wide", "stage1_seed2_seed1")
    assert {"segmentor", "features", "generator", "classifier"} < set(os.listdir(cell))
    assert sorted(os.listdir(os.path.join(cell, "segmentor"))) == [
        "model.pdparams", "stage.json"]
    assert read_json(os.path.join(cell, "segmentor", "stage.json"))["inputs"]["seed"] == 2001
    plan = comparison.plan()
    run = Run(plan.cell_config(Cell("one", 2, "wide", 1), own_stage1=True))
    model = run.builder.trained_segmentor(run.final_model)
    assert np.array_equal(read_json(os.path.join(cell, "scores.json"))["confusion"],
                          confusion_of(run, model))


def test_a_method_with_another_bank_shares_the_segmentor_alone(tmp_path):
    comparison = Comparison(tmp_path, methods={
        "point": None, "few": {"opts": {"zero_shot.features.samples_per_class": 4}}})
    comparison.run("--splits", "one", "--seeds", "0")
    assert sorted(os.listdir(comparison.cell("few"))) == [
        "classes.json", "classifier", "config.yml", "features", "generator", "layer.npz",
        "scores.json"]
    assert {row["status"] for row in comparison.rows() if row["split"] == "one"
            and row["seed"] == "0"} == {"finished"}


def test_methods_that_share_stage_1_are_scored_as_their_own_settings_say(tmp_path):
    """Without `do_eval` stage 1 is the same whatever they say of validation."""
    windows = {f"test_config.{key}": value for key, value in (
        ("is_slide", True), ("crop_size", [16, 16]), ("stride", [16, 16]))}
    comparison = Comparison(
        tmp_path, splits={"one": ["cow"]}, seeds=[0], opts={"do_eval": False}, methods={
            "point": None, "windows": {"opts": windows},
            "fewer": {"opts": {"val_dataset.val_path": f"{tmp_path}/fewer.txt"}}})
    with open(load_yaml(f"{tmp_path}/base.yml")["val_dataset"]["val_path"]) as images:
        (tmp_path / "fewer.txt").write_text(images.readline())
    assert comparison.run() == {"finished": 3, "failed": 0, "missing": 0}
    plan, found = comparison.plan(), []
    for cell in plan.cells():
        assert "segmentor" not in os.listdir(plan.cell_dir(cell))
        scores = read_json(os.path.join(plan.cell_dir(cell), "scores.json"))
        assert np.array_equal(scores["confusion"], assembled(plan, cell)), cell
        found.append(str(scores["confusion"]))
    assert len(set(found)) == 3


def test_methods_on_given_weights_are_scored_as_their_own_settings_say(tmp_path):
    """The weights are the same whatever a method says that labels mean."""
    swapped = ["background", "dog", "cat", "cow", "car"]
    comparison = Comparison(
        tmp_path, opts={"segmentor_weights": f"{tmp_path}/given.pdparams"}, methods={
            "point": None, "pair": {"opts": {"generator.loss": PAIR}},
            "labels": {"opts": {"zero_shot.label_names": swapped}},
            "layer": {"opts": {"zero_shot.classifier_layer": "another"}},
            "half": {"opts": {"precision": "fp16"}}})
    (tmp_path / "given.pdparams").touch()
    plan, alike = comparison.plan(), []
    group = cells_module._Group(plan, "one", 0)
    for cell in plan.cells(splits=["one"], seeds=[0]):
        run = Run(plan.cell_config(cell), shared_dir=group.base.save_dir)
        assert run.inputs("segmentor") == group.stage1_inputs
        alike += [cell.method] * group._is_scored_alike(run)
    assert alike == ["point", "pair"]


def test_methods_that_differ_after_the_generator_train_it_once(tmp_path, monkeypatch):
    methods = {"point": None, "closed": {"opts": {"classifier.mode": "closed_form"}},
               "pair": {"opts": {"generator.loss": PAIR}}}
    comparison = Comparison(tmp_path / "together", splits={"one": ["cow"]}, methods=methods)
    trained = []
    train_generator = generator.train_generator
    monkeypatch.setattr(generator, "train_generator", lambda section, embeddings, bank, ids, seed,
                        *rest: trained.append(seed) or train_generator(
                            section, embeddings, bank, ids, seed, *rest))
    comparison.run()
    assert trained == [0, 0, 1, 1]  # point and pair, and closed has that of point

    alone = Comparison(tmp_path / "alone", splits={"one": ["cow"]}, methods=methods)
    shutil.copytree(comparison.path("one", "stage1_seed0"), alone.path("one", "stage1_seed0"))
    alone.run("--methods", "closed", "--seeds", "1")
    assert trained[4:] == [1]
    for name in ("scores.json", "layer.npz"):
        first, second = (os.path.join(one.cell("closed", 1), name) for one in (comparison, alone))
        if name == "scores.json":
            assert read_json(first)["confusion"] == read_json(second)["confusion"]
        else:
            assert all(np.array_equal(value, load_layer(second)[key])
                       for key, value in load_layer(first).items())
    run = Run(comparison.plan().cell_config(Cell("one", 0, "closed", 1)),
              shared_dir=comparison.path("one", "stage1_seed0"))
    assert run.is_current("generator")


def test_layers_that_are_the_same_for_all_seeds_are_scored_once(tmp_path, monkeypatch):
    ridge = {"generator.model": {"type": "RidgePrototypes"},
             "generator.unseen_prototypes": "free", "classifier.mode": "closed_form"}
    comparison = Comparison(tmp_path, splits={"one": ["cow"]}, calibrations=[0.0, 1.0],
                            methods={"point": None, "ridge": {"opts": ridge}})
    numbers = []
    score_layers = cells_module.score_layers
    monkeypatch.setattr(cells_module, "score_layers", lambda builder, segmentor, layers, shifts: (
        numbers.append(len(layers)) or score_layers(builder, segmentor, layers, shifts)))
    assert comparison.run() == {"finished": 4, "failed": 0, "missing": 0}
    assert numbers == [3]  # two of point, one of ridge
    plan = comparison.plan()
    for cell in plan.cells():
        scores = read_json(os.path.join(plan.cell_dir(cell), "scores.json"))
        assert np.array_equal(scores["confusion"], assembled(plan, cell))


def test_systems_without_a_generator_are_trained_and_scored_whole(tmp_path):
    comparison = Comparison(tmp_path, splits={"one": ["cow"]}, reference="spnet", methods={
        "spnet": {"opts": {"projection": {"similarity": "dot"}}}})
    assert comparison.run() == {"finished": 2, "failed": 0, "missing": 0}
    assert os.listdir(comparison.path("one")) == ["spnet"]  # nothing was shared
    weights = [tiny_runs.digest(os.path.join(comparison.cell("spnet", seed), "model.pdparams"))
               for seed in (0, 1)]
    assert weights[0] != weights[1]
    run = Run(comparison.plan().cell_config(Cell("one", 0, "spnet", 1), own_stage1=True))
    model = run.builder.trained_segmentor(run.final_model)
    assert np.array_equal(confusion_of(run, model), read_json(
        os.path.join(comparison.cell("spnet", 1), "scores.json"))["confusion"])


def test_self_training_is_a_method_that_is_called_transductive(tmp_path):
    included = os.path.join(tiny_runs.ROOT, "configs", "_base_", "self_training.yml")
    comparison = Comparison(tmp_path, methods={
        "point": None, "trained": {"include": included, "opts": {"self_training.share": 1.0}}})
    assert comparison.run("--splits", "one", "--seeds", "0") == {
        "finished": 2, "failed": 0, "missing": 6}
    plan = comparison.plan()
    point, trained = (cell for cell in plan.cells(splits=["one"], seeds=[0]))
    # Its layer is that of the last stage, and scored as such; up to there the two are the same.
    assert not np.array_equal(assembled(plan, trained), assembled(plan, point))
    for cell in (point, trained):
        scores = read_json(os.path.join(plan.cell_dir(cell), "scores.json"))
        assert np.array_equal(scores["confusion"], assembled(plan, cell))
    layers = [tiny_runs.digest(os.path.join(plan.cell_dir(cell), "classifier", "model.pdparams"))
              for cell in (point, trained)]
    assert layers[0] == layers[1]
    assert [row["marks"] for row in comparison.rows() if row["status"] == "finished"] == [
        "", "transductive"]


def test_included_files_are_merged_over_the_config(tmp_path):
    comparison = Comparison(tmp_path, methods={
        "point": {"include": ["tuned/{split}.yml", "more.yml"], "opts": {"classifier.iters": 9}}})
    os.mkdir(tmp_path / "tuned")
    for split, width in (("one", 5), ("two", 6)):
        write_config(f"{tmp_path}/tuned/{split}.yml", {
            "generator": {"model": {"hidden_dim": width}, "iters": 3}})
    write_config(f"{tmp_path}/more.yml", {"generator": {"iters": 4}})
    plan = comparison.plan()
    for split, width in (("one", 5), ("two", 6)):
        dic = plan.cell_config(Cell(split, 0, "point", 0)).dic
        assert dic["generator"]["model"]["hidden_dim"] == width
        assert dic["generator"]["model"]["noise_dim"] == 4
        assert (dic["generator"]["iters"], dic["classifier"]["iters"]) == (4, 9)
    os.remove(tmp_path / "tuned" / "two.yml")
    with pytest.raises(UserError, match=r"methods.point.include: tuned/\{split\}.yml.*two.yml"):
        comparison.plan()


def test_settings_are_applied_from_the_general_to_the_particular(tmp_path):
    comparison = Comparison(tmp_path, opts={"generator.iters": 3, "generator.num_samples": 7,
                                            "zero_shot.embeddings.words": None})
    comparison.content["splits"]["two"]["opts"] = {"generator.num_samples": 8,
                                                   "classifier.iters": 5}
    comparison.content["methods"]["pair"]["opts"]["classifier.iters"] = 6
    comparison.write()
    plan = Plan.read(f"{tmp_path}/compare.yml", ["generator.loss.coef=[1.0, 0.5]"])
    for split, method, samples, iters in (("one", "pair", 7, 6), ("two", "pair", 8, 6)):
        dic = plan.cell_config(Cell(split, 0, method, 0)).dic
        assert (dic["generator"]["num_samples"], dic["classifier"]["iters"]) == (samples, iters)
        assert dic["generator"]["loss"]["coef"] == [1.0, 0.5]
        assert dic["zero_shot"]["embeddings"]["words"] is None
    assert plan.stage1_config("two", 0).dic["classifier"]["iters"] == 5


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(tmp_path):
    vectors = tmp_path / "vectors.txt"
    comparison = Comparison(tmp_path, seeds=[0], methods={
        "broken": {"opts": {"zero_shot.embeddings.path": str(vectors)}}, "point": None},
        reference="point")
    assert comparison.run("--splits", "one") == {"finished": 1, "failed": 1, "missing": 2}
    failed, other = (row for row in comparison.rows() if row["split"] == "one")
    assert (failed["status"], failed["hiou"], other["status"]) == ("failed", "", "finished")
    assert "vectors.txt" in failed["reason"]
    with open(comparison.path("results.md"), encoding="utf-8") as file:
        text = file.read()
    assert "| broken | 0, 1 failed |" in text and failed["reason"] in text.replace("\\|", "|")
    with open(vectors, "w", encoding="utf-8") as file:
        for index, name in enumerate(("background", "cat", "dog", "cow", "car")):
            file.write(f"{name} {index} {index % 2} 1.0\n")
    assert comparison.run("--splits", "one")["failed"] == 1  # not by itself
    assert comparison.run("--splits", "one", "--retry_failed") == {
        "finished": 2, "failed": 0, "missing": 2}
    assert not os.path.exists(os.path.join(comparison.cell("broken"), "failure.json"))


@pytest.mark.parametrize("change, message", [
    ({"opts": {"val_dataset.dataset_root": "nowhere"}}, "nowhere"),
    ({"splits": {"one": ["cow"], "two": ["cwo"]}}, "cwo")], ids=["data", "class"])
def test_what_stops_a_whole_split_stops_the_call(tmp_path, change, message):
    comparison = Comparison(tmp_path, **change)
    with pytest.raises(UserError, match=message):
        comparison.run()
    assert os.listdir(comparison.path()) == []


def test_a_stage_1_that_fails_is_tried_once_and_fails_its_cells(tmp_path, monkeypatch):
    comparison = Comparison(tmp_path)
    tried = []

    def fail(run, stages):
        tried.append(stages)
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(cells_module, "run_stages", fail)
    assert comparison.run("--splits", "one") == {"finished": 0, "failed": 4, "missing": 4}
    assert len(tried) == 1
    assert {row["reason"] for row in comparison.rows() if row["status"] == "failed"} == {
        "RuntimeError: out of memory"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), FolderInUse("in use")])
def test_what_is_no_fault_of_a_cell_ends_the_call_and_is_not_recorded(tmp_path, monkeypatch,
                                                                      error):
    comparison = Comparison(tmp_path)

    def fail(run, stages):
        raise error

    monkeypatch.setattr(cells_module, "run_stages", fail)
    with pytest.raises(type(error)):
        comparison.run("--splits", "one")
    assert tiny_runs.files(comparison.path()) == []


def test_the_tool_says_by_its_exit_status_that_cells_failed(done, tmp_path, monkeypatch, capfd):
    broken = done.copy(tmp_path)

    def tool(*flags: str) -> int:
        monkeypatch.setattr(sys, "argv", ["compare.py", *broken.argv(*flags)])
        try:
            runpy.run_path(os.path.join(tiny_runs.ROOT, "tools", "compare.py"),
                           run_name="__main__")
        except SystemExit as stopped:
            return stopped.code
        return 0

    assert tool("--tables_only") == 0
    plan = broken.plan()
    cell = plan.cells()[0]
    os.remove(os.path.join(plan.cell_dir(cell), "scores.json"))
    cells_module.write_json(os.path.join(plan.cell_dir(cell), "failure.json"),
                            {"config": plan.digest(cell), "error": "no memory"})
    assert tool("--tables_only") == 1
    broken.content["seed"] = [0]
    broken.write()
    assert tool("--tables_only") == 2
    assert "unknown key `seed`; did you mean `seeds`?" in capfd.readouterr().err.splitlines()[-1]


def test_an_interrupted_cell_goes_on_after_its_finished_stages(tmp_path, monkeypatch):
    comparison = Comparison(tmp_path, seeds=[0])
    stages = cells_module.run_stages

    def interrupted(run, names):
        if names == ["generator", "classifier"]:
            stages(run, ["generator"])
            run.begin("classifier")
            raise KeyboardInterrupt
        stages(run, names)

    def times_of(cell):
        return tiny_runs.times(cell)["generator/model.pdparams"]

    with monkeypatch.context() as patch:
        patch.setattr(cells_module, "run_stages", interrupted)
        with pytest.raises(KeyboardInterrupt):
            comparison.run("--splits", "one", "--methods", "pair")
    kept = times_of(comparison.cell("pair"))
    assert comparison.run("--splits", "one")["finished"] == 2
    assert times_of(comparison.cell("pair")) == kept


def test_two_calls_on_different_splits_end_with_one_table(done, tmp_path):
    """Tables hold what any call has finished, not what this one has."""
    both = done.copy(tmp_path)
    shutil.move(both.path("two"), f"{tmp_path}/two")
    assert both.run("--splits", "one")["missing"] == 4
    shutil.move(f"{tmp_path}/two", both.path("two"))
    both.run("--splits", "one")
    assert {row["status"] for row in both.rows()} == {"finished"}


@pytest.mark.parametrize("change, message", [
    ({"config": None}, r"`config` is missing"),
    ({"config": "none.yml"}, r"`config: none.yml`: there is no file .*none.yml"),
    ({"seed": [0]}, r"unknown key `seed`; did you mean `seeds`\?"),
    ({"splits": {}}, r"`splits: \{\}` must have at least 1 item"),
    ({"splits": {"one": []}}, r"`splits.one.unseen: \[\]` must be a list of class names"),
    ({"splits": {"one": {"unseen": ["cow"], "opt": {}}}}, r"unknown key `splits.one.opt`; did"),
    ({"splits": {"a/b": ["cow"]}}, r"`splits.a/b` names a folder"),
    ({"methods": {"stage1_seed0": None}}, r"`methods.stage1_seed0` names a folder"),
    ({"methods": {"point": {"opts": ["iters"]}}}, r"`methods.point.opts` must hold `key: value`"),
    ({"methods": {"point": {"include": 3}}}, r"`methods.point.include: 3` must be a valid list"),
    ({"methods": {"point": ["x"]}}, r"`methods.point` must hold `key: value` pairs"),
    ({"methods": {"point": {"config": "gone.yml"}}}, r"methods.point.config: gone.yml"),
    ({"methods": {"point": {"opts": {"generator.seed": 3}}}, "reference": "point"},
     r"`methods.point.opts` sets generator.seed, which has no effect .*; its key `seeds` says"),
    ({"splits": {"one": {"unseen": ["cow"], "opts": {"zero_shot.unseen": ["cat"]}}}},
     r"`splits.one.opts` sets zero_shot.unseen, which has no effect .*; its key `splits` says"),
    ({"opts": {"seed": 3}}, r"`opts` sets seed, which has no effect .*; its key `stage1_seeds`"),
    ({"reference": ["point"]}, r"`reference: \['point'\]` must be a valid string"),
    ({"reference": "best"}, r"`reference: best` is none of the methods point, pair"),
    ({"calibrations": [1, 1.0e4]}, r"`calibrations: .*` must be `auto` or a list of different num"),
    ({"calibrations": "1, 2"}, r"`calibrations: 1, 2` must be `auto` or a list"),
    ({"calibrations": "automatic"}, r"`calibrations: automatic` must be `auto` or a list"),
    ({"calibrations": {"auto": 3}}, r"`calibrations: .*` must be `auto` or a list"),
    ({"calibrations": [1, 1]}, r"`calibrations: \[1, 1\]` must be `auto` or a list of different"),
    ({"seeds": []}, r"`seeds: \[\]` must be a list of whole numbers from 0 to 999"),
    ({"seeds": [0, 0]}, r"`seeds` must hold no number twice, got \[0, 0\]"),
    ({"seeds": [True]}, r"`seeds: \[True\]` must be a list of whole"),
    ({"stage1_seeds": [1000]}, r"`stage1_seeds: .*` must be a list"),
    ({"paper": "coco"}, r"`paper: coco` must be 'voc', 'context' or 'ablation'"),
    ({"save_dir": ["x"]}, r"`save_dir: \['x'\]` must be a path"),
    ({"methods": {"point": {"opts": {"generator.iterations": 3}}}, "reference": "point"},
     r"unknown key `generator.iterations`"),
], ids=str)
def test_mistakes_in_the_file_are_named(done, tmp_path, change, message):
    content = {**copy.deepcopy(done.content), **change}
    content = {key: value for key, value in content.items() if value is not None}
    shutil.copy(f"{done.root}/base.yml", tmp_path / "base.yml")
    write_config(f"{tmp_path}/compare.yml", content)
    with pytest.raises(UserError, match=message) as error:
        compare.main(["-c", f"{tmp_path}/compare.yml", "--tables_only"])
    assert "\n" not in str(error.value)


def test_unseen_classes_on_the_command_line_are_not_passed_over(done):
    with pytest.raises(UserError, match="--opts sets zero_shot.unseen, which has no effect"):
        done.run("--tables_only", "--opts", "zero_shot.unseen=cat")


def test_progress_counts_the_cells_that_are_to_run(done, tmp_path, monkeypatch):
    resumed = done.copy(tmp_path)
    plan = resumed.plan()
    cells, bars = plan.cells(), []
    monkeypatch.setattr(cells_module, "progress",
                        lambda items, title: bars.append(list(items)) or items)
    gone, failed = cells[1], cells[6]
    for cell in (gone, failed):
        os.remove(os.path.join(plan.cell_dir(cell), "scores.json"))
    cells_module.write_json(os.path.join(plan.cell_dir(failed), "failure.json"),
                            {"config": plan.digest(failed), "error": "no memory"})
    seen = [list(cells_module._with_progress(plan, cells, retry)) for retry in (False, True)]
    assert seen == [cells, cells] and bars == [[gone], [gone, failed]]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match="no config at .*none.yml"):
        Plan.read(f"{tmp_path}/none.yml")
    (tmp_path / "torn.yml").write_text("splits: [")
    with pytest.raises(UserError, match="torn.yml is not well-formed YAML"):
        Plan.read(f"{tmp_path}/torn.yml")
    (tmp_path / "empty.yml").write_text("")
    with pytest.raises(UserError, match="holds no `key: value` pairs"):
        Plan.read(f"{tmp_path}/empty.yml")


@pytest.mark.parametrize("name", ["shapes", "shapes_selftraining", "shapes_sizes",
                                  "shapes_development", "custom", "msrc21", "camvid",
                                  "voc_subset", "voc", "context", "ablation_voc"])
def test_the_comparisons_of_the_project_fit_their_configs(name):
    folder = os.path.join(tiny_runs.ROOT, "configs")
    plan = Plan.read(os.path.join(folder, f"compare_{name}.yml"))
    plan.check()
    for split in plan.splits if "{split}" in plan.config or "ablation" in name else ():
        own = ZeroShotConfig(plan.file(plan.config, split)).settings.zero_shot.unseen
        assert sorted(plan.splits[split].unseen) == sorted(own)
    terms = {"point": 1, "point_pair": 2, "point_list": 2, "csrl": 3}
    for method in set(terms) & set(plan.methods):
        loss = plan.cell_config(plan.cells([method])[0]).dic["generator"]["loss"]
        assert len(loss["types"]) == len(loss["coef"]) == terms[method]
    if plan.paper:
        assert set(paper_table(plan.paper)["splits"]) == set(plan.splits)
        assert all(set(rows) <= set(plan.methods)
                   for rows in paper_table(plan.paper)["splits"].values())


def test_on_photographs_every_generator_has_both_layers():
    plan = Plan.read(os.path.join(tiny_runs.ROOT, "configs", "compare_custom.yml"))
    dics = {name: plan.cell_config(plan.cells([name])[0]).dic for name in plan.methods}
    twins = {name for name in plan.methods if name.endswith("_closed")}
    trained = {name for name, dic in dics.items() if not dic.get("projection")
               and dic["classifier"].get("mode", "clean") == "clean"}
    assert twins == {f"{name}_closed" for name in trained}
    for name in twins:
        assert dics[name]["classifier"]["mode"] == "closed_form"
        assert dics[name]["generator"] == dics[name.removesuffix("_closed")]["generator"]
    assert len({str(dics[name]["generator"]) for name in twins}) == len(twins) == 9
