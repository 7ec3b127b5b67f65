"""A run that is stopped anywhere goes on to the bits that it would have had."""

import contextlib
import gc
import glob
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import paddle
import pytest
from paddle.io.dataloader import dataloader_iter
from visualdl import LogReader

from helpers import tiny_runs
from helpers.tiny_runs import Finished
from paddle_csrl import cli, run_folder, stopping
from paddle_csrl.errors import UserError
from paddle_csrl.stages import segmentor
from paddle_csrl.stages.checkpoints import read_record, torn_file, write_record
from paddle_csrl.stages.progress import ProgressLog
from paddle_csrl.utils import read_json
from paddle_csrl.utils.randomness import random_state, set_random_state

STAGES = (*tiny_runs.STAGES, "self_training")

#: Momentum, dropout, warm-up, two rounds; lines of the log fall between checkpoints.
OPTS = tuple(f"{section}{key}" for section in ("", "generator.", "classifier.")
             for key in ("iters=10", "save_interval=4", "log_iters=3")) + (
    "optimizer.type=Momentum", "optimizer.momentum=0.9",
    "lr_scheduler={'type': 'PolynomialDecay', 'learning_rate': 0.01, 'end_lr': 0, 'power': 0.9, "
    "'warmup_iters': 3, 'warmup_start_lr': 1.0e-5}",
    "classifier.optimizer={'type': 'Adam'}", "zero_shot.policy=ignore",
    "train_dataset.transforms=[{'type': 'ResizeStepScaling'}, {'type': 'RandomPaddingCrop', "
    "'crop_size': [32, 32]}, {'type': 'RandomHorizontalFlip'}, {'type': 'RandomDistort'}, "
    "{'type': 'Normalize'}]",
    "self_training={'share': 0.5, 'rounds': 2, 'save_interval': 4, 'log_iters': 3}")


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory) -> Finished:
    """A run that was never stopped."""
    recipe = finished("custom").recipe
    return tiny_runs.run_all(recipe._replace(opts=(*recipe.opts, *OPTS)),
                             tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def begun(whole, tmp_path):
    """``begun(stage)``: a copy in which the stage and all after it have not begun."""

    def begun(stage: str) -> Finished:
        run = whole.copy(tmp_path / "run")
        for name in STAGES[STAGES.index(stage):]:
            shutil.rmtree(run.path(name))
        os.remove(run.path("model.pdparams"))
        return run

    return begun


def child(main) -> int:
    """Run ``main`` as a program in a child process and return its exit status."""
    # No reader may be left for the child to destroy, which would wait for threads of its parent.
    dataloader_iter._loader = None
    gc.collect()
    process = os.fork()
    if process == 0:
        status = 99
        try:
            status = main() or 0
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def at_iteration(number, action):
    """Make a ``ProgressLog.__call__`` that acts when an iteration is over, before it is saved."""
    original = ProgressLog.__call__

    def call(self, step):
        original(self, step)
        if step.iteration == number:
            action()

    return call


def killed(run, stage, iteration, monkeypatch, *opts):
    """Train up to the end of an iteration, where the process is killed."""

    def main():
        monkeypatch.setattr(ProgressLog, "__call__", at_iteration(
            iteration, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        run.again(*opts, stage=stage)

    assert child(main) == -signal.SIGKILL


def scalars(folder):
    """Step and value of every record in turn by tag, but for times, of the log in a folder."""
    paths = glob.glob(os.path.join(folder, "vdlrecords*"))
    if not paths:  # it trains nothing
        return {}
    [path] = paths
    reader = LogReader(file_path=path)
    return {tag: [(item.id, item.value) for item in reader.get_data("scalar", tag)]
            for tag in reader.get_tags()["scalar"] if not tag.endswith("_cost")}


#: Paddle 2.6 does not: dropout and noise go on with others, and a run merely comes to its end.
TELLS_RANDOM_STATE = bool(random_state()["paddle"][0][-1])


def assert_same(run, whole, stages=STAGES):
    if not TELLS_RANDOM_STATE:
        assert read_json(run.path("metrics.json"))
        return
    for stage in (stage for stage in stages if stage != "features"):
        assert not tiny_runs.differing(run.weights(stage), whole.weights(stage)), stage
        assert scalars(run.path(stage)) == scalars(whole.path(stage)), stage
        one, other = ({name for name in os.listdir(item.path(stage)) if "vdlrecords" not in name}
                      for item in (run, whole))
        assert one == other
    assert not tiny_runs.differing(run.weights(), whole.weights())
    one, other = (read_json(item.path("metrics.json")) for item in (run, whole))
    one["config"].pop("save_dir"), other["config"].pop("save_dir")
    assert one == other


@pytest.mark.parametrize("stage, iteration", [
    ("segmentor", 7), ("segmentor", 10), ("generator", 6), ("classifier", 3),
    ("self_training", 7), ("self_training", 12)])
def test_the_same_command_goes_on_after_a_kill(whole, begun, monkeypatch, capfd, stage, iteration):
    run = begun(stage)
    killed(run, stage, iteration, monkeypatch)
    run.again()
    assert_same(run, whole)
    before = [number for number in (4, 8, 12, 16) if number < iteration]
    if stage == "self_training" and iteration == 12:
        before = [10]  # the end of the first round
    said = "".join(capfd.readouterr())  # PaddleSeg of its develop branch logs to stderr
    assert (f"{stage} goes on" in said.replace("]", "")) == bool(before)
    if before:
        assert f"goes on from {run.path(stage, f'iter_{before[-1]}')}" in said
        assert not glob.glob(run.path(stage, ".*"))


def test_a_projection_goes_on_after_a_kill(finished, tmp_path, monkeypatch, capfd):
    whole, stages = finished("spnet"), ("segmentor", "classifier")
    run = whole.copy(tmp_path / "run")
    for stage in stages:
        shutil.rmtree(run.path(stage))
    killed(run, "segmentor", 3, monkeypatch)
    run.again()
    assert "goes on from" in "".join(capfd.readouterr())
    assert_same(run, whole, stages)


@pytest.mark.parametrize("stage", ["segmentor", "classifier"])
def test_a_kill_while_a_checkpoint_is_evaluated(whole, begun, stage):
    run, evaluated = begun(stage), []

    def main():
        def die(*args, **kwargs):
            evaluated.append(1)
            if len(evaluated) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        module, name = (segmentor, "_selection_score") if stage == "segmentor" else (
            sys.modules["paddle_csrl.stages.classifier"], "evaluate_as_configured")
        original = getattr(module, name)
        setattr(module, name, die)
        run.again(stage=stage)

    assert child(main) == -signal.SIGKILL
    assert os.path.isdir(run.path(stage, "iter_8"))
    run.again()
    assert_same(run, whole)


@pytest.mark.parametrize("name", ["model.pdopt", "checkpoint.json"])
def test_a_torn_checkpoint_is_named_and_passed_over(whole, begun, monkeypatch, capfd, name):
    run = begun("classifier")
    killed(run, "classifier", 9, monkeypatch)
    path = run.path("classifier", "iter_8", name)
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 255]))
    run.again()
    said = "".join(capfd.readouterr())  # PaddleSeg of its develop branch logs to stderr
    assert f"iter_8 is passed over, for {name} is" in said and "goes on from" in said
    assert_same(run, whole)


