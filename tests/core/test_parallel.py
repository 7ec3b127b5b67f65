"""Two processes that talk by Gloo give what one process gives."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import paddle
import pytest
from paddleseg.models.losses import CrossEntropyLoss, OhemCrossEntropyLoss

from helpers import run_tools, tiny_runs
from helpers.processes import together
from paddle_csrl import parallel
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.cli import programs
from paddle_csrl.deploy.predict import FOLDERS
from paddle_csrl.errors import UserError
from paddle_csrl.losses import MMDLoss, mmd_on_host
from paddle_csrl.models.pixel_classifier import PixelClassifier, can_be_shared
from paddle_csrl.parallel import Share
from paddle_csrl.utils import read_json

#: A generator whose classes do not know of each other, and losses on its prototypes.
OTHER = ("generator.model={'type': 'MLPGenerator', 'hidden_dim': 16, 'noise_dim': 4}",
         "generator.relation=prototypes", "generator.loss.coef=[1, 1]",
         "generator.loss.types=[{'type': 'MMDLoss', 'squared': False}, "
         "{'type': 'PrototypeNormLoss'}]")

#: 15 pairs of classes in blocks of 4, so that a process has one pair of the last block or two.
BLOCKS = ("generator.model.num_layers=1", "generator.optimizer.type=SGD",
          "generator.lr_scheduler.learning_rate=0.01")

#: The layer alone, under a loss with weights of classes and one whose parts do not add up.
LEGACY = ("classifier.mode=legacy",
          "classifier.loss.types=[{'type': 'CrossEntropyLoss', 'weight': [1, 2, 3, 4, 50]}]")
OHEM = ("classifier.loss.types=[{'type': 'OhemCrossEntropyLoss', 'min_kept': 8}]",)

RIDGE = ("generator.model={'type': 'RidgePrototypes'}", "generator.relation=prototypes")

#: Stages that are run again under other options: stage, options.
VARIANTS = {"other": ("generator", OTHER), "legacy": ("classifier", LEGACY),
            "ohem": ("classifier", OHEM), "ridge": ("generator", RIDGE),
            "closed": ("classifier", ("classifier.mode=closed_form",)),
            "self": ("self_training", ("self_training={'share': 0.5}",))}
PROJECTIONS = ("spnet", "segdevise")


class Launched(NamedTuple):
    """What two processes did.

    Attributes:
        one (Finished): a run of one process.
        two (Finished): the same one, of two processes from its segmentor on.
        base (Path): where they wrote the rest.
        torn (str): an image that the second process cannot read.
        done (subprocess.CompletedProcess): how they ended, at that image.
    """

    one: tiny_runs.Finished
    two: tiny_runs.Finished
    base: Path
    torn: str
    done: subprocess.CompletedProcess


@pytest.fixture(scope="module")
def launched(finished, tmp_path_factory):
    """One launch for all, which takes seconds to start; at its end they meet broken images."""
    base = tmp_path_factory.mktemp("parallel")
    one = finished("custom")
    two = one.copy(base / "two")
    for name in ("features", "generator", "classifier", "predictions", "scores"):
        shutil.rmtree(two.path(name))
    for name in ("model.pdparams", "metrics.json"):
        os.remove(two.path(name))
    model = one.path("model.pdparams")
    for name in ("blocks", *VARIANTS):
        one.copy(base / name)
    folder = image_folder(one.recipe)
    good = [os.path.join(folder, name) for name in sorted(os.listdir(folder))
            if name.endswith(".jpg")][:2]
    (base / "list.txt").write_text("\n".join([good[0], "broken.jpg", good[1], "gone.jpg"]))
    (base / "broken.jpg").write_bytes(b"no picture")
    moved = one.moved(base)
    torn = moved.builder().val_dataset.file_list[1][0]  # the second process's
    os.truncate(torn, os.path.getsize(torn) // 2)
    done = launch(base, [
        ["train", *one.recipe.argv(save_dir=two.folder)],
        ["train", *one.recipe.argv("zero_shot.features.dtype=float16",
                                  f"zero_shot.cache_dir={base / 'cache'}",
                                  save_dir=str(base / "whole"), iters=2)],
        ["train in blocks", *one.recipe.argv(*BLOCKS, save_dir=str(base / "blocks"),
                                            stage="generator")],
        *(["train", *one.recipe.argv(*opts, save_dir=str(base / name), stage=stage)]
          for name, (stage, opts) in VARIANTS.items()),
        *(["train", *projecting(one.recipe, name).argv(save_dir=str(base / name))]
          for name in PROJECTIONS),
        ["predict", "--run", one.folder, "--device", "cpu", "--save_dir", str(base / "pictures"),
         "--image_path", folder],
        ["val", *one.recipe.argv(model_path=model, out=str(base / "val.json"))],
        ["predict in part", "--run", one.folder, "--device", "cpu", "--image_path",
         str(base / "list.txt"), "--save_dir", str(base / "out")],
        ["val as a program", *moved.argv(model_path=model, out=str(base / "scores.json"))],
    ])
    # The last but one goes wrong in no other way than it should.
    assert "predicted 2 of 4 images" in log(base, 0), done.stdout[-3000:] + done.stderr[-3000:]
    return Launched(one, two, base, torn, done)


@pytest.fixture(scope="module")
def pair(launched):
    """A run of one process, the same one of two, and the folder of all that two processes did."""
    return launched[:3]


def log(base, rank):
    return (base / "logs" / f"workerlog.{rank}").read_text()


def image_folder(recipe):
    return os.path.dirname(recipe.builder().val_dataset.file_list[0][0])


def projecting(recipe, name):
    """SPNet or SegDeViSE on the data of a recipe; they calibrate, so that it shows."""
    return recipe._replace(config=tiny_runs.config_path(f"{name}/{name}_custom"),
                           opts=(*recipe.opts, "iters=2", "classifier.calibration=0.5"))


def launch(base, lines):
    path = str(base / "lines.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(lines, file)
    script = os.path.join(tiny_runs.ROOT, "tests", "helpers", "run_tools.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(
        [tiny_runs.ROOT, os.path.join(tiny_runs.ROOT, "tests")]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir",
         str(base / "logs"), script, path], env=environment, capture_output=True, text=True,
        timeout=300)


def assert_close(first, second, rtol=1e-3, atol=2e-5):
    assert set(first) == set(second)
    for key in first:
        np.testing.assert_allclose(second[key], first[key], rtol, atol, err_msg=key)


def test_the_bank_is_bit_identical(pair):
    one, two, _ = pair
    first, second = (FeatureBank.load(run.path("features", "bank.npz")) for run in (one, two))
    for name in ("features", "counts", "pixel_counts"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert (first.counts == 64).any(), "no class has more pixels than the bound"


@pytest.mark.parametrize("name", ["generator", "classifier", ""])
def test_weights_are_the_same_up_to_rounding(pair, name):
    assert_close(*(run.weights(name) for run in pair[:2]))


def test_the_generator_moved(pair):
    # Else equal weights would mean nothing: two processes differ by rounding, and only by that.
    first, second = (run.weights("generator") for run in pair[:2])
    checkpoint = pair[0].weights("generator", "iter_4")
    assert tiny_runs.differing(first, second)
    assert all(np.array_equal(checkpoint[f"generator.{key}"], first[key]) for key in first)


def test_scores_are_the_same(pair):
    one, two, base = pair
    assert read_json(two.path("metrics.json"))["images"] == one.metrics["images"]
    evaluated = read_json(str(base / "val.json"))
    for key in ("seen_miou", "unseen_miou", "hiou", "pixel_accuracy", "classes"):
        assert evaluated[key] == one.metrics[key], key


def test_only_the_first_process_writes(pair):
    # Pictures are of the images that the first process saw; helpers/run_tools.py draws no page.
    def written(run):
        return [re.sub(r"vdlrecords\.\d+", "vdlrecords", name)
                for name in tiny_runs.files(run.folder)
                if not name.startswith(("predictions", "report.html"))]

    assert written(pair[0]) == written(pair[1])


def test_the_losses_on_record_are_the_whole_ones(pair):
    first, second = (tiny_runs.recorded(run.path("generator")) for run in pair[:2])
    assert {"Train/loss", "Train/MMDLoss", "Train/PairwiseRelationLoss"} <= set(first)
    for tag in (tag for tag in first if "loss" in tag.lower()):
        assert second[tag] == pytest.approx(first[tag], rel=1e-4), tag


@pytest.mark.parametrize("name", VARIANTS)
def test_a_stage_is_the_same_under_other_options(pair, name):
    one, _, base = pair
    stage, opts = VARIANTS[name]
    alone = one.copy(base / f"alone_{name}")
    alone.again(*opts, stage=stage)
    first, second = alone.weights(stage), one._replace(folder=str(base / name)).weights(stage)
    if name == "other":
        assert list(first) == ["mlp.0.weight", "mlp.0.bias", "mlp.3.weight", "mlp.3.bias"]
    if name == "legacy":  # rounding tells that it is shared out; under "ohem" all train the same
        assert tiny_runs.differing(first, second)
    if name == "ridge":  # the root of a covariance, whose columns rounding turns round
        for weights in (first, second):
            weights["spread"] = weights["spread"] @ weights["spread"].T
    assert_close(first, second)


def test_pairs_in_blocks_are_shared_out_under_the_same_dropout(pair):
    one, _, base = pair
    alone = one.copy(base / "alone_blocks")
    run_tools.train_in_blocks(one.recipe.argv(*BLOCKS, save_dir=alone.folder, stage="generator"))
    first = alone.weights("generator")
    assert first["feature_mlps.0.3.weight"].shape[1] == run_tools.FEATURE_DIM
    assert_close(first, one._replace(folder=str(base / "blocks")).weights("generator"),
                 rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_projections_run_on_two_processes(pair, name):
    one, _, base = pair
    run = one._replace(recipe=projecting(one.recipe, name), folder=str(base / name))
    metrics = read_json(run.path("metrics.json"))
    assert metrics["images"] == one.metrics["images"]
    assert run.val()["classes"] == metrics["classes"]  # one process scores the same model
    alone = run.copy(base / f"alone_{name}")
    os.remove(alone.path("model.pdparams"))
    alone.again(stage="classifier")
    assert not tiny_runs.differing(alone.weights(), run.weights())


def test_all_stages_run_on_two_processes(pair):
    whole = pair[2] / "whole"
    metrics = read_json(str(whole / "metrics.json"))
    assert metrics["images"] == pair[0].metrics["images"] and metrics["seen_miou"] is not None
    assert FeatureBank.load(str(whole / "features" / "bank.npz")).features.dtype == np.float16
    for stage in tiny_runs.STAGES:
        assert read_json(str(whole / stage / "stage.json"))["finished"]


def test_labels_scanned_by_shares_are_those_of_one_process(pair):
    one, _, base = pair
    cache, = {opt.split("=", 1)[1] for opt in one.recipe.opts if "cache_dir" in opt}
    names = [name for name in os.listdir(base / "cache") if name.startswith("labels")]
    assert len(names) == 2  # of training and of validation
    for name in names:
        first, second = (np.load(os.path.join(folder, name)) for folder in (cache, base / "cache"))
        assert first["lengths"].size in (4, 12)
        assert all(np.array_equal(first[key], second[key]) for key in first.files)


@pytest.fixture
def processes(monkeypatch):
    """Makes this process one of three that are connected; returns the others' ends by rank."""
    ends = []

    def connect(rank):
        monkeypatch.setattr(parallel, "world_size", lambda: 3)
        monkeypatch.setattr(parallel, "rank", lambda: rank)
        pairs = [socket.socketpair() for _ in range(1 if rank else 2)]
        ends.extend(end for pair in pairs for end in pair)
        monkeypatch.setattr(parallel, "_connections", [own for own, _ in pairs])
        return [other for _, other in pairs]

    yield connect
    for end in ends:
        end.close()


