"""report.html: everything of a finished run, on one page that needs no other file."""

import base64
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from paddleseg.utils import logger

from helpers.browser import CHROMIUM
from paddle_csrl.cli import visualize
from paddle_csrl.core import train as pipeline
from paddle_csrl.errors import UserError
from paddle_csrl.reports.run_report import data_uri, write_page
from paddle_csrl.run import Run
from paddle_csrl.utils import read_json, write_json
from paddle_csrl.utils.visualdl import StageLogWriter, read_scalars
from paddle_csrl.visualize.curves import MAX_POINTS, curve_plot, thinned

_VOID = ("meta", "img", "br", "hr", "link", "input")

#: What a name may hold, and what may not reach the page as anything but text.
HOSTILE = """<script>alert("1", '2') {{7*7}} &amp;"""


class Page(HTMLParser):
    """What is on a page; reading it fails where its elements do not nest."""

    def __init__(self, text):
        super().__init__()
        (self.open, self.tags, self.places, self.texts, self.holders, self.rows, self.headings,
         self.images, self.widths) = ([] for _ in range(9))
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.places += [value for name, value in attrs.items()
                        if name in ("src", "href", "xlink:href", "srcset", "action", "data")]
        if tag == "img":
            self.images.append(attrs)
        if attrs.get("class") == "bar":
            self.widths.append(float(re.fullmatch(r"width:([\d.]+)%", attrs["style"])[1]))
        if tag == "tr":
            self.rows.append([])
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if text := data.strip():
            self.texts.append(text)
            self.holders.append(self.open[-1])
            if self.open[-1] in ("td", "th"):
                self.rows[-1].append(text)
            if self.open[-1] in ("h1", "h2", "h3"):
                self.headings.append(text)


def read(path):
    return Path(path).read_text("utf-8")


@pytest.fixture(scope="module")
def text(finished):
    return read(finished("shapes").path("report.html"))


def test_training_ends_with_a_page_that_has_every_part(finished, text):
    shown, metrics = Page(text), finished("shapes").metrics
    assert shown.headings[0] == "Run run"
    assert {"Scores", "IoU by class, in percent", "Predictions", "Relations between classes",
            "Training", "segmentor", "generator", "classifier", "How it was made",
            "Versions"} <= set(shown.headings)
    scores = ["this run", *(f"{100 * metrics[key]:.2f}" for key in (
        "seen_miou", "unseen_miou", "miou", "hiou", "pixel_accuracy"))]
    assert scores in shown.rows
    assert all(list(item) in shown.rows for item in metrics["versions"].items())


def test_every_class_has_its_bar_and_the_unseen_ones_are_marked(finished, text):
    shown, classes = Page(text), finished("shapes").metrics["classes"]
    expected = [[item["name"] + ("" if item["seen"] else " *"),
                 "–" if item["iou"] is None else f"{100 * item['iou']:.1f}"] for item in classes]
    assert [row for row in shown.rows if row in expected] == expected
    assert shown.widths == pytest.approx(
        [100 * item["iou"] for item in classes if item["iou"] is not None], abs=0.006)
    assert text.count('<tr class="unseen">') == sum(not item["seen"] for item in classes) == 4


def test_pictures_are_those_of_the_run(finished, text):
    run, shown = finished("shapes"), Page(text)
    files = sorted(os.listdir(run.path("predictions")))
    paths = [*(run.path("predictions", name) for name in files),
             run.path("generator", "relations.png")]
    assert len(shown.images) == len(paths) > 1
    for image, path in zip(shown.images, paths):
        data = np.frombuffer(base64.b64decode(image["src"].split(",", 1)[1]), np.uint8)
        picture, original = cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.imread(path)
        assert picture.shape == original.shape and image["alt"]
        assert np.abs(picture.astype(int) - original).mean() < 4


