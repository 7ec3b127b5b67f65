"""report.html of a finished run, as a browser without a network shows it."""

import json
import os
from pathlib import Path

import cv2
import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


def read(*path):
    return Path(*path).read_text("utf-8")


@pytest.fixture(scope="module")
def metrics(run):
    return json.loads(read(run, "metrics.json"))


@pytest.fixture
def report(browser, run):
    """The page, opened from the disk; it must ask for nothing else and raise no error."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True)
    page, requests, errors = context.new_page(), [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    address = f"file://{run}/report.html"
    page.goto(address)
    yield page
    assert errors == []
    assert [url for url in requests if not url.startswith("data:image/")] == [address]
    context.close()


def test_every_part_is_there_to_be_seen(report):
    for title in ("Scores", "IoU by class, in percent", "Predictions",
                  "Relations between classes", "Training", "How it was made", "Versions"):
        expect(report.get_by_role("heading", name=title, exact=True)).to_be_visible()


def test_the_scores_are_those_of_the_run(report, metrics):
    cells = report.locator("tr", has_text="this run").locator("td").all_inner_texts()
    assert cells[1:] == [f"{100 * metrics[key]:.2f}" for key in (
        "seen_miou", "unseen_miou", "miou", "hiou", "pixel_accuracy")]


def test_bars_are_as_long_as_the_scores_and_those_of_unseen_classes_are_striped(report, metrics):
    rows = report.locator(".bars tr")
    assert rows.count() == len(metrics["classes"]) == 10
    widest = rows.first.locator("td").last.evaluate(
        "cell => cell.clientWidth - 2 * parseFloat(getComputedStyle(cell).paddingLeft)")
    assert widest > 300
    for index, item in enumerate(metrics["classes"]):
        bar = rows.nth(index).locator(".bar")
        assert bar.bounding_box()["width"] == pytest.approx(max(widest * item["iou"], 1), abs=1)
        style = bar.evaluate("bar => getComputedStyle(bar).backgroundImage")
        assert style.startswith("repeating-linear-gradient") != item["seen"]


def test_pictures_and_heat_maps_are_drawn_whole(report, run):
    folder = os.path.join(run, "predictions")
    paths = [*(os.path.join(folder, name) for name in sorted(os.listdir(folder))),
             os.path.join(run, "generator", "relations.png")]
    assert len(paths) > 1 and report.locator("img").count() == len(paths)
    for image, path in zip(report.locator("img").all(), paths):
        height, width = cv2.imread(path).shape[:2]
        assert image.evaluate("image => [image.complete, image.naturalHeight, "
                              "image.naturalWidth]") == [True, height, width]
        box = image.bounding_box()
        assert box["width"] / box["height"] == pytest.approx(width / height, rel=0.02)
        assert box["x"] >= 0 and box["x"] + box["width"] <= 1200


def test_curves_and_their_labels_stay_within_their_plots(report):
    plots = report.locator("svg")
    assert plots.count() >= 6
    for plot in plots.all():
        assert plot.locator("path, use").count() > 0
        outside = plot.evaluate("""plot => {
            const frame = plot.getBoundingClientRect();
            const parts = plot.querySelectorAll("text, g > path, use");
            return [...parts].filter((part) => {
                const box = part.getBoundingClientRect();
                return box.left < frame.left - 1 || box.right > frame.right + 1
                    || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
            }).map((part) => part.outerHTML);
        }""")
        assert outside == []


def test_it_says_how_the_run_was_made(report, run, metrics):
    text = report.locator("body").inner_text()
    made = json.loads(read(run, "generator", "stage.json"))["made"]
    assert made["command"] in text
    for name, version in metrics["versions"].items():
        row = report.get_by_role("cell", name=name, exact=True).locator("xpath=..")
        expect(row.first).to_contain_text(version)


def test_the_config_opens_with_a_click(report, run):
    config = report.locator("details pre")
    expect(config).to_be_hidden()
    report.locator("summary").click()
    expect(config).to_be_visible()
    assert config.inner_text().strip() == read(run, "config.yml").strip()


def test_it_fits_a_narrow_screen(report):
    report.set_viewport_size({"width": 480, "height": 900})
    assert report.evaluate("document.documentElement.scrollWidth") <= 480