def played(end, *arrays):
    """What another process gets that sends arrays and receives as many, in a thread."""
    got = []

    def play():
        for array in arrays:
            parallel._send(end, array)
            got.append(parallel._receive(end, np.empty_like(array)))

    thread = threading.Thread(target=play)
    thread.start()
    return thread, got


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 700_000)])
def test_the_first_process_adds_up_for_all(processes, shape):
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(3, *shape)).astype(np.float32)
    others = [played(end, array) for end, array in zip(processes(0), arrays[1:])]
    total = parallel.total(arrays[0])
    assert total.dtype == np.float32 and total.shape == shape
    np.testing.assert_allclose(total, arrays.sum(0), rtol=1e-5, atol=1e-6)
    for thread, got in others:
        thread.join()
        assert np.array_equal(got[0], total)  # bit for bit, or weights would drift apart


def test_another_process_takes_what_the_first_one_says(processes):
    end, = processes(2)
    parallel._send(end, np.array([40, 2]))
    assert parallel.total(np.array([1, 1])).tolist() == [40, 2]
    assert parallel._receive(end, np.zeros(2, np.int64)).tolist() == [1, 1]


def test_the_largest_number_of_all(processes):
    others = [played(end, np.array([number])) for end, number in zip(processes(0), (7, 0))]
    assert parallel.largest_at_once(3) == 7
    for thread, got in others:
        thread.join()
        assert got == [7]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_end_of_another_process_is_told(processes, rank):
    for end in processes(rank):
        end.close()
    with pytest.raises(RuntimeError, match="gloo: another process has ended"):
        parallel.barrier()