def test_curves_are_those_of_the_record(finished, text):
    run = finished("shapes")
    titles = re.findall(r"<svg.*?<title>(.*?)</title>", text, re.DOTALL)
    assert titles == [
        "segmentor: CrossEntropyLoss", "segmentor: scores, %", "generator: loss",
        "generator: MMDLoss", "generator: PairwiseRelationLoss", "generator: ListwiseRelationLoss",
        "classifier: CrossEntropyLoss", "classifier: scores, %"]
    plot = text[text.index("<title>generator: MMDLoss"):]
    points = re.search(r'<path d="([^"]+)"[^>]*stroke: #0072b2', plot)[1].splitlines()
    recorded = read_scalars(run.path("generator"))["Train/MMDLoss"]
    heights = [float(point.split()[2]) for point in points]
    assert [iteration for iteration, _ in recorded] == [1, 2, 3, 4]
    assert np.corrcoef(heights, [value for _, value in recorded])[0, 1] < -0.99


def test_the_page_says_how_each_stage_was_made(finished, text):
    run, shown = finished("shapes"), Page(text)
    for stage in ("segmentor", "features", "generator", "classifier"):
        made = read_json(run.path(stage, "stage.json"))["made"]
        row = next(row for row in shown.rows if row[0] == stage)
        assert row[1] == "0" and row[3:] == [made["finished_at"], "cpu", "1"]
        assert re.fullmatch(r"\d+:\d\d:\d\d", row[2]) and made["seconds"] > 0
        assert made["command"] in shown.texts and made["versions"] == run.metrics["versions"]
    assert "Command of segmentor, features, generator, classifier" in shown.headings
    assert read(run.path("config.yml")).strip() in shown.texts


def test_how_a_stage_was_made_does_not_decide_whether_it_is_up_to_date(finished, tmp_path):
    run = finished("shapes").copy(tmp_path / "run")
    path = run.path("generator", "stage.json")
    write_json(path, {**read_json(path), "made": {"command": "another", "seconds": 1.0}})
    assert Run.open(run.folder).changes("generator") == []


@pytest.mark.parametrize("name", ["shapes", "spnet", "zs3net"])
def test_the_page_needs_nothing_from_elsewhere(finished, name):
    text = read(finished(name).path("report.html"))
    shown = Page(text)
    assert "script" not in shown.tags and "link" not in shown.tags and "iframe" not in shown.tags
    assert shown.images and all(place.startswith(("data:image/", "#")) for place in shown.places)
    names = re.findall(r'\bid="([^"]+)"', text)  # by which each plot refers to its own marks
    assert len(names) == len(set(names))
    style = text[text.index("<style>"):text.index("</style>")]
    assert "url(" not in style and "@import" not in style and "@font-face" not in style
    assert not re.search(r"\son\w+=", re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL))


def test_a_run_without_a_generator_has_a_page_without_relations(finished):
    shown = Page(read(finished("spnet").path("report.html")))
    assert "Relations between classes" not in shown.headings
    assert [row[0] for row in shown.rows if row[0] in ("segmentor", "features", "classifier")] == [
        "segmentor", "classifier"]


@pytest.fixture
def copied(finished, tmp_path):
    """A finished run to be changed."""
    return finished("shapes").copy(tmp_path / "run")


def test_marks_of_scores_that_are_not_zero_shot_stand_out(copied):
    assert 'class="warning"' not in read(copied.path("report.html"))
    write_json(copied.path("metrics.json"),
               {**copied.metrics, "leaks": "labels get in", "transductive": True})
    text = read(write_page(copied.folder))
    assert '<p class="warning">LEAKS: labels get in.</p>' in text
    assert text.count('<p class="warning">') == 2 and "Transductive" in text


