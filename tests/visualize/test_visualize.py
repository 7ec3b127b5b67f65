import os

import numpy as np
import pytest
from PIL import Image

from paddle_csrl import visualize
from paddle_csrl.errors import UserError
from paddle_csrl.visualize import drawing, overlay, palette, prediction_panel, relations

NAMES = ["background", "red striped", "blue dotted", "green plain"]
LOW, MIDDLE, HIGH = (5, 48, 97), (247, 247, 247), (103, 0, 31)


@pytest.fixture
def scene():
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    truth = np.zeros((96, 96), np.int64)
    truth[:48, :48], truth[60:, 60:] = 1, 2
    prediction = truth.copy()
    prediction[60:, 60:] = 1
    return image, truth, prediction


def relation_heatmap(matrix, rows, columns, title="", vmin=-1.0, vmax=1.0):
    """One map, whose cells are as large as fits."""
    return relations._maps([(title, matrix, "")], rows, columns, vmin=vmin, vmax=vmax).pixels


def count(picture, color):
    return int((picture == np.array(color)).all(-1).sum())


def is_picture(picture):
    return picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3


# --- palette -------------------------------------------------------------------------------

def test_voc_palette_is_the_published_one():
    colors = palette(21, "voc")
    assert colors.dtype == np.uint8 and colors.shape == (21, 3)
    for class_id, color in {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 7: (128, 128, 128),
                            15: (192, 128, 128), 20: (0, 64, 128)}.items():
        assert tuple(colors[class_id]) == color
    assert tuple(palette(256, "voc")[255]) == (224, 224, 192)


@pytest.mark.parametrize("number, apart, neighbours", [(21, 60, 100), (60, 20, 60),
                                                       (256, 15, 20)])
def test_spread_palette_is_distinct(number, apart, neighbours):
    colors = palette(number).astype(int)
    difference = np.abs(colors[:, None] - colors[None]).sum(-1)
    assert (difference + 999 * np.eye(number, dtype=int)).min() >= apart
    assert np.diagonal(difference, 1).min() >= neighbours


def test_spread_palette_keeps_its_beginning_and_its_dark_background():
    np.testing.assert_array_equal(palette(60)[:21], palette(21))
    np.testing.assert_array_equal(palette(21)[:3], palette(3))
    assert palette(1).max() < 64


def test_colours_repeat_beyond_256():
    np.testing.assert_array_equal(palette(300)[:256], palette(256))
    np.testing.assert_array_equal(palette(300)[256:], palette(44))


@pytest.mark.parametrize("number, name, match", [
    (0, None, "1 to 65536 colours, not 0"), (65537, None, "1 to 65536 colours, not 65537"),
    (3, "ade", "no palette `ade`")])
def test_palettes_that_there_are_not(number, name, match):
    with pytest.raises(UserError, match=match):
        palette(number, name)


# --- overlay -------------------------------------------------------------------------------

def test_overlay_mixes_and_keeps_ignored_pixels():
    image = np.full((2, 2, 3), 100, np.uint8)
    colors = np.array([[0, 0, 0], [200, 100, 50]], np.uint8)
    label = np.array([[0, 1], [255, 1]])
    mixed = overlay(image, label, colors, alpha=0.25)
    np.testing.assert_array_equal(mixed, [[[75] * 3, [125, 100, 88]],
                                          [[100] * 3, [125, 100, 88]]])
    np.testing.assert_array_equal(overlay(image, label, colors, 0), image)
    np.testing.assert_array_equal(overlay(image, label, colors, 1)[0], colors[[0, 1]])
    assert (image == 100).all() and mixed.dtype == np.uint8


@pytest.mark.parametrize("label, match", [
    (np.zeros((2, 3), np.int64), r"label is int64 \[2, 3\].*whole numbers \[1, 2\]"),
    (np.array([[0, 2]]), "label has the id 2; classes are 0 to 1")])
def test_overlay_refuses_labels_that_do_not_fit(label, match):
    with pytest.raises(UserError, match=match):
        overlay(np.zeros((1, 2, 3), np.uint8), label, palette(2))


# --- prediction panel ----------------------------------------------------------------------

def test_panel_shows_image_truth_and_prediction_enlarged(scene):
    image, truth, prediction = scene
    colors = palette(4)
    copies = [array.copy() for array in scene]
    panel = prediction_panel(image, truth, prediction, NAMES, [2], colors)
    assert is_picture(panel) and all(map(np.array_equal, scene, copies))
    top, size = 42, 288
    for column, label in ((1, truth), (2, prediction)):
        left = 16 + column * (size + 12)
        drawn = panel[top:top + size, left:left + size]
        np.testing.assert_array_equal(drawn[1::3, 1::3], colors[label])
    shown = panel[top:top + size, 16:16 + size].reshape(96, 3, 96, 3, 3).mean((1, 3))
    assert np.corrcoef(shown.ravel(), image.ravel())[0, 1] > 0.9


