"""tools/demo.py without a browser: the session, what the server answers, the command line."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import cv2
import numpy as np
import pytest
from PIL import Image
from werkzeug.serving import BaseWSGIServer

import paddle_csrl
from helpers import tiny_runs
from paddle_csrl.add_class import layer
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.cli import demo, predict
from paddle_csrl.demo import server
from paddle_csrl.demo import session as session_module
from paddle_csrl.demo.session import DemoSession
from paddle_csrl.errors import UserError
from paddle_csrl.run import Run

NEW, UNSEEN = "zebra", "cow"


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory):
    """A copy of a run with word vectors, whose files must stay as they are."""
    copy = finished("custom").copy(tmp_path_factory.mktemp("page") / "run")
    before = tiny_runs.times(copy.folder)
    yield copy
    assert tiny_runs.times(copy.folder) == before


@pytest.fixture(scope="module")
def session(run):
    """One whose classes no test changes."""
    session = DemoSession(run.folder)
    yield session
    session.close()


@pytest.fixture
def client(session):
    return server.make_app(session).test_client()


def wait(session):
    """The state once nothing is being done."""
    deadline = time.monotonic() + 120
    while session.state()["task"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return session.state()


def names(state):
    return [entry["name"] for entry in state["classes"]]


def encoded(ending, image, **options):
    content = io.BytesIO()
    Image.fromarray(image).save(content, ending, **options)
    return content.getvalue()


def noise(height=30, width=50):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def send(client, name, content):
    return client.post("/api/images", data={"file": (io.BytesIO(content), name)})


def listed_images(run):
    """Paths of the validation images, from the list file of the data set."""
    root = next(opt.split("=")[1] for opt in run.recipe.opts if "val_dataset.dataset_root" in opt)
    with open(os.path.join(root, "val.txt"), encoding="utf-8") as file:
        return [os.path.join(root, line.split()[0]) for line in file]


def test_the_state_tells_the_classes_of_the_run(run, client):
    with open(run.path("classes.json"), encoding="utf-8") as file:
        table = json.load(file)
    state = client.get("/api/state").json
    assert names(state) == table["class_names"]
    assert [entry["color"] for entry in state["classes"]] == table["palette"]
    assert {entry["name"] for entry in state["classes"] if entry["unseen"]} == set(table["unseen"])


def test_the_validation_images_are_offered(run, session):
    """Fewer are spread over the list."""
    expected = [os.path.basename(path) for path in listed_images(run)]
    assert [image["title"] for image in session.state()["images"]] == expected
    session = DemoSession(run.folder, num_images=2)
    assert [image["title"] for image in session.state()["images"]] == [expected[0], expected[-1]]
    session.close()


def test_picture_and_classes_are_those_of_predict(run, client, tmp_path):
    path = listed_images(run)[2]
    predict.main(["--run", run.folder, "--image_path", path, "--save_dir", str(tmp_path),
                  "--device", "cpu"])
    [written] = (tmp_path / "label_prediction").iterdir()
    expected = np.array(Image.open(written))
    answer = client.get("/api/images/2/label")
    shape = tuple(map(int, answer.headers["X-Shape"].split()))
    np.testing.assert_array_equal(np.frombuffer(answer.data, np.uint8).reshape(shape), expected)
    picture = np.array(Image.open(io.BytesIO(client.get("/api/images/2/picture").data)))
    np.testing.assert_array_equal(picture, cv2.imread(path)[:, :, ::-1])


def test_an_upload_is_predicted_at_its_own_size(client):
    """Turned as its camera says, as OpenCV does; 6 in the tag 0x0112 is a quarter turn."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, content, shape in (
            ("photo.bmp", encoded("BMP", noise(41, 57)), "41 57"),
            ("phone.jpg", encoded("JPEG", noise(30, 50), exif=exif), "50 30")):
        number = send(client, name, content).json["id"]
        assert client.get("/api/state").json["images"][number]["title"] == name
        assert client.get(f"/api/images/{number}/label").headers["X-Shape"] == shape
    number = send(client, "large.png", encoded("PNG", noise(640, 800))).json["id"]
    thumbnail = Image.open(io.BytesIO(client.get(f"/api/images/{number}/thumbnail").data))
    assert thumbnail.size == (200, 160)


