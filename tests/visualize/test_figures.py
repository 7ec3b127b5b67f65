"""Figures of finished runs: relations in four spaces, and methods side by side."""

import glob
import os
import re
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import numpy as np
import paddle
import pytest
from paddleseg.utils import utils

from helpers import tiny_runs
from helpers.fabricated import read_label
from helpers.relations import centred_cosines
from helpers.tiny_runs import predictions
from paddle_csrl import visualize
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.cli import visualize as cli
from paddle_csrl.errors import UserError
from paddle_csrl.models.last_layer import FeatureExtractor
from paddle_csrl.reports import relations as reports
from paddle_csrl.reports.predictions import choose_images, open_methods
from paddle_csrl.reports.relations import REAL, SEMANTIC, compare_relations, real_prototypes
from paddle_csrl.run import Run
from paddle_csrl.stages.generator import relation_picture, trained_generator
from paddle_csrl.utils import read_json
from paddle_csrl.visualize import Scene, comparison_panel, drawing, relation_figure


def relations(folder, *argv):
    return cli.main(["relations", "--run", str(folder), "--device", "cpu", *map(str, argv)])


def compare(*argv):
    return cli.main(["compare", "--device", "cpu", "--run", *map(str, argv)])


@pytest.fixture(scope="module")
def shapes(finished):
    return Run.open(finished("shapes").folder)


@pytest.fixture(scope="module")
def bank(shapes):
    """The raw bank, by NumPy alone: prototypes, mean and deviation of the scale, seen ids."""
    content = FeatureBank.load(shapes.output("features"))
    ids = np.flatnonzero(content.counts)
    features = np.split(content.features.astype(np.float64), np.cumsum(content.counts)[:-1])
    means = np.stack([features[c].mean(0) for c in ids])
    centre = means.mean(0)
    deviation = np.sqrt(np.mean([((features[c] - centre)**2).mean(0) for c in ids], axis=0))
    deviation[deviation <= 1e-6 * deviation.max()] = 1
    return (means - centre) / deviation, centre, deviation, ids


def real_features(run, pad=0):
    """Features by unseen class, image by image and cell by cell."""
    builder, found = run.builder, {int(c): [] for c in run.builder.classes.unseen_ids}
    extractor = FeatureExtractor(run.context.segmentor, len(builder.classes.names))
    for index, (_, label_path) in enumerate(builder.val_dataset.file_list):
        image = paddle.to_tensor(builder.val_dataset[index]["img"])[None]
        features = extractor(image)[0].numpy()
        label = read_label(label_path)
        if pad:
            label = np.pad(label, [(0, pad - label.shape[0]), (0, pad - label.shape[1])],
                           constant_values=255)
        for value, feature in tiny_runs.cells(features, label):
            if value in found:
                found[value].append(feature)
    return found


# --- relations: the numbers ------------------------------------------------------------------

def test_real_prototypes_are_means_over_validation_pixels(shapes, bank):
    _, centre, deviation, _ = bank
    expected = real_features(shapes)
    prototypes, counts = real_prototypes(shapes)
    assert sum(map(len, expected.values())) > 20
    for row, class_id in enumerate(shapes.builder.classes.unseen_ids):
        assert counts[row] == len(expected[class_id])
        if counts[row]:
            mean = (np.mean(expected[class_id], axis=0) - centre) / deviation
            np.testing.assert_allclose(prototypes[row], mean, rtol=1e-3, atol=1e-3)
        else:
            assert np.isnan(prototypes[row]).all()


def test_labels_of_padded_validation_images_stay_in_place(finished):
    """VOC pads to one size; an unpadded label would be stretched over the padding."""
    run = Run.open(finished("voc").folder)
    _, counts = real_prototypes(run)
    expected = real_features(run, pad=tiny_runs.PADDED_SIDE)
    assert sum(map(len, expected.values())) > 0
    assert counts.tolist() == [len(expected[c]) for c in run.builder.classes.unseen_ids]