def test_arrays_of_other_sizes_are_not_added_up(processes):
    ends = processes(0)
    parallel._send(ends[0], np.ones(3))
    with pytest.raises(ValueError, match="24 bytes from another process for 16: the processes"):
        parallel.total(np.ones(2))


def test_processes_find_each_other_and_turn_strangers_away(monkeypatch):
    monkeypatch.setattr(parallel, "world_size", lambda: 3)
    monkeypatch.setattr(parallel, "rank", lambda: 0)
    monkeypatch.setattr(paddle.distributed, "ParallelEnv",
                        lambda: SimpleNamespace(trainer_endpoints=["127.0.0.1:1", "there:1"]))
    calls = []

    def broadcast(tensor, sender):
        """All others connect before the first process looks, the second one last."""
        port, secret = tensor.tolist()
        for greeting in ([1, secret + 1], [1], [], [2, secret], [1, secret]):
            calls.append(socket.create_connection(("127.0.0.1", port)))
            parallel._send(calls[-1], np.array(greeting, np.int64))
            if len(greeting) < 2:
                calls[-1].close()

    monkeypatch.setattr(paddle.distributed, "broadcast", broadcast)
    found = parallel._connect()
    assert len(found) == 2
    for connection, end in zip(found, (calls[4], calls[3])):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        parallel._send(connection, np.arange(3))
        assert parallel._receive(end, np.zeros(3, np.int64)).tolist() == [0, 1, 2]
    monkeypatch.setattr(parallel, "_connections", found)
    assert_a_signal_is_handled_while_waiting()
    for end in (*found, *calls):
        end.close()


