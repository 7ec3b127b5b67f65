"""What the user gets to see: VisualDL records, messages, progress and whole files."""

import glob
import json
import os

import cv2
import numpy as np
import pytest
from visualdl import LogReader

from helpers.fabricated import make_context, make_dataset, make_voc
from paddle_csrl.datasets.sources import require_data
from paddle_csrl.errors import UserError, user_message
from paddle_csrl.utils import atomic_path, progress, read_json, write_json
from paddle_csrl.utils.visualdl import StageLogWriter

# --- VisualDL


def read(folder, kind="scalar"):
    """{tag: [(step, value)]} of the only log in ``folder``."""
    path, = glob.glob(os.path.join(folder, "vdlrecords*"))
    reader = LogReader(file_path=path)
    return {tag: [(record.id, record.value if kind == "scalar" else record)
                  for record in reader.get_data(kind, tag)]
            for tag in reader.get_tags().get(kind, [])}


def test_a_log_goes_on_where_it_was(tmp_path):
    """What came after that place is cut off, be it a whole record or the beginning of one."""
    with StageLogWriter(str(tmp_path)) as writer:
        writer.add_scalar("Train/loss", 1.0, 1)
        writer.add_scalar("Train/loss", 2.0, 2)
        position = json.loads(json.dumps(writer.position()))
        writer.add_scalar("Train/loss", 99.0, 3)
    [name] = os.listdir(tmp_path)
    os.truncate(tmp_path / name, os.path.getsize(tmp_path / name) - 3)
    with StageLogWriter(str(tmp_path), position=position) as writer:
        writer.add_scalar("Train/loss", 3.0, 3)
    assert read(tmp_path) == {"Train/loss": [(1, 1.0), (2, 2.0), (3, 3.0)]}


def test_a_log_that_is_gone_begins_anew(tmp_path):
    with StageLogWriter(str(tmp_path), position={"file": "vdlrecords.1.log", "size": 9}) as writer:
        writer.add_scalar("Train/loss", 3.0, 3)
    assert read(tmp_path) == {"Train/loss": [(3, 3.0)]}


@pytest.mark.parametrize("name", ["precious.txt", "vdlrecords.1.log"])
def test_a_position_leads_to_no_file_elsewhere(tmp_path, name):
    """It may be that of a checkpoint from anywhere."""
    precious = tmp_path / name
    precious.write_text("precious")
    (tmp_path / "log").mkdir()
    for file in (str(precious), f"../{name}"):
        with StageLogWriter(str(tmp_path / "log"), position={"file": file, "size": 0}) as writer:
            writer.add_scalar("Train/loss", 3.0, 3)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("names, scalars", [
    (["MMDLoss", "PairwiseRelationLoss"], {"loss": 3.0, "loss_0": 1.0, "loss_1": np.array([2.0])}),
    (["CrossEntropyLoss"], {"loss": 3.0})])
def test_loss_terms_are_recorded_by_name(tmp_path, names, scalars):
    with StageLogWriter(str(tmp_path), names) as writer:
        for tag, value in scalars.items():
            writer.add_scalar(f"Train/{tag}", value, 10)
    values = [1.0, 2.0] if len(names) == 2 else [3.0]
    assert read(tmp_path) == {"Train/loss": [(10, 3.0)], **{
        f"Train/{name}": [(10, value)] for name, value in zip(names, values)}}


def test_scores_are_recorded_by_class(tmp_path):
    scores = {"seen_miou": 0.5, "unseen_miou": 0.25, "miou": 0.375, "hiou": 1 / 3,
              "class_iou": np.array([0.5, 0.25])}
    with StageLogWriter(str(tmp_path), []) as writer:
        writer.add_scores(scores, ["background", "green striped"], 5)
    found = read(tmp_path)
    assert set(found) == {"Evaluate/seen_miou", "Evaluate/unseen_miou", "Evaluate/miou",
                          "Evaluate/hiou", "IoU/background", "IoU/green_striped"}
    assert found["IoU/green_striped"] == [(5, 0.25)]
    assert found["Evaluate/hiou"] == [(5, pytest.approx(1 / 3))]


def test_pictures_are_recorded(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (8, 6, 3)).astype(np.uint8)
    with StageLogWriter(str(tmp_path), []) as writer:
        writer.add_picture("Predictions/0", picture, 7)
    (step, record), = read(tmp_path, "image")["Predictions/0"]
    shown = cv2.imdecode(np.frombuffer(record.image.encoded_image_string, np.uint8), 1)
    assert step == 7 and np.array_equal(shown[:, :, ::-1], picture)


# --- messages


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("data"))
    return {"voc": make_voc(root), "context": make_context(root), "custom": make_dataset(root)}


def test_data_that_is_there_passes(roots):
    assert require_data({"type": "PascalVOC", "dataset_root": roots["voc"], "mode": "trainaug"}) \
        is None
    require_data({"type": "PascalContext", "dataset_root": roots["context"], "mode": "train"})
    require_data({"type": "Dataset", "dataset_root": roots["custom"], "mode": "val",
                  "val_path": os.path.join(roots["custom"], "val.txt")})