def test_all_spaces_hold_the_same_quantity(shapes, bank, finished):
    prototypes, centre, deviation, ids = bank
    found = compare_relations(shapes)
    builder = shapes.builder
    assert found.unseen == [builder.classes.names[c] for c in builder.classes.unseen_ids]
    assert found.seen == [builder.classes.names[c] for c in ids]
    embeddings = builder.embeddings.astype(np.float64)
    np.testing.assert_allclose(
        found.spaces[SEMANTIC],
        centred_cosines(embeddings[builder.classes.unseen_ids], embeddings[ids]), atol=1e-5)
    known = [row for row, name in enumerate(found.unseen) if found.pixels[name]]
    real = real_features(shapes)
    real = np.stack([(np.mean(real[builder.classes.unseen_ids[row]], axis=0) - centre) / deviation
                     for row in known])
    np.testing.assert_allclose(found.spaces[REAL][known], centred_cosines(real, prototypes),
                               atol=2e-3)
    title = list(found.spaces)[2]
    assert title == "Generated by run (MMD + PairwiseRelation + ListwiseRelation)"
    generated = found.spaces[title]
    assert generated.shape == (len(found.unseen), len(found.seen))
    assert (np.abs(generated) <= 1 + 1e-6).all()
    np.testing.assert_array_equal(compare_relations(shapes).spaces[title], generated)


def test_generated_relations_are_those_of_the_generator(shapes, bank):
    task = trained_generator(shapes.context)
    found = list(compare_relations(shapes).spaces.values())[2]
    utils.set_seed(shapes.seed("classifier"))  # the features that stage 3 trained on
    task.train()
    features = task.generate_unseen(shapes.config.dic["classifier"]["num_generated"]).numpy()
    np.testing.assert_allclose(
        found, centred_cosines(features.mean(1, dtype=np.float64), bank[0]), atol=1e-4)


def test_standardized_rows_and_chosen_classes(shapes):
    plain, found = compare_relations(shapes), compare_relations(shapes, standardize=True)
    for matrix in found.spaces.values():
        known = ~np.isnan(matrix).any(1)
        np.testing.assert_allclose(matrix[known].mean(1), 0, atol=1e-5)
        np.testing.assert_allclose(matrix[known].std(1), 1, atol=1e-4)
    unseen, seen = plain.unseen[2:0:-1], [plain.seen[5], plain.seen[0]]
    part = compare_relations(shapes, unseen=unseen, seen=seen, standardize=True)
    assert (part.unseen, part.seen) == (unseen, seen)
    for title, matrix in part.spaces.items():
        np.testing.assert_array_equal(matrix, found.spaces[title][[2, 1]][:, [5, 0]])
    assert list(part.pixels) == unseen


@pytest.mark.parametrize("seed", range(3))
def test_row_correlation_is_pearsons(seed):
    first, second = np.random.default_rng(seed).normal(size=(2, 4, 7))
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(first, second)]
    np.testing.assert_allclose(reports.row_correlation(first, second), expected)
    assert np.isnan(reports.row_correlation(np.ones((1, 3)), second[:1, :3])).all()


def test_a_class_without_validation_pixels_is_told(tmp_path):
    spaces = {SEMANTIC: np.array([[0.5, -0.5], [0.1, 0.3]]),
              REAL: np.array([[0.2, -0.9], [np.nan, np.nan]])}
    found = reports.Relations(spaces, ["cow", "car"], ["cat", "dog"], {"cow": 9, "car": 0},
                              {"cat": 0, "dog": 1, "cow": 2, "car": 3})
    paths = reports.save_relations(found, str(tmp_path))
    content = read_json(paths[-1])
    assert content["spaces"][REAL]["relations"][1] == [None, None]
    row = content["spaces"][SEMANTIC]["row_correlation_with_real"]
    assert row == {"cow": pytest.approx(1.0), "car": None}
    assert content["spaces"][SEMANTIC]["mean_row_correlation_with_real"] == pytest.approx(1.0)
    assert "No validation image shows car." in open(paths[1]).read()


def test_names_that_no_font_can_write_give_way_to_ids_in_relations(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "_glyphs", lambda: frozenset(range(128)))
    spaces = {REAL: np.array([[0.2, -0.9], [np.nan, np.nan]])}
    found = reports.Relations(spaces, ["\u725b", "car"], ["cat", "\u72d7"], {"\u725b": 9, "car": 0},
                              {"cat": 0, "\u72d7": 1, "\u725b": 2, "car": 3})
    figure = open(reports.save_relations(found, str(tmp_path))[1], encoding="utf-8").read()
    assert all(name in figure for name in ("class 2", "car", "cat", "class 1"))
    assert not {"\u725b", "\u72d7"} & set(figure)
    drawn, task = [], trained_generator(finished("custom").open().context)
    monkeypatch.setattr(visualize, "relation_panel", lambda *args, **_: drawn.extend(args[2:4]))
    relation_picture(task, ["background", "cat", "\u72d7", "\u725b", "car"])
    assert drawn == [["class 3", "car"], ["background", "cat", "class 2"]]


# --- relations: the tool ---------------------------------------------------------------------

