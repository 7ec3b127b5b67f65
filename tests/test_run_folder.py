"""One run per folder, a kill anywhere, changed files, and what cannot be written."""

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from helpers.limits import in_fork, killed_before, with_file_limit
from helpers.tiny_runs import ROOT, differing, files, weights
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.cli import add_class, predict, run, train, val, visualize
from paddle_csrl.errors import UserError
from paddle_csrl.models.last_layer import load_layer, save_layer
from paddle_csrl.preparation.label_files import write_label
from paddle_csrl.run_folder import RunFolder
from paddle_csrl.utils import lock, write_json, write_text
from paddle_csrl.utils.io import atomic_path, folder_aside, write_image
from paddle_csrl.utils.record import checksum, require_unchanged
from paddle_csrl.utils.visualdl import StageLogWriter
from paddle_csrl.utils.weights import load_state, save_state
from paddle_csrl.visualize import save_png

OUTPUTS = {"segmentor": "model.pdparams", "features": "bank.npz"}


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    """A run's folder with two finished stages."""
    made = RunFolder(str(tmp_path / "out"), OUTPUTS)
    for stage in OUTPUTS:
        made.begin(stage)
        Path(made.output(stage)).write_text(f"output of {stage}")
        made.finish(stage, inputs={}, made={"seconds": 1.0})
    return made


def dead_process() -> int:
    """The number of a process that has ended."""
    process = os.fork()
    if not process:
        os._exit(0)
    os.waitpid(process, 0)
    return process


def error_of(capsys, main, argv) -> str:
    """The one line that ``main(argv)`` ends with, run as a program is."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run(lambda: main(argv))
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1, said
    return said


# One run per folder

def hold_and_wait(folder: str, ready: int) -> None:
    with lock.hold(folder):
        os.write(ready, b"x")
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """A process that holds ``tmp_path``, as its number; it is ended after the test."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        try:
            hold_and_wait(str(tmp_path), writing)
        finally:
            os._exit(0)
    os.read(reading, 1)
    yield process
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_another_process_is_named_and_kept_out(tmp_path, holder):
    command = re.escape(shlex.join(sys.argv))
    with pytest.raises(UserError, match=rf"{tmp_path} is in use by process {holder} \({command}\) "
                                        r"since 20.*; wait for it or choose another --save_dir"):
        with lock.hold(str(tmp_path)):
            raise AssertionError("two hold the folder")
    assert json.loads((tmp_path / lock.LOCK_FILE).read_text())["pid"] == holder


def test_the_lock_ends_with_a_killed_process_not_with_its_loader_processes(tmp_path):
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        with lock.hold(str(tmp_path)):
            worker = os.fork()  # as a loader does
            if worker:
                os.write(writing, str(worker).encode())
            time.sleep(60)
        os._exit(0)
    worker = int(os.read(reading, 20))
    try:
        with pytest.raises(UserError, match="in use"), lock.hold(str(tmp_path)):
            pass
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        assert (tmp_path / lock.LOCK_FILE).is_file()
        with lock.hold(str(tmp_path)):
            assert json.loads((tmp_path / lock.LOCK_FILE).read_text())["pid"] == os.getpid()
    finally:
        os.kill(worker, signal.SIGKILL)
    assert not os.listdir(tmp_path)


def test_a_process_holds_a_folder_several_times(tmp_path):
    def others() -> int:
        return in_fork(lambda: lock.hold(str(tmp_path)).__enter__())[0]

    with lock.hold(str(tmp_path)) as first:
        with lock.hold(str(tmp_path / "." / "")) as second:
            assert (first, second) == (True, False)
        assert others() == 1
    assert others() == 0


def test_a_folder_made_for_nothing_is_taken_away(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="bad input"), lock.hold(str(tmp_path / "mine" / "a" / "b")):
        raise UserError("bad input")
    assert files(str(tmp_path)) == [] and os.listdir(tmp_path) == ["mine"]
    assert os.listdir(tmp_path / "mine") == []