def test_workers_give_the_same_bits(whole, begun):
    run = begun("segmentor")
    run.again(stage="segmentor", num_workers=2)
    assert not tiny_runs.differing(run.weights("segmentor"), whole.weights("segmentor"))
    assert scalars(run.path("segmentor")) == scalars(whole.path("segmentor"))
    made = read_json(run.path("segmentor", "stage.json"))["made"]
    assert made["num_workers"] == 2
    assert made["omp_num_threads"] == os.environ.get("OMP_NUM_THREADS")


def test_augmentation_is_seen_in_the_weights(whole, begun):
    """The control: what the bits above are compared in would show another draw."""
    run = begun("segmentor")
    run.again(OPTS[-2].replace("{'type': 'RandomDistort'}, ", ""), stage="segmentor")
    assert tiny_runs.differing(run.weights("segmentor"), whole.weights("segmentor"))


@pytest.mark.parametrize("scores, best", [({4: 0.3, 8: 0.9, 10: 0.5}, 8),
                                          ({4: 0.9, 8: 0.3, 10: 0.5}, 4)])
def test_the_best_score_so_far_is_remembered(begun, monkeypatch, scores, best):
    run = begun("segmentor")
    monkeypatch.setattr(segmentor, "_selection_score",
                        lambda context, model, dataset, writer, iteration: scores[iteration])
    killed(run, "segmentor", 9, monkeypatch)
    run.again(stage="segmentor")
    assert tiny_runs.digest(run.path("segmentor", "model.pdparams")) == tiny_runs.digest(
        run.path("segmentor", f"iter_{best}", "model.pdparams"))