def test_relations_of_two_runs(finished, tmp_path):
    first = finished("shapes")
    second = first.copy(tmp_path / "point")
    before = tiny_runs.times(first.folder)
    result = relations(first.folder, "--without", second.folder, "--save_dir", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["relations.json", "relations.png",
                                                    "relations.svg"]
    assert tiny_runs.times(first.folder) == before
    content = read_json(str(tmp_path / "out" / "relations.json"))
    found = result["relations"]
    assert list(content["spaces"]) == list(found.spaces) and len(found.spaces) == 4
    assert "Generated by point" in list(found.spaces)[3]
    for title, space in content["spaces"].items():
        np.testing.assert_array_equal(np.array(space["relations"], float), found.spaces[title])
    # The same weights under another name.
    np.testing.assert_array_equal(*list(found.spaces.values())[2:])

    texts = [node.text for node in ET.parse(tmp_path / "out" / "relations.svg").iter()
             if node.tag.endswith("text")]
    for name in (*found.unseen, *found.seen, *found.spaces):
        assert name in texts
    assert any("validation images, for display only" in text for text in texts)
    captions = [text for text in texts if text.startswith("row correlation")]
    assert len(captions) == 3
    mean = content["spaces"][SEMANTIC]["mean_row_correlation_with_real"]
    assert captions[0].endswith(f"mean {mean:.2f}")


def test_real_features_of_unseen_classes_are_never_written(finished, tmp_path):
    """The JSON holds relations and counts; nothing else is kept, and the run stays as it was."""
    run = finished("shapes").copy(tmp_path / "run")
    before = tiny_runs.times(run.folder)
    relations(run.folder)
    after = tiny_runs.times(run.folder)
    assert {name: time for name, time in after.items() if name in before} == before
    assert set(after) - set(before) == {f"figures/relations.{kind}"
                                        for kind in ("json", "png", "svg")}
    assert run.again()["hiou"] == run.metrics["hiou"]  # every stage is still up to date
    assert tiny_runs.times(run.path("generator")) == tiny_runs.times(
        finished("shapes").path("generator"))


def test_nothing_but_the_figure_reads_validation_features():
    users = {os.path.relpath(path, tiny_runs.ROOT)
             for path in glob.glob(os.path.join(tiny_runs.ROOT, "**", "*.py"), recursive=True)
             if not path.startswith(os.path.join(tiny_runs.ROOT, "tests"))
             and "display_dataset" in open(path, encoding="utf-8").read()}
    assert users == {"paddle_csrl/builder.py", "paddle_csrl/reports/relations.py"}


@pytest.mark.parametrize("argv, match", [
    (["--unseen", "green dotty"], "--unseen holds green dotty.*did you mean green"),
    (["--unseen", "green plain"], "--unseen holds green plain.*no class of the unseen ones"),
    (["--seen", "green striped"], "--seen holds green striped.*no class of the seen ones"),
    (["--seen", "red plain", "Red-Plain"], "--seen red plain, Red-Plain names a class twice"),
    (["--without", "absent"], "no config.yml in absent"),
])
def test_relations_of_classes_or_runs_that_are_not_there(finished, tmp_path, argv, match):
    with pytest.raises(UserError, match=match):
        relations(finished("shapes").folder, *argv, "--save_dir", tmp_path)
    assert os.listdir(tmp_path) == []


def test_relations_of_another_split_or_an_unfinished_run(finished, tmp_path):
    run = finished("shapes").copy(tmp_path / "run")
    os.remove(run.path("generator", "model.pdparams"))
    for argv, match in (
            ([finished("shapes").folder, "--without", finished("voc").folder],
             "has other classes or other unseen ones"),
            ([run.folder], "has no .*generator/model.pdparams.*finished run")):
        with pytest.raises(UserError, match=match):
            relations(*argv, "--save_dir", tmp_path / "out")


# --- comparison ------------------------------------------------------------------------------

def test_pictures_are_the_predictions_of_each_method(finished, tmp_path):
    first = finished("shapes")
    builder = first.builder()
    weights = tmp_path / "other.pdparams"
    paddle.seed(5)
    paddle.save(builder.new_segmentor().state_dict(), str(weights))
    pair = f"{first.path('config.yml')},{weights}"
    result = compare(first.folder, pair, "--names", "CSRL", "untrained", "--images", 2, 0,
                     "--save_dir", tmp_path / "out")
    names = [os.path.basename(path) for path in result["paths"]]
    assert names == ["compare_00002.png", "compare_00000.png", "compare.png"]
    found = [predictions(builder, path) for path in (first.path("model.pdparams"), weights)]
    for index in (2, 0):
        picture = read_label(tmp_path / "out" / f"compare_{index:05d}.png")
        labels = [np.squeeze(builder.val_dataset[index]["label"]), *(maps[index] for maps in found)]
        for column, label in enumerate(labels, 1):
            left = 16 + column * (288 + 12)
            drawn = picture[42:42 + 288, left:left + 288]
            np.testing.assert_array_equal(drawn[3::6, 3::6], builder.classes.palette[label])


def test_images_are_chosen_by_their_truth_alone(finished):
    dataset = finished("shapes").builder().val_dataset
    counts = np.array([[(read_label(path) == c).sum() for c in dataset.unseen_ids]
                       for _, path in dataset.file_list])
    np.testing.assert_array_equal(dataset.class_pixels()[:, dataset.unseen_ids], counts)
    chosen = choose_images(dataset, 3)
    assert len(set(chosen)) == 3
    assert chosen[0] == counts[:, np.flatnonzero(counts.any(0))[0]].argmax()
    assert set(choose_images(dataset, 99)) == set(range(len(dataset)))


def test_every_unseen_class_gives_an_image_in_turn():
    class Counted:
        unseen_ids = np.array([1, 2])

        @staticmethod
        def class_pixels():
            return np.array([[0, 9, 0], [0, 8, 0], [0, 0, 1], [5, 0, 0], [0, 7, 0]])

    assert choose_images(Counted, 5) == [0, 2, 1, 4, 3]
    assert choose_images(Counted, 2) == [0, 2]


def test_comparison_by_default_goes_into_the_first_runs_folder(finished, tmp_path):
    run = finished("voc").copy(tmp_path / "csrl")
    result = compare(run.folder, "--num", 2)
    assert {os.path.dirname(path) for path in result["paths"]} == {run.path("figures")}
    assert len(result["paths"]) == 3
    methods = open_methods([run.folder])
    assert [method.name for method in methods] == ["csrl"]
    np.testing.assert_array_equal(methods[0].builder.classes.palette, visualize.palette(21, "voc"))


@pytest.mark.parametrize("argv, match", [
    (["--names", "a", "b"], "--names gives 2 names for 1 runs"),
    (["--names", "Ground truth"], "title Ground truth cannot be told"),
    (["--images", "4"], "--images 4: the validation set has the images 0 to 3"),
    (["--images", "-1"], "--images -1"),
    (["--num", "0"], "--num 0 must be at least 1"),
])
def test_comparisons_that_cannot_be_drawn(finished, tmp_path, argv, match):
    with pytest.raises(UserError, match=match):
        compare(finished("shapes").folder, *argv, "--save_dir", tmp_path)
    assert os.listdir(tmp_path) == []


def test_runs_that_do_not_fit(finished, tmp_path):
    shapes, config = finished("shapes").folder, finished("shapes").path("config.yml")
    for argv, match in (
            ([shapes, shapes], "cannot be told from another column; give --names"),
            ([shapes, finished("voc").folder, "--names", "a", "b"],
             "has other validation images, classes or unseen"),
            ([tmp_path], "no config.yml in .*finished run"),
            ([f"{config},"], "the weights are missing; write CONFIG.yml,WEIGHTS"),
            ([f"{config},absent"], "no weights at .*absent")):
        with pytest.raises(UserError, match=match):
            compare(*argv, "--save_dir", tmp_path)
    assert os.listdir(tmp_path) == []


def test_commands_of_the_document_parse():
    text = Path(tiny_runs.ROOT, "docs", "figures.md").read_text("utf-8").replace("\\\n", " ")
    commands = [line for line in text.splitlines() if line.startswith("python tools/visualize.py")]
    assert len(commands) == 5
    for command in commands:
        assert cli.parse_args(shlex.split(command)[2:]).run


# --- drawing ---------------------------------------------------------------------------------

def test_rows_of_unequal_size_share_columns_and_legend():
    rng = np.random.default_rng(0)
    scenes = []
    for height, width in ((300, 200), (100, 400), (900, 900)):
        label = np.full((height, width), len(scenes) + 1)
        image = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
        scenes.append(Scene(image, {"Ground truth": label, "CSRL": label}, f"row {len(scenes)}"))
    panel = comparison_panel(scenes, ["a", "b", "c", "d"], [2], largest=320)
    # Three columns of 320 (the widest), gaps of 12, margins of 16.
    assert panel.shape[1] == 3 * 320 + 2 * 12 + 2 * 16
    colors = visualize.palette(4)
    for class_id, area in ((1, 300 * 200), (2, 80 * 320), (3, 320 * 320)):
        drawn = (panel == colors[class_id]).all(-1).sum()
        assert 2 * area <= drawn < 2 * area + 400


def test_figure_stacks_panels_on_one_scale():
    low, high = np.full((2, 3), -0.5), np.full((2, 3), 0.5)
    names = ["a", "b"], ["x", "y", "z"]
    one = relation_figure({"First": low}, *names, {}, vmin=-0.5, vmax=0.5)
    two = relation_figure({"First": low, "Second": high}, *names, {"First": "r"}, ["note"],
                          -0.5, 0.5)
    assert two.pixels.shape[0] > one.pixels.shape[0] + 2 * 38
    inside = 6 * 37 * 37
    for color in ((5, 48, 97), (103, 0, 31)):
        assert inside * 0.7 < (two.pixels == color).all(-1).sum() < inside + 200
    assert not (one.pixels == (103, 0, 31)).all(-1).sum() > 200


@pytest.mark.parametrize("draw, match", [
    (lambda: comparison_panel([], ["a"]), "at least one image"),
    (lambda: relation_figure({}, ["a"], ["b"], {}), "at least one panel"),
    (lambda: relation_figure({"t": np.zeros((1, 1))}, ["a", "b"], ["c"], {}),
     "2 row and 1 column")])
def test_figures_refuse_what_they_cannot_draw(draw, match):
    with pytest.raises(UserError, match=match):
        draw()


@pytest.mark.parametrize("rows, caption", [(1, "a caption " * 5), (1, ""), (3, "a caption " * 5)])
def test_the_colour_bar_covers_no_text(rows, caption):
    title = "A title that is wider than its map"
    figure = relation_figure({title: np.zeros((rows, 1))}, ["a"] * rows, ["b"], {title: caption})
    axes, = figure.drawn.axes
    bar = axes.child_axes[0].get_tightbbox()
    assert len(axes.texts) > 3 and bar.height > 30
    assert not any(text.get_window_extent().overlaps(bar) for text in axes.texts
                   if text.get_text())


@pytest.mark.parametrize("columns", [1, 2, 60])
def test_nothing_is_clipped(columns):
    names = [f"a long class name {c}" for c in range(columns)]
    figure = relation_figure({"A title that is wider than one cell": np.zeros((2, columns))},
                             ["first", "second"], names,
                             {"A title that is wider than one cell": "a caption " * 6},
                             ["a note " * 30]).pixels
    assert (figure[:, -8:] == 255).all() and (figure[-8:] == 255).all()
    assert (figure[:8] == 255).all() and (figure[:, :8] == 255).all()


@pytest.fixture
def saved(tmp_path):
    """The picture of texts that mean something to SVG or to TeX, and its SVG's elements."""
    cells = np.array([[0.5, np.nan], [0.25, -1.0]])
    figure = relation_figure({"a <b> & \"c\"": cells}, ["_first", "$x_1$"], ["one", "名前"],
                             {"a <b> & \"c\"": "below"}, ["a note"])
    paths = figure.save(str(tmp_path / "figure"))
    assert sorted(os.listdir(tmp_path)) == ["figure.png", "figure.svg"]
    np.testing.assert_array_equal(read_label(paths[0]), figure.pixels)
    return figure, list(ET.parse(paths[1]).iter())


def test_svg_holds_the_text_as_text(saved):
    texts = {node.text.replace("−", "-"): node.get("style") + node.get("transform", "")
             for node in saved[1] if node.tag.endswith("}text")}
    assert set(texts) == {"a <b> & \"c\"", "_first", "$x_1$", "one", "名前", "below", "a note",
                          ".50", ".25", "-1.00", "1", "0", "-1"}
    assert re.search("bold|700", texts["a <b> & \"c\""]) and "rotate(-90" in texts["one"]
    assert all("sans-serif" in look for look in texts.values())


def test_svg_says_nothing_of_its_making(saved):
    figure, nodes = saved
    assert figure.svg == figure.svg and "matplotlib" not in figure.svg.lower()
    ids = [node.get("id") for node in nodes if node.get("id")]
    assert len(ids) == len(set(ids))
    for node in nodes:
        assert all(value.startswith(("#", "data:")) for name, value in node.items()
                   if name.endswith("href"))


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    matplotlib.rcParams["font.size"] = 31
    before = dict(matplotlib.rcParams)
    try:
        first = relation_figure({"t": np.eye(2)}, ["a", "b"], ["c", "d"], {}).pixels
        assert dict(matplotlib.rcParams) == before
    finally:
        matplotlib.rcdefaults()
    second = relation_figure({"t": np.eye(2)}, ["a", "b"], ["c", "d"], {}).pixels
    np.testing.assert_array_equal(first, second)