def test_nothing_is_locked_where_the_file_system_knows_no_locks(tmp_path, monkeypatch, holder):
    def lockf(*_):
        raise OSError(lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", lockf)
    with lock.hold(str(tmp_path)) as is_first:
        assert is_first


def test_a_second_training_is_refused_and_harms_nothing(finished, tmp_path, capsys, holder):
    copied = finished("custom").copy(tmp_path / "run")
    os.rename(tmp_path / "run", tmp_path / "aside")
    for name in os.listdir(tmp_path / "aside"):
        os.rename(tmp_path / "aside" / name, tmp_path / name)
    os.rmdir(tmp_path / "aside")
    before = files(str(tmp_path))
    argv = copied.recipe.argv(save_dir=tmp_path, restart=True)
    assert f"in use by process {holder}" in error_of(capsys, train.main, argv)
    assert "in use by" in error_of(capsys, visualize.main, ["report", "--run", str(tmp_path)])
    assert files(str(tmp_path)) == before


# What killed processes leave

def test_what_killed_processes_left_is_cleared_and_nothing_else(folder, holder):
    dead = dead_process()
    gone = [f".{dead}.model.pdparams", f"segmentor/.{dead}.stage.json",
            f"segmentor/iter_5/.{dead}.model.pdopt", f".{dead}.segmentor/stage.json",
            f"segmentor/.{dead}.iter_9/model.pdparams",
            f".{dead}.features_old/iter_5/model.pdparams", f".{os.getpid()}.segmentor/stage.json"]
    kept = [f".{holder}.model.pdparams", f"segmentor/.{holder}.iter_9/model.pdparams",
            f".{dead}.mine/thesis.txt", "mine/.1.txt", ".5.", ".git",
            f"mine/.{dead}.txt"]
    before = files(folder.save_dir)
    for name in (*gone, *kept):
        path = Path(folder.save_dir, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with folder.held():
        assert sorted(set(files(folder.save_dir)) - {lock.LOCK_FILE}) == sorted([*before, *kept])
        assert not [name for name in os.listdir(folder.save_dir) if "segmentor_" in name]


def test_a_folder_that_a_killed_process_was_filling_is_cleared(tmp_path, holder):
    dead = dead_process()
    for name in (f".{dead}.new", f".{holder}.new", f".{dead}.other", ".new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.pdparams").touch()
    aside = Path(folder_aside(str(tmp_path / "new")))
    assert aside.parent == tmp_path and not os.listdir(aside)
    assert {*os.listdir(tmp_path)} - {lock.LOCK_FILE} == {
        f".{holder}.new", f".{dead}.other", ".new", aside.name}


@pytest.mark.parametrize("earlier", [None, "short", "long", "restarted"])
def test_a_kill_while_a_stage_begins_never_blocks_the_next(tmp_path, earlier):
    points = 0
    while True:
        folder = RunFolder(str(tmp_path / str(points)), OUTPUTS, restart=earlier == "restarted")
        if earlier:
            folder.begin("segmentor")
            for name in ("model.pdparams", "iter_5/model.pdparams", "iter_5/model.pdopt"):
                Path(folder.folder("segmentor"), name).parent.mkdir(exist_ok=True)
                Path(folder.folder("segmentor"), name).write_text("earlier")
            folder.finish("segmentor", made={"seconds": 5.0 if earlier == "short" else 1e6})

        def begin(folder=folder):
            with folder.held():
                folder.begin("segmentor")

        was_killed = killed_before(points, begin)
        names = os.listdir(folder.save_dir) if os.path.isdir(folder.save_dir) else []
        kept = [name for name in names if name.startswith("segmentor_2")]
        if earlier == "long" and not kept:  # nothing that took long may be lost
            assert folder.is_finished("segmentor")
        begin()
        assert os.listdir(folder.folder("segmentor")) == ["stage.json"]
        assert folder.record("segmentor") == {"finished": False}
        others = set(os.listdir(folder.save_dir)) - {"segmentor"}
        assert all(name.startswith("segmentor_2") for name in others) if earlier == "long" \
            else not others
        if not was_killed:
            break
        points += 1
    assert points >= 6


# Outputs that have changed

def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """Turn a bit in the middle; the size stays, and so does the time."""
    times, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm, says", [
    (cut, "has 9 bytes instead of 19"), (flip, "has changed since its stage finished"),
    (empty, "has 0 bytes instead of 19"), (Path.unlink, "is missing")])
def test_a_changed_output_is_named(folder, harm, says):
    path = Path(folder.output("segmentor"))
    assert folder.is_finished("segmentor") and folder.damage("segmentor") is None
    harm(path)
    assert folder.damage("segmentor") == f"{path} {says}"
    assert not folder.is_finished("segmentor") and folder.is_finished("features")
    if harm is not Path.unlink:
        with pytest.raises(UserError, match=f"{path} {says}; python tools/train.py -c "
                                            f"{folder.save_dir}/config.yml --save_dir "
                                            f"{folder.save_dir} makes it anew"):
            require_unchanged(str(path))


def test_records_of_earlier_versions_stay_valid(folder):
    write_json(os.path.join(folder.folder("segmentor"), "stage.json"), {"finished": True})
    assert folder.is_finished("segmentor")
    Path(folder.output("segmentor")).write_text("anything")
    assert folder.is_finished("segmentor")
    require_unchanged(folder.output("segmentor"))