@pytest.mark.parametrize("name, content, message", [
    ("notes.txt", b"no picture at all", "notes.txt is no picture that can be read; choose a JPEG "
                                        "or PNG file"),
    ("empty.png", b"", "empty.png is no picture that can be read"),
    ("../../cut.jpg", encoded("JPEG", noise())[:400], "cut.jpg"),
    ("page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "page.svg is no picture"),
    ("film.gif", encoded("GIF", noise()), "film.gif is not a picture that OpenCV reads"),
])
def test_an_upload_that_is_no_picture_is_one_line(session, client, name, content, message):
    before = session.state()["images"], os.listdir(session._temporary.name)
    answer = send(client, name, content)
    assert answer.status_code == 400
    assert message in answer.json["error"]
    assert "\n" not in answer.json["error"] and session._temporary.name not in answer.json["error"]
    assert (session.state()["images"], os.listdir(session._temporary.name)) == before


def test_a_file_that_is_missing_or_too_large(session, client):
    assert client.post("/api/images").json == {"error": "no file came along; choose an image"}
    app = server.make_app(session)
    assert app.config["MAX_CONTENT_LENGTH"] == 20 * 1024 * 1024
    app.config["MAX_CONTENT_LENGTH"] = 1000
    answer = send(app.test_client(), "large.png", bytes(2000))
    assert answer.status_code == 413
    assert answer.json == {"error": "the file is too large; choose one of at most 20 MiB"}


def test_a_picture_of_too_many_pixels(client):
    """Small as a file, and not decoded."""
    content = io.BytesIO()
    Image.new("1", (20000, 2000)).save(content, "PNG")
    assert len(content.getvalue()) < 100_000
    assert send(client, "bomb.png", content.getvalue()).json == {
        "error": "bomb.png has 20000 x 2000 pixels; choose one of at most 25 million"}


def test_a_large_picture_is_made_smaller_before_the_network(client, session, monkeypatch):
    content = encoded("JPEG", noise(1600, 3200))
    number = send(client, "large.jpg", content).json["id"]
    [title] = [image["title"] for image in client.get("/api/state").json["images"]
               if image["id"] == number]
    assert title == "large.jpg, made smaller: 1448 x 724 of 3200 x 1600 pixels"
    answer = client.get(f"/api/images/{number}/label")
    assert answer.headers["X-Shape"] == "724 1448"
    picture = Image.open(io.BytesIO(client.get(f"/api/images/{number}/picture").data))
    assert picture.size == (1448, 724)


def test_uploads_make_room_for_the_next(run, monkeypatch):
    monkeypatch.setattr(session_module, "MAX_UPLOADS", 2)
    session = DemoSession(run.folder)
    own = len(session.state()["images"])
    ids = []
    for size in (40, 48, 56):
        ids.append(session.upload("a.png", encoded("PNG", noise(size, size))))
        session.label(ids[-1])
    assert ids == [own, own + 1, own + 2]
    assert [image["id"] for image in session.state()["images"]] == [*range(own), *ids[1:]]
    assert len([name for name in os.listdir(session._temporary.name) if "tmp" in name]) == 2
    with pytest.raises(UserError, match=f"there is no image {ids[0]}, or no longer"):
        session.label(ids[0])
    assert session.picture(ids[2]).shape == (56, 56, 3)
    session.close()


def test_a_name_of_a_million_letters_and_a_deep_body_are_one_line(client):
    answer = client.post("/api/classes", json={"name": "a" * 10**6})
    assert answer.status_code == 400 and "a name of 1000000 letters" in answer.json["error"]
    assert len(answer.data) < 1000
    answer = client.post("/api/classes", data="[" * 10**5, content_type="application/json")
    assert answer.status_code == 400 and "no name of a class" in answer.json["error"]


@pytest.mark.parametrize("path", [
    "/api/images/999/picture", "/api/images/-1/picture", "/api/images/../../setup.py/picture",
    "/api/images/%2Fetc%2Fpasswd/picture", "/api/images//etc/passwd", "/etc/passwd",
    "/static/../../__init__.py", "/static/%2e%2e/%2e%2e/__init__.py", "/static//etc/passwd",
    "/static/..%2f..%2f__init__.py", "/config.yml", "/static/"])
def test_no_other_file_can_be_read(client, path):
    answer = client.get(path, follow_redirects=True)
    assert answer.status_code in (400, 404)
    assert set(answer.json) == {"error"}


def test_pages_of_other_sites_are_refused(session, client):
    """By a name that points here (DNS rebinding), and by a form that posts here."""
    assert client.get("/api/state", headers={"Host": "evil.example:8041"}).status_code == 403
    assert client.get("/api/state", headers={"Host": "127.0.0.1:8041"}).status_code == 200
    assert client.get("/api/state", headers={"Host": "[::1]:8041"}).status_code == 200
    for origin, status in (("http://evil.example", 403), ("null", 403), ("http://localhost", 400)):
        assert client.post("/api/images", headers={"Origin": origin}).status_code == status
    open_to_all = server.make_app(session, local=False).test_client()
    assert open_to_all.get("/api/state", headers={"Host": "gpu7:8041"}).status_code == 200


@pytest.mark.parametrize("path", ["", "static/page.js", "api/state", "api/images/0/picture",
                                  "api/images/0/thumbnail", "api/images/0/label"])
def test_a_browser_keeps_nothing(client, path):
    """The page of another run may be at the same address a minute later."""
    answer = client.get(f"/{path}")
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"


def test_the_page_loads_nothing_from_elsewhere(client):
    folder = os.path.join(os.path.dirname(paddle_csrl.__file__), "assets", "demo")
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            text = file.read().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?:|//\w+\.|@import|url\(", text), name
    page = client.get("/")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    for link in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert client.get(f"/{link}").status_code == 200


@pytest.mark.parametrize("method, body, says", [
    *(("POST", body, "no name of a class") for body in ({}, {"name": 3}, [], {"name": "  "})),
    *(("DELETE", {"name": name}, f"no unseen class {name} to remove")
      for name in ("no such class", "cat"))])
def test_a_class_needs_a_name_and_only_unseen_ones_are_removed(client, method, body, says):
    answer = client.open("/api/classes", method=method, json=body)
    assert answer.status_code == 400 and answer.json["error"].startswith(says)


def test_options_of_the_layer_are_those_of_added_classes(run):
    session = DemoSession(run.folder, opts=["classifier.calibration=9.0"])
    for change, name, calibration in ((session.remove_class, UNSEEN, 0.0),
                                      (session.add_class, NEW, 9.0)):
        change(name)
        state = wait(session)
        assert not state["message"]["is_error"], state["message"]
        assert Run.open(session._model.folder).calibration == calibration
    session.close()


def test_a_class_is_added_and_removed(run, tmp_path):
    session = DemoSession(run.folder, save_dir=str(tmp_path / "kept"))
    client = server.make_app(session).test_client()
    before = names(session.state())
    session.label(0)
    answer = client.post("/api/classes", json={"name": f" {NEW} "})
    assert answer.status_code == 202
    assert answer.json["task"]["text"] == f"adding {NEW}"
    state = wait(session)
    assert not state["message"]["is_error"], state["message"]
    assert re.search(rf"{NEW}.*\d s", state["message"]["text"])
    assert names(state) == [*before, NEW] and state["version"] == 1
    assert state["classes"][-1]["unseen"]

    label, version = session.label(0)
    assert version == 1
    saved = str(tmp_path / "kept" / "1")
    predict.main(["--run", saved, "--image_path", listed_images(run)[0], "--device", "cpu",
                  "--save_dir", str(tmp_path / "out")])
    [written] = (tmp_path / "out" / "label_prediction").iterdir()
    np.testing.assert_array_equal(np.array(Image.open(written)), label)

    assert client.delete("/api/classes", json={"name": NEW}).json["task"]["text"] \
        == f"removing {NEW}"
    state = wait(session)
    assert names(state) == before and state["version"] == 2
    session.close()
    assert sorted(os.listdir(tmp_path / "kept")) == ["1", "2"]
    assert not os.path.exists(session._temporary.name)


def test_what_every_change_needs_is_loaded_once(run, monkeypatch):
    """The bank and what the generator makes of the known classes, while a picture is looked at."""
    loaded, made, load, generate = [], [], FeatureBank.load, layer.generate
    monkeypatch.setattr(FeatureBank, "load", lambda path: loaded.append(path) or load(path))
    monkeypatch.setattr(layer, "generate", lambda *args: made.append(args) or generate(*args))
    session = DemoSession(run.folder)
    assert not loaded
    session.label(0)
    session.label(1)
    session._worker.submit(lambda: None).result()
    assert (len(loaded), len(made)) == (1, 1)
    for number, name in enumerate(("zebra", "sheep"), 2):
        session.add_class(name)
        assert not wait(session)["message"]["is_error"]
        assert (len(loaded), len(made)) == (1, number)
    session.close()


def test_without_a_folder_only_the_newest_model_is_kept(run):
    session = DemoSession(run.folder)
    for change, name in ((session.add_class, NEW), (session.remove_class, UNSEEN)):
        change(name)
        assert not wait(session)["message"]["is_error"]
    state = session.state()
    assert NEW in names(state) and UNSEEN not in names(state)
    folder = session._temporary.name
    assert os.listdir(folder) == ["2"]
    session.close()
    assert not os.path.exists(folder)


@pytest.mark.parametrize("text, message", [
    ("qwertzuiop", "qwertzuiop"), (UNSEEN, UNSEEN), ("zebra=", "zebra"), ("a=qwertz", "class 'a'")])
def test_a_class_that_cannot_be_added_is_one_line(session, text, message):
    before = session.state()
    session.add_class(text)
    state = wait(session)
    assert state["message"]["is_error"] and message in state["message"]["text"]
    assert "\n" not in state["message"]["text"]
    assert names(state) == names(before) and state["version"] == before["version"]
    assert not {"1", "2"} & set(os.listdir(session._temporary.name))
    assert session.label(0)[1] == before["version"]


def test_a_run_that_came_into_the_folder_meanwhile_stays(run, tmp_path, monkeypatch):
    """As of another page with the same --save_dir."""
    other = tmp_path / "kept" / "1"
    other.mkdir(parents=True)
    (other / "model.pdparams").write_text("of the other page")
    session = DemoSession(run.folder, save_dir=str(tmp_path / "kept"))
    monkeypatch.setattr(session, "_new_folder", lambda: str(other))
    session.add_class(NEW)
    state = wait(session)
    session.close()
    assert state["message"]["is_error"] and str(other) in state["message"]["text"]
    assert (other / "model.pdparams").read_text() == "of the other page"


def test_more_classes_than_a_byte_tells_are_refused(run, monkeypatch):
    monkeypatch.setattr(session_module, "MAX_CLASSES", 4)
    with pytest.raises(UserError, match=f"at most 4 classes, and the model in {run.folder} has 5"):
        DemoSession(run.folder)


def test_one_change_at_a_time(session, monkeypatch):
    go_on = threading.Event()

    def refuse(*args, **kwargs):
        go_on.wait(60)
        raise UserError("refused")

    monkeypatch.setattr(session_module, "add_classes", refuse)
    session.add_class("zebra=horse")
    assert session.state()["task"]["text"] == "adding zebra"
    with pytest.raises(UserError, match="adding zebra is not done yet; wait"):
        session.remove_class(UNSEEN)
    go_on.set()
    assert wait(session)["message"] == {"text": "refused", "is_error": True}


def test_a_fault_is_one_line_on_the_page_and_a_trace_in_the_terminal(session, client, monkeypatch,
                                                                      capsys):
    def fail(*args, **kwargs):
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(session_module, "add_classes", fail)
    session.add_class("zebra")
    assert wait(session)["message"] == {
        "text": "failed (ZeroDivisionError); the terminal has the details", "is_error": True}
    monkeypatch.setattr(session, "picture", fail)
    answer = client.get("/api/images/0/picture")
    assert answer.status_code == 500
    assert answer.json == {"error": "failed (ZeroDivisionError); the terminal has the details"}
    assert "".join(capsys.readouterr()).count("in fail") == 2


def test_without_the_data_the_page_says_so_and_takes_uploads(finished):
    session = DemoSession(finished("custom").folder, opts=["val_dataset.dataset_root=gone"])
    state = session.state()
    assert state["images"] == [] and "no folder at `dataset_root: gone`" in state["images_note"]
    assert session.label(session.upload("a.png", encoded("PNG", noise(48, 56))))[0].shape \
        == (48, 56)
    session.close()


def test_a_port_in_use(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: .*in use; choose another --port"):
            demo.main(["--run", run.folder, "--port", str(port)])


@pytest.mark.parametrize("flags, message", [
    (["--port", "99999"], "--port 99999: .*; choose a --port from 1 to 65535"),
    (["--host", "no.such.host.invalid"],
     "--host no.such.host.invalid .*; choose another --host, such as 127.0.0.1"),
    (["--num_images", "-1"], "--num_images -1"),
    (["--run", "nowhere"], "nowhere"),
])
def test_mistakes_on_the_command_line(run, flags, message):
    with pytest.raises(UserError, match=message):
        demo.main(["--run", run.folder, "--port", "0", *flags])


@pytest.mark.parametrize("host, warns", [("127.0.0.1", False), ("0.0.0.0", True)])
def test_an_open_server_comes_with_a_warning(run, host, warns, monkeypatch, capsys):
    monkeypatch.setattr(BaseWSGIServer, "serve_forever", lambda self: None)
    result = demo.main(["--run", run.folder, "--host", host, "--port", "0", "--device", "cpu",
                        "--no-open_browser"])
    printed = "".join(capsys.readouterr())
    assert ("everyone who reaches this machine" in printed) == warns
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", result["url"])
    assert f"the page is at {result['url']}" in printed


def test_without_flask_the_tool_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "flask", None)
    with pytest.raises(UserError, match=r"needs the package flask: pip install .*\[demo\]"):
        demo.main(["--run", run.folder])


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_tool_serves_until_it_is_ended(run, end, tmp_path):
    tool = os.path.join(tiny_runs.ROOT, "tools", "demo.py")
    process = subprocess.Popen(
        [sys.executable, tool, "--run", run.folder, "--port", "0", "--device", "cpu",
         "--no-open_browser"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        # A shell's background jobs, and what they start, ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    address = next(filter(None, (re.search(r"the page is at (http://\S+)", line)
                                 for line in process.stdout)))
    with urllib.request.urlopen(f"{address[1]}/api/state", timeout=60) as answer:
        assert json.load(answer)["run"] == run.folder
    assert [path.name for path in tmp_path.glob("csrl_demo.*")]
    process.send_signal(end)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in rest
    assert not list(tmp_path.glob("csrl_demo.*"))