def test_whatever_comes_from_the_run_is_escaped(copied, tmp_path):
    metrics, record = (read_json(copied.path(*path)) for path in (
        ["metrics.json"], ["segmentor", "stage.json"]))
    for item in metrics["classes"]:
        item["name"] += HOSTILE
    metrics.update(leaks=HOSTILE, images=HOSTILE, versions={HOSTILE: HOSTILE},
                   pretraining={"labels": [HOSTILE], "named": {HOSTILE: HOSTILE}})
    record["inputs"]["seed"] = HOSTILE
    record["made"].update(dict.fromkeys(
        ("command", "finished_at", "device", "processes", "mkl"), HOSTILE))
    write_json(copied.path("metrics.json"), metrics)
    write_json(copied.path("segmentor", "stage.json"), record)
    with open(copied.path("config.yml"), "a") as file:
        file.write(f"# {HOSTILE}")
    with StageLogWriter(copied.path("classifier"), []) as writer:
        for step in (1, 2):
            writer.add_scalar(f"Train/{HOSTILE}", step, step)
    folder = tmp_path / HOSTILE
    shutil.copytree(copied.folder, folder)
    shown = Page(read(write_page(str(folder))))
    assert "script" not in shown.tags
    assert shown.headings[0] == f"Run {HOSTILE}"
    assert {f"LEAKS: {HOSTILE}.", f"CPU: {HOSTILE}", f"classifier: {HOSTILE}",
            f"Labels of pretraining:\n{HOSTILE}, which named {HOSTILE} ({HOSTILE})."
            } <= set(shown.texts)
    assert f"over {HOSTILE} validation images" in shown.texts[3].replace("\n", " ")
    places = [tag for tag, text in zip(shown.holders, shown.texts) if text == HOSTILE]
    assert [tag for tag in places if tag != "text"] == [*4 * ["td"], "pre", "td", "td"]
    assert shown.texts[-1].endswith(HOSTILE) and shown.holders[-1] == "pre"
    names = [item["name"] + ("" if item["seen"] else " *") for item in metrics["classes"]]
    assert [row[0] for row in shown.rows if row[0] in names] == names


def test_old_runs_and_runs_without_curves_have_a_page(copied):
    for stage in ("segmentor", "features", "generator", "classifier"):
        record = read_json(copied.path(stage, "stage.json"))
        del record["made"]
        write_json(copied.path(stage, "stage.json"), record)
        for name in os.listdir(copied.path(stage)):
            if name.startswith("vdlrecords"):
                os.remove(copied.path(stage, name))
    write_json(copied.path("metrics.json"), {key: value for key, value in copied.metrics.items()
                                             if key != "pretraining"})
    shown = Page(read(write_page(copied.folder)))
    assert "No curves were recorded." in shown.texts
    assert "Labels of pretraining:\nnot recorded." in shown.texts
    assert ["generator", "0", "–", "–", "–", "–"] in shown.rows


def test_stages_of_an_earlier_config_are_left_out(finished, tmp_path):
    run = finished("spnet").copy(tmp_path / "run")
    for stage in ("features", "generator"):
        shutil.copytree(finished("shapes").path(stage), run.path(stage))
    assert read(write_page(run.folder)) == read(run.path("report.html"))


def test_heat_maps_drawn_since_are_on_the_page(copied):
    os.makedirs(copied.path("figures"))
    drawn = copied.path("figures", "relations.png")
    shutil.copy(copied.path("generator", "relations.png"), drawn)
    before = os.path.getmtime(copied.path("generator", "relations.png"))
    for shift, number in ((5, 1), (-5, 0)):  # drawn after, or of an older generator
        os.utime(drawn, (before + shift, before + shift))
        text = read(write_page(copied.folder))
        assert text.count("The same with real features") == 2 * number


def test_the_tool_makes_the_page_anew_without_the_data(copied, monkeypatch, tmp_path):
    monkeypatch.setattr(Run, "__init__", lambda *args: pytest.fail("the data were looked at"))
    os.remove(copied.path("report.html"))
    page = visualize.main(["report", "--run", copied.folder])["paths"]
    assert page == [copied.path("report.html")]
    assert Page(read(copied.path("report.html"))).images
    other = str(tmp_path / "pages")
    paths = visualize.main(["report", "--run", copied.folder, "--save_dir", other])["paths"]
    assert paths == [os.path.join(other, "report.html")] and os.path.isfile(paths[0])


def test_a_folder_without_scores_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no whole metrics.json; name the folder of a finished"):
        visualize.main(["report", "--run", str(tmp_path)])


