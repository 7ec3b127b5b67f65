"""What the user gets to see: VisualDL records, messages, progress and whole files."""

import glob
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from visualdl import LogReader

import paddle_csrl  # noqa: F401  (first: it orders the imports of cv2 and paddle)
from helpers.fabricated import make_context, make_dataset, make_voc
from paddle_csrl import cli
from paddle_csrl.datasets.sources import require_data
from paddle_csrl.errors import UserError, user_message
from paddle_csrl.utils import atomic_path, progress, read_json, write_json
from paddle_csrl.utils.visualdl import StageLogWriter, loss_names

# --- VisualDL


def read(folder, kind="scalar"):
    """{tag: [(step, value)]} of the only log in ``folder``."""
    path, = glob.glob(os.path.join(folder, "vdlrecords*"))
    reader = LogReader(file_path=path)
    return {tag: [(record.id, record.value if kind == "scalar" else record)
                  for record in reader.get_data(kind, tag)]
            for tag in reader.get_tags().get(kind, [])}


def test_loss_terms_are_recorded_by_name(tmp_path):
    with StageLogWriter(str(tmp_path), ["MMDLoss", "PairwiseRelationLoss"]) as writer:
        writer.add_scalar("Train/loss", 3.0, 10)
        writer.add_scalar("Train/loss_0", 1.0, 10)
        writer.add_scalar("Train/loss_1", np.array([2.0]), 10)
    assert read(tmp_path) == {"Train/loss": [(10, 3.0)], "Train/MMDLoss": [(10, 1.0)],
                              "Train/PairwiseRelationLoss": [(10, 2.0)]}


def test_a_single_loss_is_recorded_by_name_too(tmp_path):
    with StageLogWriter(str(tmp_path), ["CrossEntropyLoss"]) as writer:
        writer.add_scalar("Train/loss", 3.0, 10)
    assert read(tmp_path) == {"Train/loss": [(10, 3.0)], "Train/CrossEntropyLoss": [(10, 3.0)]}


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


def test_equal_losses_get_distinct_names():
    cfg = {"types": [{"type": "A"}, {"type": "B"}, {"type": "A"}], "coef": [1, 1, 1]}
    assert loss_names(cfg) == ["A_0", "B", "A_2"]


def test_a_mixed_loss_is_as_many_terms_as_it_has_parts():
    mixed = {"type": "MixedLoss", "coef": [0.8, 0.2],
             "losses": [{"type": "CrossEntropyLoss"}, {"type": "LovaszSoftmaxLoss"}]}
    assert loss_names({"types": [mixed], "coef": [1]}) == ["CrossEntropyLoss", "LovaszSoftmaxLoss"]
    assert loss_names({"types": [mixed, {"type": "CrossEntropyLoss"}], "coef": [1, 1]}) == [
        "CrossEntropyLoss_0", "LovaszSoftmaxLoss", "CrossEntropyLoss_2"]


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


# In a process of its own, for Paddle's unmended loader waits for ever.
LOADER_ERRORS = """
import paddle_csrl, paddle
from paddle_csrl.errors import UserError, user_message

class Torn(paddle.io.Dataset):
    def __init__(self, torn, error):
        self.torn, self.error = torn, error
    def __len__(self):
        return 4
    def __getitem__(self, index):
        if index == self.torn:
            raise self.error
        return paddle.zeros([2]).numpy()

for num_workers in (0, 1):
    for torn in (0, 2):
        for error in (UserError("a.png is torn; get it anew"), KeyError("a bug")):
            items = []
            try:
                for item in paddle.io.DataLoader(Torn(torn, error), batch_size=1,
                                                 num_workers=num_workers):
                    items.append(item)
            except Exception as caught:
                print(num_workers, torn, type(caught).__name__, user_message(caught))
    print(num_workers, len(list(paddle.io.DataLoader(Torn(9, None), num_workers=num_workers))))
"""


def test_an_error_in_a_loader_is_told_as_it_was_raised():
    done = subprocess.run([sys.executable, "-c", LOADER_ERRORS], timeout=100, text=True,
                          capture_output=True,
                          cwd=os.path.dirname(os.path.dirname(paddle_csrl.__file__)))
    expected = []
    for num_workers in (0, 1):
        for torn in (0, 2):
            expected += [f"{num_workers} {torn} UserError a.png is torn; get it anew",
                         f"{num_workers} {torn} KeyError None"]
        expected.append(f"{num_workers} 4")
    assert done.stdout.splitlines() == expected, done.stderr[-2000:]


# The readers of the failed loaders wait in threads that the last one's worker does not have.
LOADER_GARBAGE = """
import gc
import paddle_csrl, paddle

class Torn(paddle.io.Dataset):
    def __init__(self, torn):
        self.torn, self.error = torn, KeyError("torn")
    def __len__(self):
        return 4
    def __getitem__(self, index):
        if self.torn is None:
            gc.collect()
        if index == self.torn:
            raise self.error
        return paddle.zeros([2]).numpy()

gc.disable()
for torn in (0, 2):
    try:
        for item in paddle.io.DataLoader(Torn(torn), num_workers=0):
            pass
    except KeyError:
        pass
print(len(list(paddle.io.DataLoader(Torn(None), num_workers=1))))
"""


def test_a_loaders_workers_do_not_wait_for_what_an_earlier_loader_left():
    done = subprocess.run([sys.executable, "-c", LOADER_GARBAGE], timeout=100, text=True,
                          capture_output=True,
                          cwd=os.path.dirname(os.path.dirname(paddle_csrl.__file__)))
    assert done.stdout == "4\n", done.stderr[-2000:]


def test_a_users_mistake_ends_the_program_with_status_2_and_one_line(capsys):
    def main():
        raise UserError("no such thing;\nmend it")

    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: no such thing; mend it\n"


def test_an_interruption_ends_the_program_with_status_130(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    assert caught.value.code == 130 and capsys.readouterr().err == "stopped\n"


def test_a_fault_of_the_program_keeps_its_traceback():
    def main():
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        cli.run(main)


def test_a_program_that_works_just_returns():
    assert cli.run(lambda: None) is None


# --- files and progress


def test_a_failing_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "scores.json"
    write_json(str(path), {"old": 1})
    with pytest.raises(RuntimeError, match="halfway"):
        with atomic_path(str(path)) as temporary:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write("half a fi")
            raise RuntimeError("halfway")
    assert read_json(str(path)) == {"old": 1}
    assert os.listdir(tmp_path) == ["scores.json"]


def test_a_failing_block_leaves_nothing_where_nothing_was(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(str(tmp_path / "new.json"), {"a": object()})
    assert os.listdir(tmp_path) == []


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


@pytest.mark.parametrize("content", [b"", b"{\"a\": ", b"not json", b"\xff\xfe\x00\x80"])
def test_a_file_that_is_not_whole_reads_as_none(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(str(tmp_path / "a.json")) is None


def test_a_missing_file_reads_as_none(tmp_path):
    assert read_json(str(tmp_path / "a.json")) is None


def test_progress_hands_on_every_item_and_keeps_short_loops_silent(capsys):
    assert list(progress(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert list(progress(iter("ab"), "counting", total=2)) == ["a", "b"]
    assert "counting" not in capsys.readouterr().err
