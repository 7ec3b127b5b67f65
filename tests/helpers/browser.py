"""A small trained run, and the page over it in a real browser.

A plugin of pytest, which also the process of ``make test`` reads that has no use for Paddle.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

DATA = ("num_train=200", "num_val=8", "image_size=48", "num_colors=3", "num_patterns=3")
#: Where a Chromium is installed; without one Playwright takes its own.
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome",
                                                "google-chrome-stable"))), None)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Nine shapes, two of them unseen; trained for about half a minute."""
    from helpers.tiny_runs import ROOT
    from paddle_csrl.cli import train

    base = tmp_path_factory.mktemp("browser")
    data = [f"{split}_dataset.{item}" for split in ("train", "val")
            for item in (*DATA, f"dataset_root={base}/data")]
    train.main(["-c", os.path.join(ROOT, "configs", "csrl_shapes.yml"), "--device", "cpu",
                "--save_dir", f"{base}/run", "--opts", *data, "model.num_classes=10",
                "zero_shot.unseen=blue striped,red dotted", f"zero_shot.cache_dir={base}/cache",
                "iters=120", "save_interval=120", "generator.iters=100"])
    return f"{base}/run"


@contextlib.contextmanager
def served(run, *flags):
    """The address at which the command line serves the run."""
    from helpers.tiny_runs import ROOT

    process = subprocess.Popen(
        [sys.executable, os.path.join(ROOT, "tools", "demo.py"), "--run", run, "--port", "0",
         "--device", "cpu", "--no-open_browser", *flags], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True)
    yield next(filter(None, (re.search(r"the page is at (http://\S+)", line)
                             for line in process.stdout)))[1]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.fixture(scope="session")
def address(run):
    with served(run) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to the root user of a container.
        browser = playwright.chromium.launch(executable_path=CHROMIUM,
                                             chromium_sandbox=os.getuid() != 0)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The page, loaded; it must ask no other server and raise no error."""
    from playwright.sync_api import expect

    expect.set_options(timeout=20_000)
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    expect(page.locator("#title")).not_to_be_empty()
    yield page
    assert errors == []
    assert [url for url in requests if not url.startswith((address, "blob:", "data:"))] == []
    page.close()