@pytest.mark.parametrize("classes", [3, [{"name": "cat"}]])
def test_scores_of_another_form_are_refused(copied, classes):
    write_json(copied.path("metrics.json"), {"classes": classes, "images": 1})
    with pytest.raises(UserError, match="has no whole metrics.json"):
        write_page(copied.folder)


def test_a_torn_picture_is_named(copied):
    os.truncate(copied.path("generator", "relations.png"), 20)
    before = read(copied.path("report.html"))
    with pytest.raises(UserError, match=r"generator/relations\.png is no whole picture"):
        write_page(copied.folder)
    assert read(copied.path("report.html")) == before


def test_a_page_that_fails_costs_one_line_and_not_the_run(copied, monkeypatch):
    warnings = []
    monkeypatch.setattr(logger, "warning", warnings.append)
    monkeypatch.setattr(pipeline, "write_page", lambda folder: 1 / 0)
    assert copied.again(drawn=True)["hiou"] == copied.metrics["hiou"]
    assert not os.path.exists(copied.path("report.html"))  # the old one would mislead
    line, = (text for text in warnings if "report.html" in text)
    assert "ZeroDivisionError: division by zero" in line and "\n" not in line
    assert f"visualize.py report --run {copied.folder}" in line


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: the other tests read the page")
def test_chromium_shows_the_page_offline(copied, tmp_path):
    # So short a training may leave unseen classes bars of no length.
    classes = [{**record, "iou": 0.5} for record in copied.metrics["classes"]]
    write_json(copied.path("metrics.json"), {**copied.metrics, "classes": classes})
    page = write_page(copied.folder)
    page_url = f"file://{page}"
    shot = str(tmp_path / "page.png")
    # Its sandbox does not run as root; a proxy that is not there stands for being offline.
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--proxy-server=127.0.0.1:9",
             f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,1600"]
    dumped = subprocess.run([CHROMIUM, *flags, f"--screenshot={shot}", "--dump-dom", page_url],
                            capture_output=True, text=True, timeout=120, check=True).stdout
    shown = Page(dumped.replace("<!DOCTYPE html>", ""))
    original = Page(read(page))
    assert shown.headings == original.headings and len(shown.images) == len(original.images)
    assert shown.tags.count("svg") == original.tags.count("svg") == 8
    picture = cv2.imread(shot)
    assert picture.shape == (1600, 1200, 3)
    # Bars of both kinds: blue for seen, vermillion stripes for unseen classes (BGR).
    for color in ((178, 114, 0), (0, 94, 213)):
        assert (np.abs(picture.astype(int) - color).max(2) < 12).sum() > 50


# --- the parts


def test_scalars_are_read_back_over_several_files(tmp_path):
    for number, points in enumerate(({1: 0.5, 2: 0.25}, {2: 2.0, 3: 3.0})):
        folder = tmp_path / str(number)
        with StageLogWriter(str(folder), []) as writer:
            for step, value in points.items():
                writer.add_scalar("Train/loss", value, step)
        name, = os.listdir(folder)
        shutil.copy(folder / name, tmp_path / f"vdlrecords.{number}.log")
    assert read_scalars(str(tmp_path)) == {"Train/loss": [(1, 0.5), (2, 2.0), (3, 3.0)]}
    assert read_scalars(str(tmp_path / "nothing")) == {}


def test_long_curves_become_means_and_what_is_not_finite_goes():
    points = thinned([(step, float(step % 2)) for step in range(10 * MAX_POINTS)])
    assert points.shape == (MAX_POINTS, 2)
    assert points[0].tolist() == [4.5, 0.5] and points[-1].tolist() == [10 * MAX_POINTS - 5.5, 0.5]
    assert thinned([(1, 2.0), (2, float("nan")), (3, float("inf"))]).tolist() == [[1, 2.0]]
    assert curve_plot("t", {"a": [(1, float("nan"))], "b": [(5, 1.0)]}) == ""


def test_a_picture_is_stored_the_shorter_way():
    flat = np.full((64, 64, 3), 200, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert data_uri(flat).startswith("data:image/png;base64,")
    assert data_uri(noise).startswith("data:image/jpeg;base64,")
