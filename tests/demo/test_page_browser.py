"""The page of tools/demo.py, click by click, in a real browser."""

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from helpers.browser import served

pytestmark = pytest.mark.browser

UNSEEN, OTHER = "blue striped", "red dotted"


def pixels(page):
    """What the segmentation looks like on the screen, uint8 RGB."""
    expect(page.locator("#viewer.stale")).to_have_count(0)
    content = page.locator(".frame").nth(1).screenshot()
    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


def row(page, name):
    """The legend's row of a class."""
    return page.locator("#legend li").filter(
        has=page.locator(f'xpath=.//span[@class="name" and text()="{name}"]'))


def share(page, name):
    """Percentage of the picture that the legend tells for a class."""
    text = row(page, name).locator(".share").inner_text()
    return float(text.strip("<% ") or 0)


def choose_image_with(page, name):
    """Click the images one after the other up to one that shows much of a class."""
    buttons = page.locator("#gallery button")
    for number in range(buttons.count()):
        buttons.nth(number).click()
        expect(buttons.nth(number)).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#title")).to_have_text(buttons.nth(number).get_attribute("title"))
        if share(page, name) > 3:
            return
    pytest.fail(f"no image with {name}")


def add(page, text):
    page.fill("#name", text)
    page.click("#add-button")


def wait_for(page, text):
    """Wait until a change is made; more than the other waits allow for."""
    expect(page.locator("#status:not(.busy)")).to_contain_text(text, timeout=120_000)


def test_an_image_is_chosen(page):
    first = pixels(page)
    assert page.locator("#gallery button").count() == 8
    page.locator("#gallery button").nth(3).click()
    expect(page.locator("#title")).to_have_text("val_00003.jpg")
    assert not np.array_equal(pixels(page), first)


def test_the_colours_are_those_of_the_legend(page):
    """With the colours at full strength every pixel has the colour of a class shown there."""
    choose_image_with(page, UNSEEN)
    page.locator("#opacity").fill("100")
    chips = page.locator("#legend li:not(.absent) .chip").evaluate_all(
        "chips => chips.map((chip) => getComputedStyle(chip).backgroundColor)")
    colors = {tuple(map(int, chip[4:-1].split(", "))) for chip in chips}
    shown = pixels(page)[12:-12, 12:-12]  # the frame's corners are round
    seen = {tuple(color) for color in np.unique(shown.reshape(-1, 3), axis=0).tolist()}
    assert len(seen) >= 3 and seen <= colors


def test_unseen_classes_are_marked(page):
    marked = page.locator("#legend li").filter(has=page.locator(".star"))
    assert sorted(marked.locator(".name").all_inner_texts()) == [UNSEEN, OTHER]


def test_a_class_is_hidden_and_shown(page):
    choose_image_with(page, UNSEEN)
    before = pixels(page)
    row(page, UNSEEN).get_by_role("checkbox").click()
    after = pixels(page)
    changed = (before != after).any(-1).mean()
    assert changed == pytest.approx(share(page, UNSEEN) / 100, abs=0.01)
    row(page, UNSEEN).get_by_role("checkbox").click()
    np.testing.assert_array_equal(pixels(page), before)


def test_all_are_hidden_and_shown(page):
    before = pixels(page)
    page.click("#hide-all")
    expect(page.locator("#legend input:checked")).to_have_count(0)
    bare = page.locator(".frame").nth(0).screenshot()
    image = np.array(Image.open(io.BytesIO(bare)).convert("RGB"))
    hidden = pixels(page)
    height, width = np.minimum(hidden.shape[:2], image.shape[:2])
    difference = np.abs(hidden[:height, :width].astype(int) - image[:height, :width])
    assert difference.mean() < 2  # the two frames may start at fractions of a pixel
    page.click("#show-all")
    np.testing.assert_array_equal(pixels(page), before)