def test_what_a_resumed_stage_took_is_added_up(begun, monkeypatch):
    run = begun("classifier")
    killed(run, "classifier", 9, monkeypatch)
    checkpoint = run.path("classifier", "iter_8")
    write_record(checkpoint, {**read_record(checkpoint), "seconds": 1000})
    run.again(stage="classifier")
    assert read_json(run.path("classifier", "stage.json"))["made"]["seconds"] > 1000


# --resume and --restart.

def test_resume_insists(whole, begun, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--resume: .*new has nothing to go on from"):
        whole._replace(folder=str(tmp_path / "new")).again(resume=True)
    run = begun("generator")
    killed(run, "generator", 9, monkeypatch)
    with pytest.raises(UserError, match="--resume: stage generator .* with another generator; go"):
        run.again("generator.num_samples=5", resume=True)
    with pytest.raises(UserError, match="--resume, --resume_model and --restart"):
        run.again(resume=True, restart=True)
    run.again("generator.iters=12", resume=True, stage="generator")
    assert run.weights("generator", "iter_12")["step"] == 12
    with pytest.raises(UserError, match="iter_12 has done all of `iters: 11` of stage generator"):
        run.again("generator.iters=11", resume=True, stage="generator")
    run.again("generator.iters=13", resume=True, stage="generator")
    assert os.path.isdir(run.path("generator", "iter_13"))


@pytest.mark.parametrize("flags, opts", [({"restart": True}, ()),
                                         ({}, ("generator.num_samples=5",))])
def test_other_inputs_or_restart_begin_again(begun, monkeypatch, capfd, flags, opts):
    run = begun("generator")
    killed(run, "generator", 9, monkeypatch)
    run.again(*opts, stage="generator", **flags)
    assert "goes on from" not in "".join(capfd.readouterr())


def test_a_checkpoint_of_another_run_goes_on_in_this_one(whole, tmp_path):
    """With the best so far, and without a trace in the other one."""
    run, before = whole._replace(folder=str(tmp_path / "run")), tiny_runs.times(whole.folder)
    run.again(stage="segmentor", resume_model=whole.path("segmentor", "iter_8"))
    if TELLS_RANDOM_STATE:
        assert not tiny_runs.differing(run.weights("segmentor"), whole.weights("segmentor"))
    assert tiny_runs.times(whole.folder) == before


def test_a_checkpoint_of_another_run_is_not_mixed_with_an_earlier_training(whole, tmp_path,
                                                                           monkeypatch):
    """Its result is kept as after a change, and its curves are not those of the new one."""
    monkeypatch.setattr(run_folder, "KEPT_SECONDS", 0)
    opt, other, run = ("generator.lr_scheduler.learning_rate=0.02", whole.copy(tmp_path / "other"),
                       whole.copy(tmp_path / "run"))
    other.again(opt, stage="generator")
    run.again(opt, stage="generator", resume_model=other.path("generator", "iter_4"))
    [kept] = glob.glob(run.path("generator_*"))
    assert not tiny_runs.differing(run.weights(kept), whole.weights("generator"))
    assert {name for name in os.listdir(run.path("generator")) if name.startswith("iter_")} == {
        "iter_4", "iter_8", "iter_10"}
    if TELLS_RANDOM_STATE:
        assert not tiny_runs.differing(run.weights("generator"), other.weights("generator"))
        expected = scalars(other.path("generator"))
        assert scalars(run.path("generator")) == {
            tag: [point for point in points if point[0] > 4] for tag, points in expected.items()}


# Signals.

def signalled(run, stage, iteration, number, monkeypatch, **flags):
    """Exit status of a program that is sent a signal at an iteration."""

    def main():
        monkeypatch.setattr(ProgressLog, "__call__", at_iteration(
            iteration, lambda: os.kill(os.getpid(), number)))
        cli.run(lambda: run.again(stage=stage, **flags), many=True)

    return child(main)


@pytest.mark.parametrize("stage, number, status", [
    ("segmentor", signal.SIGINT, 130), ("generator", signal.SIGTERM, 143)])
def test_a_signal_saves_a_checkpoint(whole, begun, monkeypatch, capfd, stage, number, status):
    run = begun(stage)
    assert signalled(run, stage, 6, number, monkeypatch, num_workers=2) == status
    checkpoint = run.path(stage, "iter_6")
    assert os.path.isfile(os.path.join(checkpoint, "checkpoint.json"))
    assert capfd.readouterr().err.splitlines()[-1] == (
        f"stopped at iteration 6, saved as {checkpoint}; the same command goes on from there")
    run.again()
    assert_same(run, whole)


def test_a_signal_at_a_checkpoint_leaves_its_evaluation_for_later(whole, begun, monkeypatch):
    run = begun("segmentor")
    assert signalled(run, "segmentor", 8, signal.SIGTERM, monkeypatch) == 143
    run.again()
    assert_same(run, whole)


def test_a_worker_may_end_in_the_same_moment(capfd):
    """The signal and the news of the worker's end wait together, until both are let through."""
    def failed(number, frame):
        raise SystemError("a worker failed")  # as Paddle's handler does

    def main():
        signal.signal(signal.SIGCHLD, failed)
        try:
            with stopping.handled(), stopping.put_off():
                numbers = {signal.SIGTERM, signal.SIGCHLD}
                signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
                for number in numbers:
                    os.kill(os.getpid(), number)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
                print(stopping.told())
        except stopping.Stopped as end:
            print(end.exit_status)

    assert child(main) == 0
    said = capfd.readouterr()
    assert said.out == "15\n143\n"
    assert "Traceback" not in said.err


def test_a_batch_system_stops_the_workers_too(finished, tmp_path):
    folder = str(tmp_path / "run")
    process = subprocess.Popen(
        [sys.executable, os.path.join(tiny_runs.ROOT, "tools", "train.py"),
         *finished("custom").recipe.argv("iters=100000", "save_interval=5", "do_eval=False",
                                         save_dir=folder, stage="segmentor", num_workers=2)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True, text=True,
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    wait_for(lambda: os.path.isdir(os.path.join(folder, "segmentor", "iter_5")))
    assert len(members(process.pid)) >= 3
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and "Traceback" not in said
    path = said.splitlines()[-1].split("saved as ")[1].split(";")[0]
    assert torn_file(path) is None and read_record(path)["files"]
    wait_for(lambda: not members(process.pid))


def members(group):
    """The processes of a group that run."""
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
            state, _, process_group = file.read().rsplit(")", 1)[1].split()[:3]
            found += [path] if int(process_group) == group and state != "Z" else []
    return found


def wait_for(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("place", ["features", "scoring"])
def test_elsewhere_a_signal_ends_it_at_once(begun, capfd, monkeypatch, place):
    run = begun("features")
    target = ("paddle_csrl.stages.features.offer" if place == "features"
              else "paddle_csrl.evaluation.score.evaluate_as_configured")

    def main():
        monkeypatch.setattr(target, lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGTERM))
        cli.run(run.again, many=True)

    assert child(main) == 143
    said = capfd.readouterr()
    assert said.err.splitlines()[-1] == "stopped"
    assert "Traceback" not in said.err + said.out


def test_a_second_signal_ends_it_at_once(begun, monkeypatch):
    run, sent = begun("generator"), []

    def main():
        def send():
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
            time.sleep(0.3)
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
            os._exit(7)

        monkeypatch.setattr(ProgressLog, "__call__", at_iteration(6, send))
        cli.run(lambda: run.again(stage="generator"), many=True)

    assert child(main) == 143
    assert sorted(name for name in os.listdir(run.path("generator")) if "iter" in name) == [
        "iter_4"]


def test_a_library_keeps_its_callers_handlers():
    def handler(number, frame):
        pass

    before = signal.signal(signal.SIGTERM, handler)
    try:
        cli.run(dict)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_random_state_survives_a_file(tmp_path):
    def draw():
        return random.random(), np.random.random(), float(paddle.rand([1]))

    state = json.loads(json.dumps(random_state()))
    first = draw()
    restored = set_random_state(state)
    again = draw()
    assert first[:2] == again[:2] and (first[2] == again[2]) == restored