def assert_a_signal_is_handled_while_waiting():
    """As `stopping` has its handlers, which leave interrupted calls to go on."""
    def handle(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handle)
    signal.siginterrupt(signal.SIGALRM, False)
    late = threading.Timer(5, parallel._connections[0].shutdown, [socket.SHUT_RDWR])
    late.start()  # the end of an endless wait, if it is one
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            parallel.barrier()
    finally:
        late.cancel()
        signal.signal(signal.SIGALRM, before)


def test_shares_are_a_partition():
    rows = [Share(7, rank, 3).rows.tolist() for rank in range(3)]
    assert rows == [[0, 3, 6], [1, 4], [2, 5]]
    assert [Share(7, rank, 3).before(4).tolist() for rank in range(3)] == [[0, 3], [1], [2]]


def test_a_process_without_a_class_holds_one_that_counts_nowhere():
    share = Share(2, rank=3, ranks=4)
    assert share.is_empty and share.rows.tolist() == [0] and share.before(2).tolist() == [-1]
    assert Share(5, rank=2, ranks=4).before(2).tolist() == [-1]


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("bandwidths", ["auto", [1.0, 2.0]])
def test_shares_of_the_point_loss_add_up_with_their_gradients(bandwidths, squared):
    rng = np.random.default_rng(0)
    real = paddle.to_tensor(rng.normal(size=(5, 6, 3)).astype(np.float32))
    counts = np.array([6, 4, 0, 1, 6])
    values = rng.normal(1, 2, (5, 4, 3)).astype(np.float32)
    loss = MMDLoss(bandwidths, squared=squared)
    whole = paddle.to_tensor(values, stop_gradient=False)
    expected = loss(whole, real, counts)
    expected.backward()

    rows = list(map(np.array, ([0, 3], [1, 4], [2], [-1])))
    generated = [paddle.to_tensor(values[own.clip(0)], stop_gradient=False) for own in rows]
    parts = together([partial(loss, *inputs) for inputs in zip(
        generated, [real] * 4, [counts] * 4, rows)])
    for part in parts:
        part.backward()
    assert sum(map(float, parts)) == pytest.approx(float(expected), rel=1e-5)
    gradients = np.concatenate([tensor.grad.numpy() for tensor in generated])
    np.testing.assert_allclose(gradients[[0, 2, 4, 1, 3]], whole.grad.numpy(), atol=1e-6)
    assert float(parts[3]) == 0 and not gradients[5].any()