def test_the_class_under_the_pointer_is_named(page):
    choose_image_with(page, UNSEEN)
    box = page.locator("#mask").bounding_box()
    color = row(page, UNSEEN).locator(".chip").evaluate(
        "chip => getComputedStyle(chip).backgroundColor")
    page.locator("#opacity").fill("100")
    wanted = (pixels(page) == tuple(map(int, color[4:-1].split(", ")))).all(-1)
    y, x = np.argwhere(wanted)[wanted.sum() // 2].tolist()
    page.mouse.move(box["x"] + x, box["y"] + y)
    expect(page.locator("#pointed")).to_have_text(f"{UNSEEN} ★")


def test_a_class_is_removed_and_added_under_another_name(page):
    choose_image_with(page, UNSEEN)
    before = pixels(page)
    row(page, UNSEEN).get_by_role("button").click()
    wait_for(page, "removed")
    expect(row(page, UNSEEN)).to_have_count(0)
    without = pixels(page)
    assert not np.array_equal(without, before)

    add(page, f"zebra={UNSEEN}")
    expect(page.locator("#status.busy")).to_contain_text("adding zebra")
    expect(page.locator("#add-button")).to_be_disabled()
    wait_for(page, "added")
    expect(row(page, "zebra").locator(".star")).to_have_count(1)
    expect(page.locator("#name")).to_have_value("")
    assert share(page, "zebra") > 1
    assert not np.array_equal(pixels(page), without)

    row(page, "zebra").get_by_role("button").click()
    wait_for(page, "removed")
    add(page, UNSEEN)  # the others find the classes as they were
    wait_for(page, "added")
    expect(row(page, UNSEEN)).to_have_count(1)


def test_numbers_of_the_classes_before_are_not_those_of_now(page):
    """Ids move up after a class that goes, and the picture's new ones may not come."""
    choose_image_with(page, UNSEEN)
    page.route("**/label", lambda route: route.abort())
    row(page, OTHER).get_by_role("button").click()
    wait_for(page, "removed")
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    assert set(page.locator("#legend .share").all_inner_texts()) == {""}
    box = page.locator("#mask").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#pointed")).to_be_empty()

    page.unroute("**/label")
    add(page, OTHER)
    wait_for(page, "added")
    expect(row(page, UNSEEN).locator(".share")).not_to_be_empty()


def test_a_bad_name_is_one_line(page):
    before = pixels(page)
    add(page, "qwertz")
    expect(page.locator("#status.error")).to_contain_text("qwertz")
    expect(page.locator("#add-button")).to_be_enabled()
    expect(page.locator("#legend li")).to_have_count(10)
    expect(page.locator("#name")).to_have_value("qwertz")  # to be corrected
    np.testing.assert_array_equal(pixels(page), before)
    add(page, " ")
    expect(page.locator("#status.error")).to_contain_text("type one, such as zebra")


def test_a_name_is_text_and_never_code(page):
    add(page, "<img src=x onerror=alert(1)>")
    expect(page.locator("#status.error")).to_contain_text("<img")
    expect(page.locator("#classes img")).to_have_count(0)


def test_a_file_is_uploaded(page, tmp_path):
    image = np.zeros((60, 90, 3), np.uint8)
    image[:, 45:] = 255, 0, 0
    Image.fromarray(image).save(tmp_path / "mine.png")
    number = page.locator("#gallery button").count()
    page.set_input_files("#file", tmp_path / "mine.png")
    expect(page.locator("#title")).to_have_text("mine.png")
    expect(page.locator("#gallery button")).to_have_count(number + 1)
    assert page.locator("#mask").get_attribute("width") == "90"
    left, right = np.split(pixels(page), [pixels(page).shape[1] // 2], axis=1)
    assert right[..., 0].mean() > left[..., 0].mean() + 50


def test_the_first_file_has_its_place_among_the_images(run, browser, tmp_path):
    Image.fromarray(np.zeros((60, 90, 3), np.uint8)).save(tmp_path / "mine.png")
    with served(run, "--num_images", "0") as address:
        page = browser.new_page()
        page.goto(address)
        expect(page.locator("#legend li")).to_have_count(10)
        page.set_input_files("#file", tmp_path / "mine.png")
        expect(page.locator("#title")).to_have_text("mine.png")
        expect(page.locator("#gallery button")).to_have_attribute("aria-pressed", "true")
        page.close()


def test_a_file_that_is_no_picture_is_one_line(page, tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    before = pixels(page)
    page.set_input_files("#file", tmp_path / "notes.png")
    expect(page.get_by_role("alert")).to_have_text(
        "notes.png is no picture that can be read; choose a JPEG or PNG file")
    page.locator("#gallery button").nth(0).click()
    expect(page.get_by_role("alert")).to_be_hidden()
    np.testing.assert_array_equal(pixels(page), before)


def test_the_page_fits_a_narrow_screen(page):
    page.set_viewport_size({"width": 480, "height": 900})
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 480