@pytest.mark.parametrize("kind, match", [
    ("PascalVOC", "PascalVOC is not in .*VOCtrainval_11-May-2012.tar.*host.robots.ox.ac.uk"),
    ("PascalContext", "PascalContext is not in .*pascal-context.*prepare_context.py"),
    ("Cityscapes", "Cityscapes is not in .*leftImg8bit_trainvaltest.zip.*gtFine"),
    ("Dataset", "no folder at `dataset_root: .*train_dataset.dataset_root=DIR"),
])
@pytest.mark.parametrize("root", [None, "absent"])
def test_missing_data_is_one_line_that_says_what_to_do(tmp_path, kind, match, root):
    cfg = {"type": kind, "mode": "train"}
    if root:
        cfg["dataset_root"] = str(tmp_path / root)
    with pytest.raises(UserError, match=match) as caught:
        require_data(cfg)
    assert "\n" not in str(caught.value) and "{" not in str(caught.value)
    assert str(tmp_path / root if root else "data" if kind != "Dataset" else "None") \
        in str(caught.value)


def test_missing_masks_of_sbd_are_named(roots, tmp_path):
    root = make_voc(str(tmp_path))
    os.remove(os.path.join(root, "VOC2012", "ImageSets", "Segmentation", "aug.txt"))
    with pytest.raises(UserError, match="(?=.*aug.txt)(?=.*SBD)(?=.*train_dataset.mode=train)"):
        require_data({"type": "PascalVOC", "dataset_root": root, "mode": "trainaug"})
    require_data({"type": "PascalVOC", "dataset_root": root, "mode": "train"})


def test_a_missing_list_is_named(roots):
    path = os.path.join(roots["custom"], "absent.txt")
    with pytest.raises(UserError, match="no list file at `train_path: .*absent.txt`"):
        require_data({"type": "Dataset", "dataset_root": roots["custom"], "mode": "train",
                      "train_path": path})
    with pytest.raises(UserError, match="no list file at `val_path: None`"):
        require_data({"type": "Dataset", "dataset_root": roots["custom"], "mode": "val",
                      "train_path": path})


def chain(*errors):
    """The last of ``errors``, each raised while its forerunner was handled."""
    try:
        try:
            if len(errors) > 1:
                raise chain(*errors[:-1])
        except Exception:
            raise errors[-1]  # noqa: B904  its forerunner is what the test is about
        raise errors[-1]
    except Exception as error:
        return error


@pytest.mark.parametrize("error, message", [
    (UserError("the file\n  is torn"), "the file is torn"),
    (chain(UserError("the cause"), RuntimeError("Tried to create an object")), "the cause"),
    (chain(KeyError("x"), UserError("the word to the user")), "the word to the user"),
    (chain(UserError("deep"), ValueError("middle"), RuntimeError("outer")), "deep"),
    (RuntimeError("DataLoader worker(1) caught UserError with message:\nTraceback:\n  File x\n"
                  "paddle_csrl.errors.UserError: a.png is torn; get it anew\n"),
     "a.png is torn; get it anew"),
    (ValueError("of another kind"), None),
    (chain(KeyError("x"), RuntimeError("y")), None),
    (None, None),
])
def test_the_users_message_is_found(error, message):
    assert user_message(error) == message


# --- files and progress


def test_a_failing_block_leaves_what_was_there(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(str(tmp_path / "new.json"), {"a": object()})
    assert os.listdir(tmp_path) == []
    path = str(tmp_path / "scores.json")
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError, match="halfway"), atomic_path(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write("half a fi")
        raise RuntimeError("halfway")
    assert read_json(path) == {"old": 1} and os.listdir(tmp_path) == ["scores.json"]


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with atomic_path(str(path)) as temporary:
        assert temporary.endswith(".txt") and os.path.dirname(temporary) == str(path.parent)
        with open(temporary, "w", encoding="utf-8") as file:
            file.write("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and os.listdir(path.parent) == ["file.txt"]


def test_json_survives_the_round_trip(tmp_path):
    content = {"name": "Füße", "numbers": [1, 2.5, None], "nested": {"a": True}}
    write_json(str(tmp_path / "a.json"), content)
    assert read_json(str(tmp_path / "a.json")) == content
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == content


@pytest.mark.parametrize("content", [None, b"", b"{\"a\": ", b"not json", b"\xff\xfe\x00\x80"])
def test_a_file_that_is_missing_or_not_whole_reads_as_none(tmp_path, content):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    assert read_json(str(tmp_path / "a.json")) is None


def test_progress_hands_on_every_item_and_keeps_short_loops_silent(capsys):
    assert list(progress(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert list(progress(iter("ab"), "counting", total=2)) == ["a", "b"]
    assert "counting" not in capsys.readouterr().err