def test_a_class_that_no_process_has_is_told():
    real = paddle.randn([3, 4, 2])
    with pytest.raises(UserError, match="have 12 pairs of real samples, not 18; every class must"):
        together([partial(MMDLoss("auto"), real[:1], real, None, np.array([own]))
                  for own in (0, 2)])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 1001, 3000])
def test_the_median_of_what_several_processes_have(count, dtype):
    rng = np.random.default_rng(count)
    tiny = np.finfo(dtype).smallest_subnormal
    for values in (rng.exponential(size=count), rng.integers(3, size=count), np.zeros(count),
                   tiny * rng.integers(5, size=count), 2.0 ** rng.integers(-60, 60, count)):
        values = values.astype(dtype)
        parts = np.split(values, np.sort(rng.integers(count + 1, size=2)))
        expected = np.median(values)
        assert mmd_on_host._median(values, count, lambda array: array) == expected
        assert together([lambda part=part: mmd_on_host._median(part, count, parallel.total)
                         for part in parts]) == [expected] * 3


@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 5.0]])
def test_shares_of_the_layers_loss_add_up_with_their_gradients(weight):
    rng = np.random.default_rng(0)
    data = {"img": paddle.to_tensor(rng.normal(size=(1, 4, 7, 1)).astype(np.float32)),
            "label": paddle.to_tensor(rng.integers(3, size=(1, 7, 1)))}
    losses = {"types": [CrossEntropyLoss(weight)], "coef": [2.0]}
    layer = PixelClassifier(4, 3)

    def value_and_gradients(share=None):
        layer.share = share
        layer.clear_gradients()
        # The value that is logged is summed up over processes; here there is but one.
        value, = layer.loss_computation(layer(data["img"]), losses, data)
        value.backward()
        return [float(value), *(parameter.grad.numpy() for parameter in layer.parameters())]

    logits = layer(data["img"])[0].numpy()[0, :, :, 0].T
    labels = data["label"].numpy().ravel()
    weights = np.ones(7) if weight is None else np.array(weight)[labels]
    negative = np.log(np.exp(logits).sum(1)) - logits[np.arange(7), labels]
    whole = value_and_gradients()
    assert whole[0] == pytest.approx(2 * (weights * negative).sum() / weights.sum(), rel=1e-5)
    for ranks in (2, 9):  # of nine, two have nothing to do
        parts = [value_and_gradients(Share(7, rank, ranks)) for rank in range(ranks)]
        for expected, *values in zip(whole, *parts):
            np.testing.assert_allclose(sum(values), expected, rtol=1e-5, atol=1e-6)


def test_only_a_mean_over_pixels_is_shared_out():
    assert can_be_shared(CrossEntropyLoss([1.0, 2.0]))
    assert not can_be_shared(CrossEntropyLoss(top_k_percent_pixels=0.5))
    assert not can_be_shared(OhemCrossEntropyLoss())


def test_predictions_are_shared_out(pair):
    one, _, base = pair
    images = [name for name in os.listdir(image_folder(one.recipe)) if name.endswith(".jpg")]
    assert len(images) > 1
    assert len(os.listdir(base / "pictures" / FOLDERS["overlay"])) == len(images)


def test_a_broken_image_of_another_process_is_named(launched):
    base, said = launched.base, log(launched.base, 0)
    assert f"not predicted: {base / 'broken.jpg'}: " in said
    assert f"not predicted: {base / 'gone.jpg'}: no file" in said
    assert "predicted 2 of 4 images" in said
    assert "not predicted" not in log(base, 1)


def test_one_failing_process_ends_all_with_its_message(launched):
    assert launched.done.returncode != 0
    output = launched.done.stdout + launched.done.stderr
    messages = set(re.findall("^error: .*", output, re.M))
    assert len(messages) == 1 and launched.torn in messages.pop(), output
    assert not any("scores.json" in name for name in os.listdir(launched.base))


def test_the_other_tools_say_that_they_are_one_process(monkeypatch, capsys):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    with pytest.raises(SystemExit) as ended:
        programs.tune()
    assert ended.value.code == 2
    assert re.fullmatch("error: this tool is one process: .*\n", capsys.readouterr().err)