def test_a_file_is_hashed_once(folder, monkeypatch):
    before = checksum(folder.output("segmentor"))
    opened = []
    monkeypatch.setattr("builtins.open", lambda path, *rest, open=open: (
        opened.append(path), open(path, *rest))[1])
    assert checksum(folder.output("segmentor")) == before and not opened


def test_a_moved_folder_is_as_whole_as_before(folder, tmp_path):
    os.rename(folder.save_dir, tmp_path / "elsewhere")
    moved = RunFolder(str(tmp_path / "elsewhere"), OUTPUTS)
    assert moved.is_finished("segmentor")
    empty(Path(moved.output("segmentor")))
    assert not moved.is_finished("segmentor")


BROKEN = {
    "empty": b"", "cut": b'{"finished": tru', "list": b"[1, 2]", "number": b"5", "null": b"null",
    "not UTF-8": b"\xff\xfe{", "deep": b"[" * 100_000, "deep keys": b'{"a":' * 100_000,
    "inputs null": b'{"finished": true, "inputs": null}',
    "inputs list": b'{"finished": true, "inputs": []}',
    "inputs text": b'{"finished": true, "inputs": "x"}',
    "finished text": b'{"finished": "true"}', "format": b'{"finished": true, "format": "x"}',
    "a key twice": b'{"finished": false, "finished": true}',
    "seconds text": b'{"finished": true, "made": {"seconds": "x"}}',
    "seconds nan": b'{"finished": true, "made": {"seconds": NaN}}',
    "outputs": b'{"finished": true, "outputs": {"model.pdparams": 5}}',
    "a long number": b'{"finished": true, "format": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_record_means_unfinished_and_nothing_is_deleted(folder, content):
    Path(folder.folder("segmentor"), "stage.json").write_bytes(content)
    assert folder.record("segmentor") == {} and not folder.is_finished("segmentor")
    folder.check_folder("segmentor")
    folder.begin("segmentor")
    kept, = (name for name in os.listdir(folder.save_dir) if name.startswith("segmentor_"))
    assert Path(folder.save_dir, kept, "model.pdparams").read_text() == "output of segmentor"
    Path(folder.folder("segmentor"), "stage.json").write_bytes(content)
    folder.begin("segmentor")  # in the same second
    assert len([name for name in os.listdir(folder.save_dir) if name.startswith("segmentor")]) == 3


COMMANDS = {
    "val": (val, lambda run: run.recipe.argv(model_path=run.path("model.pdparams"))),
    "predict": (predict, lambda run: ["--run", run.folder, "--image_path", run.folder,
                                      "--device", "cpu"]),
    "add_class": (add_class, lambda run: ["--run", run.folder, "horse", "--device", "cpu"]),
    "visualize": (visualize, lambda run: ["relations", "--run", run.folder, "--device", "cpu"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_takes_a_changed_model(finished, tmp_path, capsys, command):
    run = finished("custom").copy(tmp_path / "run")
    main, argv = COMMANDS[command]
    path = run.path("generator" if command == "visualize" else "", "model.pdparams")
    flip(Path(path))
    said = error_of(capsys, main.main, argv(run))
    assert f"{path} has changed since its stage finished; python tools/train.py -c " in said


@pytest.mark.parametrize("name, harm, remade", [
    ("model.pdparams", flip, "classifier"), ("segmentor/model.pdparams", flip, "segmentor"),
    ("features/bank.npz", cut, "features"), ("generator/model.pdparams", empty, "generator"),
    ("classifier/model.pdparams", cut, "classifier")])
def test_the_same_command_makes_a_changed_output_anew(finished, tmp_path, capsys, name, harm,
                                                      remade):
    whole = finished("custom")
    copied = whole.copy(tmp_path / "run")
    harm(Path(copied.path(name)))
    copied.again()
    said = capsys.readouterr().out
    assert f"[{remade}] runs again: {copied.path(name)} has " in said
    assert [stage for stage in ("segmentor", "features", "generator", "classifier")
            if f"[{stage}] took" in said] == [remade]
    assert not differing(copied.weights(), whole.weights())
    assert Path(copied.path(name)).read_bytes() == Path(whole.path(name)).read_bytes()


def test_a_stage_by_itself_says_which_earlier_output_to_make_anew(finished, tmp_path, capsys):
    copied = finished("custom").copy(tmp_path / "run")
    path = copied.path("features", "bank.npz")
    cut(Path(path))
    argv = copied.recipe.argv(save_dir=copied.folder, stage="generator")
    said = error_of(capsys, train.main, argv)
    assert f"{path} has " in said and "run --stage features first" in said
    copied.again(stage="features")
    assert copied.again(stage="generator") == {}


# What cannot be written

def bank() -> FeatureBank:
    counts = np.array([3000, 0])
    return FeatureBank(np.random.default_rng(0).random((3000, 8)).astype(np.float32), counts,
                       counts)


def record(folder: str) -> None:
    with StageLogWriter(folder) as writer:
        writer.add_picture("picture", noise(200, 200, 3), 0)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)


#: By file: makes what writes it.
WRITERS = {
    "model.pdparams": lambda: partial(save_state, paddle.nn.Linear(100, 100).state_dict()),
    "bank.npz": lambda: bank().save,
    "layer.npz": lambda: partial(save_layer, {"weight": np.zeros((99, 99))}),
    "metrics.json": lambda: lambda path: write_json(path, ["letters" * 9999]),
    "picture.png": lambda: lambda path: save_png(path, noise(200, 200, 3)),
    "label.png": lambda: lambda path: write_label(path, noise(300, 300)),
    "settings.yml": lambda: lambda path: write_text(path, "letters" * 9999),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("earlier", [False, True])
def test_a_writer_names_the_file_and_leaves_it_whole(tmp_path, name, earlier):
    path, write = tmp_path / name, WRITERS[name]()
    if earlier:
        path.write_text("earlier")

    def program():
        with pytest.raises(SystemExit) as end:
            run(lambda: write(str(path)))
        return end.value.code

    assert with_file_limit(20_000, program) == (0, "2")
    status, said = with_file_limit(20_000, lambda: write(str(path)))
    assert status == 1 and f"File too large: '{path}'" in said
    assert os.listdir(tmp_path) == ([name] if earlier else [])
    assert not earlier or path.read_text() == "earlier"


def test_a_photograph_is_not_cut_in_silence(tmp_path):
    path, picture = str(tmp_path / "a.jpg"), Image.fromarray(noise(200, 200, 3))
    status, said = with_file_limit(20_000, lambda: write_image(path, picture, "JPEG", quality=95))
    assert status == 1 and "File too large" in said
    write_image(path, picture, "JPEG", quality=95)
    assert os.path.getsize(path) > 20_000


def test_a_log_that_cannot_be_written_ends_the_training(tmp_path):
    status, said = with_file_limit(20_000, lambda: record(str(tmp_path)))
    assert status == 1 and f"File too large: '{tmp_path}/vdlrecords" in said


@pytest.mark.parametrize("number, advice", [
    ("ENOSPC", "free some space and run the same command again, it goes on"),
    ("EDQUOT", "free some of your quota and run"), ("EFBIG", "ulimit -f"),
    ("EROFS", "choose a folder that can be written to")])
def test_what_the_system_refuses_is_one_line_with_the_file(tmp_path, capsys, number, advice):
    code = getattr(lock.errno, number)

    def main(argv):
        with atomic_path(str(tmp_path / "a.json")):
            raise OSError(code, os.strerror(code))

    said = error_of(capsys, main, [])
    assert said.startswith(f"error: cannot write {tmp_path}/a.json: {os.strerror(code)}; ")
    assert advice in said and not os.listdir(tmp_path)


def test_output_on_a_full_disk_is_one_line(tmp_path):
    program = ("import sys; from paddle_csrl.cli import run\n"
               "def main():\n    print('x' * 10**5, flush=True)\nrun(main)")
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE,
                              text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: cannot write the output or a")
    assert "Traceback" not in done.stderr and "ignored" not in done.stderr


def test_a_training_that_met_a_limit_goes_on_without_it(finished, tmp_path):
    whole, folder = finished("custom"), tmp_path / "run"
    largest = max(os.path.getsize(whole.path(name)) for name in files(whole.folder))
    tool = os.path.join(ROOT, "tools", "train.py")
    done = subprocess.run(
        [sys.executable, tool, *whole.recipe.argv(save_dir=folder)], stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2,) * 2))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: cannot write ")
    assert not [name for name in files(str(folder)) if os.path.basename(name).startswith(".")]
    whole._replace(folder=str(folder)).again()
    assert not differing(weights(str(folder / "model.pdparams")), whole.weights())


def test_reading_goes_through_the_check(folder, tmp_path):
    for read in (load_state, FeatureBank.load, load_layer):
        path = Path(folder.output("features"))
        path.write_bytes(b"\xff\xff")
        with pytest.raises(UserError, match="has 2 bytes instead of 18; python tools/train.py"):
            read(str(path))