def test_panel_marks_unseen_classes_only_in_the_legend(scene):
    plain = prediction_panel(*scene, NAMES, [])
    marked = prediction_panel(*scene, NAMES, [2])
    absent = prediction_panel(*scene, NAMES, [3])
    legend = 42 + 288
    np.testing.assert_array_equal(marked[:legend], plain[:legend])
    np.testing.assert_array_equal(absent, plain)
    unseen = (178, 64, 0)
    assert count(plain, unseen) == 0
    assert count(marked[legend:], unseen) > 60


def test_panel_hatches_ignored_pixels(scene):
    image, truth, prediction = scene
    truth[:] = 255
    panel = prediction_panel(image, truth, prediction, NAMES)
    assert is_picture(prediction_panel(image, truth, truth, NAMES, [1]))  # nothing else
    drawn = panel[42:330, 316:604]
    assert set(np.unique(drawn)) == {176, 255}
    assert 0.1 < (drawn == 176).mean() < 0.5


def test_panel_with_several_predictions_and_without_truth(scene):
    image, truth, prediction = scene
    wide = prediction_panel(image, truth, {"ZS3Net": prediction, "CSRL": truth}, NAMES)
    three = prediction_panel(image, truth, prediction, NAMES)
    two = prediction_panel(image, None, prediction, NAMES)
    assert wide.shape[1] - three.shape[1] == three.shape[1] - two.shape[1] == 288 + 12


@pytest.mark.parametrize("name", ["", "x" * 500, "名前 é ß", "two\nlines"])
def test_panel_keeps_any_name_within_the_margins(scene, name):
    panel = prediction_panel(*scene, ["background", name, name, "green plain"], [1])
    assert is_picture(panel)
    assert (panel[:, :16] == 255).all() and (panel[:, -16:] == 255).all()
    assert (panel[-16:] == 255).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (900, 30), (1024, 2048)])
def test_panel_of_any_size_is_readable(shape):
    image = np.zeros((*shape, 3), np.uint8)
    label = np.zeros(shape, np.uint8)
    panel = prediction_panel(image, label, label, NAMES)
    assert is_picture(panel)
    assert 288 < max(panel.shape) <= 3 * 640 + 2 * (12 + 16)


@pytest.mark.parametrize("image_by, prediction_by, names, match", [
    (1 / 255, 1, NAMES, "image must be uint8"),
    (1, 0.5, NAMES, "Prediction is float64"),
    (1, 1, NAMES[:2], "Ground truth has the id 2; classes are 0 to 1")])
def test_panel_refuses_what_does_not_fit(scene, image_by, prediction_by, names, match):
    image, truth, prediction = scene
    with pytest.raises(UserError, match=match):
        prediction_panel(image * image_by, truth, prediction * prediction_by, names)


# --- relations -----------------------------------------------------------------------------

def test_heatmap_colours_are_the_values():
    # 30 columns make cells of 30 pixels, 29 of them inside the lines, too small for values.
    matrix = np.zeros((2, 30))
    matrix[0, 0], matrix[0, 1], matrix[1, :3] = -1, 1, 7
    picture = relation_heatmap(matrix, ["a", "b"], ["c"] * 30)
    assert is_picture(picture)
    assert 29 * 29 <= count(picture, LOW) < 29 * 29 + 50
    assert 4 * 29 * 29 <= count(picture, HIGH) < 4 * 29 * 29 + 50
    assert 55 * 29 * 29 <= count(picture, MIDDLE) < 55 * 29 * 29 + 50


def test_heatmap_of_positive_range_runs_from_dark_to_light():
    picture = relation_heatmap(np.linspace(0, 1, 30)[None], [""], ["c"] * 30, vmin=0, vmax=1)
    inside = (picture < 255).any(-1).sum(1).argmax()
    row = picture[inside] @ np.array([0.299, 0.587, 0.114])
    start = int(np.argmax(row < 60))
    steps = row[start + 8:start + 8 + 900:30]
    assert len(steps) == 30 and (np.diff(steps) > 0).all()


def test_heatmap_hatches_what_is_no_number():
    picture = relation_heatmap(np.full((1, 30), np.nan), ["a"], ["c"] * 30)
    assert 30 * 29 * 29 * 0.1 < count(picture, (176, 176, 176)) < 30 * 29 * 29 * 0.5
    finite = relation_heatmap(np.zeros((1, 30)), ["a"], ["c"] * 30)
    assert count(finite, (176, 176, 176)) < 50


def test_heatmap_takes_infinite_values_for_the_ends():
    picture = relation_heatmap([[np.inf] * 15 + [-np.inf] * 15], ["a"], ["c"] * 30)
    assert 15 * 29 * 29 <= count(picture, HIGH) < 15 * 29 * 29 + 50
    assert 15 * 29 * 29 <= count(picture, LOW) < 15 * 29 * 29 + 50


@pytest.mark.parametrize("value, text", [(0.254, ".25"), (-0.031, "-.03"), (-0.001, ".00"),
                                         (1.0, "1.00"), (0.999, "1.00"), (-1.5, "-1.50"),
                                         (10.0, "10"), (123.4, "123")])
def test_values_in_cells(value, text):
    assert visualize.relations._cell_text(value) == text


def test_heatmap_title_and_names_are_drawn():
    matrix = np.zeros((2, 3))
    bare = relation_heatmap(matrix, ["", ""], ["", "", ""])
    titled = relation_heatmap(matrix, ["", ""], ["", "", ""], "Relations")
    named = relation_heatmap(matrix, ["first", "second"], ["", "", ""])
    assert titled.shape[0] > bare.shape[0]
    assert named.shape[1] > bare.shape[1]


@pytest.mark.parametrize("name", ["x" * 500, "名前", ""])
def test_heatmap_takes_any_name(name):
    picture = relation_heatmap(np.eye(2), [name, "b"], [name, "d"], "title " * 5)
    assert is_picture(picture)
    assert max(picture.shape) < 800
    assert (picture[:, -14:] == 255).all() and (picture[:, :14] == 255).all()


def test_heatmap_of_many_classes():
    picture = relation_heatmap(np.eye(81), ["class"] * 81, ["class"] * 81)
    assert 81 * 18 < picture.shape[0] < 81 * 18 + 200


@pytest.mark.parametrize("matrix, rows, columns, limits, match", [
    (np.eye(2), "ab", "cde", {}, r"relations are \[2, 2\] for 2 row and 3 column names"),
    (np.zeros((0, 2)), "", "ab", {}, "at least one"),
    (np.eye(2), "ab", "cd", {"vmin": 1, "vmax": 1}, "`vmin: 1` must be less than `vmax: 1`")])
def test_heatmap_refuses_what_does_not_fit(matrix, rows, columns, limits, match):
    with pytest.raises(UserError, match=match):
        relation_heatmap(matrix, list(rows), list(columns), **limits)


@pytest.mark.parametrize("columns, axis", [(4, 1), (5, 0)])
def test_relation_panel_goes_beside_or_below(columns, axis):
    """Names and bar that both maps share stand once."""
    names = ["a", "b"], ["c"] * columns
    low, high = np.full((2, columns), -1.0), np.full((2, columns), 1.0)
    one = relation_heatmap(low, *names, "Same")
    two = visualize.relation_panel(low, high, *names, ("Same", "Same"))
    assert two.shape[1 - axis] == one.shape[1 - axis]
    assert 44 * (2, columns)[axis] < two.shape[axis] - one.shape[axis] < one.shape[axis]
    places = [np.argwhere((two == color).all(-1)).mean(0) for color in (LOW, HIGH)]
    apart = places[1] - places[0]
    assert apart[axis] > 44 * (2, columns)[axis] > 8 > abs(apart[1 - axis])


def test_titles_of_maps_beside_each_other_do_not_meet():
    short, long = (visualize.relation_panel(np.eye(2), -np.eye(2), ["a", "b"], ["c", "d"],
                                            (title, "G")) for title in ("S", "S" * 60))
    assert is_picture(long) and long.shape[1] > short.shape[1] + 300


# --- files ---------------------------------------------------------------------------------

def test_save_png_is_exact_and_leaves_one_file(tmp_path, scene):
    path = tmp_path / "new" / "picture.png"
    visualize.save_png(str(path), scene[0])
    np.testing.assert_array_equal(np.array(Image.open(path)), scene[0])
    assert os.listdir(path.parent) == ["picture.png"]


def test_save_png_refuses_what_is_no_picture(tmp_path):
    with pytest.raises(UserError, match="uint8"):
        visualize.save_png(str(tmp_path / "a.png"), np.zeros((2, 2)))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("letters, written", [
    ({0x72D7}, "\u72d7"), (set(), "class 7")])
def test_names_that_no_font_can_write_give_way_to_ids(monkeypatch, capsys, letters, written):
    monkeypatch.setattr(drawing, "_glyphs", lambda: frozenset(map(ord, "a sheep")) | letters)
    drawing._tell_of_fonts.cache_clear()
    assert drawing.name_or_id("a sheep", 3) == "a sheep"
    assert [drawing.name_or_id("\u72d7", 7) for _ in range(2)] == [written] * 2
    assert capsys.readouterr().out.count("no font here") == (written == "class 7")
    drawing._tell_of_fonts.cache_clear()


def test_the_letters_of_a_font_are_known():
    assert ord("\u2605") in drawing._glyphs() and 0x10FFFF not in drawing._glyphs()
