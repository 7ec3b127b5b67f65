"""The mendings of PaddleSeg: each fault before, each value after, and a stock training run."""

import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from types import SimpleNamespace

import cv2
import numpy as np
import paddle
import paddleseg.core
import pytest
import yaml
from paddle import nn
from paddle.optimizer import lr
from paddleseg.core import infer
from paddleseg.cvlibs import Config, SegBuilder, manager
from paddleseg.models import backbones
from paddleseg.models.losses import CrossEntropyLoss, DiceLoss, MixedLoss, OhemCrossEntropyLoss
from paddleseg.transforms import RandomPaddingCrop, ResizeByShort, ScalePadding
from paddleseg.utils import download, logger, metrics

from helpers import tiny_runs
from paddle_csrl import compat  # first: it orders the imports of cv2 and paddle

compat.mend_paddleseg()
TRAINER = sys.modules["paddleseg.core.train"]
(CROSS_ENTROPY, OHEM, LOVASZ, DICE, CROP, SHORT, SCALE_PADDING, RESTARTS, TRANSFORMERS, SCORES,
 TRAIN, AREA, FLEET, LOG) = (fault.name for fault in compat.FAULTS)

# Loads compat.py alone: importing the package would mend before the faults can be seen.
LOAD = f"""
import importlib.util
def load_compat():
    spec = importlib.util.spec_from_file_location("compat", {compat.__file__!r})
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
"""

FRESH = LOAD + """
import contextlib, io, json, sys, tempfile, time, zlib
compat = load_compat()
import cv2, numpy as np, paddle, paddleseg.core
from paddleseg.models.losses import (
    CrossEntropyLoss, DiceLoss, LovaszSoftmaxLoss, OhemCrossEntropyLoss)
from paddle.optimizer.lr import CosineAnnealingWarmRestarts
from paddleseg.models.backbones.cae import CAE
from paddleseg.models.backbones.vision_transformer import VisionTransformer
from paddleseg.transforms import RandomPaddingCrop, ResizeByShort, ScalePadding
from paddleseg.utils import logger, metrics
from google.protobuf import struct_pb2
strategy = sys.modules[paddle.distributed.fleet.DistributedStrategy.__module__]
value = struct_pb2.Struct()
value.update({"a": 1.5, "b": [2]})
time.sleep = lambda seconds: None
trainer = sys.modules["paddleseg.core.train"]

class Model(paddle.nn.Conv2D):
    def forward(self, x):
        return [super().forward(x)]

class OwnLosses(Model):
    def loss_computation(self, logits_list, losses, data):
        return [logits_list[0].mean()]

def train(kind):
    data = [{"img": np.ones([3, 4, 4], "float32"), "label": np.zeros([4, 4], "int64")}]
    model = kind(3, 2, 1)
    paddleseg.core.train(model, data, optimizer=paddle.optimizer.SGD(0.1, model.parameters()),
                         save_dir=tempfile.mkdtemp(), iters=1, batch_size=1, log_iters=1,
                         losses={"types": [lambda logit, label: logit.mean()], "coef": [1]})

def dice():
    ignored = label + 255
    DiceLoss()(logit, ignored)
    assert ignored.numpy().tolist() == [[[255, 255]]]

def crop():
    data = {"img": np.full([8, 8, 3], 7.0), "label": np.indices([8, 8]).sum(0) % 2}
    image = RandomPaddingCrop([4, 4], category_max_ratio=0.9)(data)["img"]
    assert image.shape == (4, 4, 3) and (image == 7).all()

def short_size():
    resize = ResizeByShort(8, max_size=10)
    made = [resize({"img": np.zeros(size, "float32"), "trans_info": []})["img"].shape
            for size in ([4, 8], [4, 4])]
    assert made == [(5, 10), (8, 8)]

def scale_padding():
    data = {"img": np.zeros([4, 8, 3], "float32"), "label": np.array([[0, 2] * 4] * 4, "uint8"),
            "gt_fields": ["label"]}
    assert set(ScalePadding((16, 16))(data)["label"].flat) == {0, 2, 255}

def restarts():
    first, second = (CosineAnnealingWarmRestarts(1.0, T_0=4) for _ in range(2))
    first.step()
    second.set_state_dict(first.state_dict())
    first.step()
    second.step()
    assert first() == second()

def transformers():
    with contextlib.redirect_stdout(io.StringIO()):
        for kind in VisionTransformer, CAE:
            kind(img_size=16, embed_dim=8, depth=1, num_heads=2)

def log():
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        logger.warning("\u00e9")
    assert printed.getvalue().endswith("\u00e9\\n")

logit, label = paddle.zeros([1, 2, 1, 2]), paddle.zeros([1, 1, 2], "int64")
USES = {
    "cross_entropy": lambda: CrossEntropyLoss()(logit, label),
    "weighted": lambda: CrossEntropyLoss(weight=[1.0, 2.0])(logit, label),
    "ohem": lambda: OhemCrossEntropyLoss(min_kept=1)(logit, label),
    "lovasz": lambda: LovaszSoftmaxLoss()(logit, label + 255).item(),
    "dice": dice,
    "crop": crop,
    "short_size": short_size,
    "scale_padding": scale_padding,
    "restarts": restarts,
    "vit": transformers,
    "train": lambda: train(Model),
    "own_losses": lambda: train(OwnLosses),
    "area": lambda: metrics.calculate_area(label, label, 2),
    "fleet": lambda: strategy.get_msg_dict(value.fields["b"].list_value),
    "log": log,
}
def failures():
    found = {}
    for name, use in USES.items():
        try:
            use()
        except Exception as error:
            found[name] = type(error).__name__
    return found
def targets():
    return {"cross_entropy": CrossEntropyLoss._post_process_loss,
            "ohem": OhemCrossEntropyLoss.forward, "lovasz": LovaszSoftmaxLoss.forward,
            "dice": DiceLoss.forward, "crop": RandomPaddingCrop.__call__,
            "short_size": ResizeByShort.__call__, "scale_padding": ScalePadding.__call__,
            "restarts": CosineAnnealingWarmRestarts.set_state_dict,
            "vit": VisionTransformer.init_weight, "cae": CAE.init_weight,
            "train": trainer.train, "own_losses": paddleseg.core.train,
            "area": metrics.calculate_area, "fleet": strategy.get_msg_dict, "log": logger.log}
before, originals = failures(), targets()
mended = compat.mend_paddleseg()
touched = [name for name, target in targets().items() if target is not originals[name]]
png = cv2.imdecode(cv2.imencode(".png", np.eye(9, dtype="uint8"))[1], 0)
print("REPORT" + json.dumps(dict(
    before=before, mended=mended, touched=touched, after=failures(),
    again=compat.mend_paddleseg(),
    still_present=[fault.name for fault in compat.FAULTS if fault.is_present()],
    zlib=zlib.decompress(zlib.compress(b"a")) == b"a" and int(png.sum()) == 9)))
"""


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True,
                          text=True, check=False, timeout=200,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def fresh():
    """What a fresh interpreter sees of PaddleSeg before and after `mend_paddleseg`."""
    result = run_python(FRESH)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.split("REPORT")[1])


def test_exactly_the_faulty_is_touched(fresh):
    """A fault is mended where its use fails; where it does not, nothing is replaced."""
    uses = {CROSS_ENTROPY: ("cross_entropy",), OHEM: ("ohem",), LOVASZ: ("lovasz",),
            DICE: ("dice",), CROP: ("crop",), SHORT: ("short_size",),
            SCALE_PADDING: ("scale_padding",), RESTARTS: ("restarts",),
            TRANSFORMERS: ("vit", "cae"),
            TRAIN: ("train", "own_losses"), AREA: ("area",), FLEET: ("fleet",), LOG: ("log",)}
    faulty = [name for name in uses if uses[name][0] in fresh["before"]]
    assert fresh["mended"] == faulty
    assert fresh["touched"] == [use for name in faulty for use in uses[name]]
    assert ("weighted" in fresh["before"]) == (CROSS_ENTROPY in faulty)


    # 0-D faults are there on every supported Paddle.
    assert fresh["before"]["train"] == fresh["before"]["own_losses"] == "IndexError"
    assert "area" in fresh["before"]


def test_nothing_fails_after_mending_and_a_second_call_finds_nothing(fresh):
    assert fresh["after"] == {}
    assert fresh["again"] == fresh["still_present"] == []
    assert fresh["zlib"]


def test_paddle_imported_first_is_refused_only_where_it_breaks_zlib():
    use = "import zlib; zlib.decompress(zlib.compress(b'a' * 99))"
    result = run_python(f"""
import os, paddle
if os.fork() == 0:
    {use}
    os._exit(0)
print(os.wait()[1], flush=True)
{LOAD}
load_compat(); {use}""")
    broken = result.stdout != "0\n"
    assert (result.returncode == 1) == broken
    assert ("ImportError: paddle was imported before zlib" in result.stderr) == broken


@pytest.mark.parametrize("decompress", [
    lambda data: os.kill(os.getpid(), signal.SIGSEGV), lambda data: b"garbage", lambda data: 1 / 0])
def test_check_zlib_sees_crashes_and_wrong_results(monkeypatch, decompress):
    compat.check_zlib()  # accepts one that works
    monkeypatch.setattr(compat, "zlib", SimpleNamespace(compress=bytes, decompress=decompress))
    with pytest.raises(ImportError, match="above `import paddle`"):
        compat.check_zlib()


def raise_type_error(*args, **kwargs):
    raise TypeError("float32 and int64")


@pytest.mark.parametrize("owner, attribute, name", [
    (CrossEntropyLoss, "_post_process_loss", CROSS_ENTROPY),
    (OhemCrossEntropyLoss, "forward", OHEM),
    (metrics, "calculate_area", AREA)])
def test_a_failing_function_is_replaced(monkeypatch, owner, attribute, name):
    monkeypatch.setattr(owner, attribute, raise_type_error)
    assert compat.mend_paddleseg() == [name]
    assert getattr(owner, attribute) is not raise_type_error


@pytest.mark.parametrize("encoding, written", [
    ("utf-8", "\u72d7 \\udcff"), ("ascii", "\\u72d7 \\udcff"), ("gbk", "\u72d7 \\udcff")])
def test_the_log_says_names_and_escapes_what_cannot_be_written(monkeypatch, encoding, written):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    logger.error("\u72d7 \udcff")
    logger.debug("too much")
    assert re.fullmatch(rf"[\d-]+ [\d:]+ \[ERROR\]\t{re.escape(written)}\n",
                        raw.getvalue().decode(encoding))


def healthy_train(model):
    """Indexes no loss term."""


def test_a_healthy_paddleseg_stays_untouched(monkeypatch):
    def healthy(*args, **kwargs):
        return [paddle.zeros([])]

    targets = [(CrossEntropyLoss, "_post_process_loss"), (OhemCrossEntropyLoss, "forward"),
               (metrics, "calculate_area"), (TRAINER, "loss_computation")]
    for owner, attribute in targets:
        monkeypatch.setattr(owner, attribute, healthy)
    monkeypatch.setattr(TRAINER, "train", healthy_train)
    assert compat.mend_paddleseg() == []
    assert all(getattr(owner, attribute) is healthy for owner, attribute in targets)
    assert TRAINER.train is healthy_train


@pytest.mark.parametrize("ratio", [0.3, 0.6, 1.0])
def test_image_and_label_are_cut_at_one_place_where_no_class_has_too_much(ratio):
    """Where both show their own coordinates, the place is told; the label holds classes 0 to 2."""
    rows, columns = np.indices([20, 30])
    label = (columns // 10).astype(np.uint8)
    label[:, :4] = 255
    image = np.stack([rows, columns, label], 2).astype(np.float32)
    shares = []
    for seed in range(40):
        np.random.seed(seed)
        cut = RandomPaddingCrop([12, 8], category_max_ratio=ratio, loop_times=30)(
            {"img": image.copy(), "label": label.copy(), "gt_fields": ["label"]})
        assert cut["img"].shape == (8, 12, 3)
        np.testing.assert_array_equal(cut["img"][..., 2], cut["label"])
        assert (np.diff(cut["img"][..., 0], axis=0) == 1).all()
        assert (np.diff(cut["img"][..., 1], axis=1) == 1).all()
        counts = np.bincount(cut["label"][cut["label"] != 255])
        shares.append(counts.max() / counts.sum())
    assert (max(shares) < 0.6) == (ratio == 0.6)  # under 0.3 there is no place


def test_a_class_that_fills_every_crop_is_cut_all_the_same():
    data = {"img": np.arange(48.0).reshape(4, 4, 3), "label": np.ones([4, 4], np.uint8),
            "gt_fields": ["label"]}
    cut = RandomPaddingCrop([2, 2], category_max_ratio=0.5)(data)
    assert cut["img"].shape == (2, 2, 3) and cut["label"].shape == (2, 2)


def test_no_image_changes_the_size_of_the_next():
    """The short side is 60, or less where the long one would be above 100."""
    resize = ResizeByShort(60, max_size=100)
    for height, width in [(30, 40), (30, 90), (30, 40), (200, 50), (30, 40)]:
        scale = min(60 / min(height, width), 100 / max(height, width))
        made = resize({"img": np.zeros([height, width, 3], np.float32), "trans_info": []})["img"]
        assert np.abs(np.subtract(made.shape[:2], [height * scale, width * scale])).max() <= 2


def test_one_of_several_short_sizes_is_drawn_for_every_image():
    resize = ResizeByShort([20, 30, 40])
    sizes = [resize({"img": np.zeros([10, 10, 3], np.float32), "trans_info": []})["img"].shape[0]
             for _ in range(60)]
    assert set(sizes) == {20, 30, 40}


SCORING_TRAIN = """
def train(model, val_dataset=None, use_ema=False, iters=2):
    best = -1.0
    for step in range(iters):
        if step % 2 and (val_dataset is not None):
            miou = val_dataset[step]
            if use_ema:
                ema_miou = miou + best
            iters = step
        saved = {'mIoU': miou}
        if use_ema:
            saved['ema'] = ema_miou
        if val_dataset is not None:
            best = max(best, miou)
    return model, best, saved, scores
"""


def test_scores_that_were_not_computed_are_nan_as_in_a_trainer_like_that_of_2_9_1(
        monkeypatch, tmp_path):
    """Stands in for PaddleSeg 2.9.1: `miou` and `ema_miou` are read without a `val_dataset`."""
    (tmp_path / "trainer.py").write_text(SCORING_TRAIN)
    spec = importlib.util.spec_from_file_location("trainer", tmp_path / "trainer.py")
    trainer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trainer)
    trainer.scores = "a global of its module"
    trainer.loss_computation = TRAINER.loss_computation
    monkeypatch.setattr(compat, "_TRAINER", trainer)
    monkeypatch.setattr(paddleseg.core, "train", trainer.train)
    monkeypatch.setitem(sys.modules, "trainer", trainer)
    with pytest.raises(UnboundLocalError):
        trainer.train(1)
    assert compat.mend_paddleseg() == [SCORES]
    assert compat.mend_paddleseg() == []
    assert paddleseg.core.train is trainer.train
    model, best, saved, scores = trainer.train(1, use_ema=True)
    assert (model, best, scores) == (1, -1.0, trainer.scores) and set(saved) == {"mIoU", "ema"}
    assert np.isnan(list(saved.values())).all()
    assert trainer.train(1, [0.5, 0.25]) == (1, 0.25, {"mIoU": 0.25}, trainer.scores)


def test_a_logger_of_the_standard_library_stays_untouched(monkeypatch):
    """Stands in for PaddleSeg's develop branch, whose `logger` has neither `log` nor `levels`."""
    for name in ("log", "levels", "log_level"):
        monkeypatch.delattr(logger, name)
    assert compat.mend_paddleseg() == []
    assert not hasattr(logger, "log")


def test_trainer_without_readable_source_is_mended(monkeypatch):
    monkeypatch.setattr(TRAINER, "loss_computation", TRAINER.loss_computation.__wrapped__)
    monkeypatch.setattr(TRAINER, "train", eval("lambda model: None"))  # a function of no file
    monkeypatch.setattr(paddleseg.core, "train", TRAINER.train)
    assert compat.mend_paddleseg() == [TRAIN]
    assert TRAINER.train is paddleseg.core.train


@pytest.fixture
def our_losses(monkeypatch):
    """Our versions even where the upstream ones need no mending."""
    monkeypatch.setattr(CrossEntropyLoss, "_post_process_loss", compat._post_process_loss)
    monkeypatch.setattr(OhemCrossEntropyLoss, "forward", compat._ohem_forward)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (2, 4, 5))
    label[0, 1, :] = 255
    return rng.normal(0, 2, (2, 3, 4, 5)).astype("float32"), label


def negative_log_prob(logit, label):
    """-log p of the true class, 0 where the label is 255; a loop over pixels."""
    loss = np.zeros(label.shape)
    for n, h, w in np.ndindex(*label.shape):
        if label[n, h, w] != 255:
            x = logit[n, :, h, w].astype("float64")
            loss[n, h, w] = np.log(np.exp(x).sum()) - x[label[n, h, w]]
    return loss


@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.5]])
def test_cross_entropy_matches_numpy(our_losses, batch, weight):
    """Over all pixels, labelled ones, and the hardest ones."""
    logit, label = batch
    coef = np.asarray(weight or [1.0] * 3)[np.where(label == 255, 0, label)]
    losses = negative_log_prob(logit, label) * coef
    hardest = losses.ravel().argsort()[::-1][:12]  # 30 % of 40
    for options, expected in (
            ({"avg_non_ignore": True}, losses.sum() / coef[label != 255].sum()),
            ({"avg_non_ignore": False}, losses.mean() / coef.mean()),
            ({"top_k_percent_pixels": 0.3},
             losses.ravel()[hardest].mean() / coef.ravel()[hardest].mean())):
        loss = CrossEntropyLoss(weight=weight, **options)(*map(paddle.to_tensor, batch))
        assert float(loss) == pytest.approx(expected)


def test_cross_entropy_semantic_weights_scale_pixels(our_losses, batch):
    logit, label = batch
    scale = np.random.default_rng(1).random(label.shape).astype("float32")
    expected = (negative_log_prob(logit, label) * scale).sum() / (label != 255).sum()
    args = (paddle.to_tensor(array) for array in (logit, label, scale))
    assert float(CrossEntropyLoss()(*args)) == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_gradient_is_softmax_minus_one_hot(our_losses, batch):
    logit, label = batch
    x = paddle.to_tensor(logit, stop_gradient=False)
    CrossEntropyLoss()(x, paddle.to_tensor(label)).backward()
    prob = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    one_hot = np.stack([label == c for c in range(3)], 1)
    expected = (prob - one_hot) * (label != 255)[:, None] / (label != 255).sum()
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("min_kept, thresh", [(0, 0.5), (5, 0.5), (25, 0.1), (35, 0.7), (99, 0.5)])
def test_ohem_matches_numpy(our_losses, batch, min_kept, thresh):
    logit, label = batch
    losses, kept = negative_log_prob(logit, label), label != 255
    if 0 < min_kept < kept.sum():
        prob = np.exp(-losses)
        kept &= prob < max(thresh, np.sort(prob[kept])[min_kept - 1])
    expected = losses[kept].sum() / label.size / (kept.mean() + 1e-5)
    loss = OhemCrossEntropyLoss(thresh=thresh, min_kept=min_kept)
    for y in (label, label[:, None]):
        assert float(loss(paddle.to_tensor(logit), paddle.to_tensor(y))) == pytest.approx(
            expected, rel=1e-5)


@pytest.mark.parametrize("axis", [None, 1])
def test_calculate_area_matches_numpy(axis):
    rng = np.random.default_rng(0)
    pred, label = rng.integers(0, 4, (2, 1, 6, 7)), rng.integers(-1, 5, (2, 1, 6, 7))
    label[0, 0, 0] = 255
    if axis is None:
        pred, label = pred[:, 0], label[:, 0]
    areas = compat._calculate_area(paddle.to_tensor(pred.astype("int32")), paddle.to_tensor(label),
                                   num_classes=3)
    classes = range(3)
    expected = ([((pred == c) & (label == c)).sum() for c in classes],
                [((pred == c) & (label != 255)).sum() for c in classes],
                [(label == c).sum() for c in classes])
    for area, counts in zip(areas, expected):
        assert area.dtype == paddle.int64
        assert area.numpy().tolist() == counts
    with pytest.raises(ValueError, match="should be equal"):
        compat._calculate_area(paddle.zeros([1, 2, 2]), paddle.zeros([1, 2, 3]), 2)


def test_loss_terms_keep_their_values_and_get_one_element():
    logit, label = paddle.ones([1, 2, 2, 2]), paddle.zeros([1, 2, 2], "int64")
    mixed = MixedLoss([lambda x, y: x.mean(), lambda x, y: 3 * x.sum().reshape([1])], [1.0, 0.5])
    terms = TRAINER.loss_computation([logit], label, None, {"types": [mixed], "coef": [2]})
    assert [term.numpy().tolist() for term in terms] == [[2.0], [24.0]]


def test_no_loss_learns_an_ignored_pixel_after_a_dice_loss():
    """Unseen classes are ignored: as class 0 they would be learned for the background."""
    logits = [paddle.to_tensor(np.random.default_rng(seed).normal(size=(2, 3, 4, 5)), "float32",
                               stop_gradient=False) for seed in range(2)]
    label = np.random.default_rng(2).integers(0, 3, (2, 4, 5))
    label[:, 1:3] = 255
    given = paddle.to_tensor(label)
    mixed = MixedLoss([DiceLoss(), CrossEntropyLoss()], [0.5, 1.0])
    terms = TRAINER.loss_computation(logits, given, None, {"types": [mixed] * 2, "coef": [1, 1]})
    sum(terms).backward()
    np.testing.assert_array_equal(given.numpy(), label)
    for logit, term in zip(logits, terms[1::2]):
        values, gradient = logit.numpy().astype(np.float64), logit.grad.numpy()
        assert not gradient[:, :, 1:3].any() and gradient[:, :, 0].all()
        true = np.take_along_axis(values, np.where(label == 255, 0, label)[:, None], 1)[:, 0]
        losses = np.log(np.exp(values).sum(1)) - true
        np.testing.assert_allclose(float(term), losses[label != 255].mean(), rtol=1e-5)


@pytest.mark.parametrize("size", [(2, 4), (4, 2), (2, 2), (1, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_that_are_padded_to_a_square_keep_their_ids(size, dtype):
    label = np.random.default_rng(0).choice([0, 100, 200], size).astype(dtype)
    data = {"img": np.zeros([*size, 3], np.float32), "label": label, "gt_fields": ["label"]}
    padded = ScalePadding((8, 8), label_padding_value=255)(dict(data))
    assert padded["img"].shape[:2] == padded["label"].shape == (8, 8)
    assert padded["label"].dtype == dtype and padded["gt_fields"] == ["label"]
    assert set(padded["label"].flat) <= {0, 100, 200, 255}
    side = max(size)
    for row, column in np.ndindex(*size):  # the middle of what a pixel became
        y, x = (int((place + (side - length) // 2 + 0.5) * 8 / side)
                for place, length in zip((row, column), size))
        assert padded["label"][y, x] == label[row, column]


@pytest.mark.parametrize("multiple", [1, 2, 3])
def test_warm_restarts_go_on_from_any_step(multiple):
    def schedule():
        return lr.CosineAnnealingWarmRestarts(0.5, T_0=3, T_mult=multiple, eta_min=0.1)

    whole = schedule()
    rates, states = [], []
    for _ in range(50):
        rates.append(whole())
        states.append(whole.state_dict())
        whole.step()
    for done, state in enumerate(states):
        resumed = schedule()
        resumed.set_state_dict(state)
        rest = []
        for _ in range(done, 50):
            rest.append(resumed())
            resumed.step()
        assert rest == rates[done:]


class OwnLossModel(nn.Conv2D):
    def forward(self, x):
        return [super().forward(x)]

    def loss_computation(self, logits_list, losses, data):
        self.seen = [logits_list[0].mean(), 2 * logits_list[0].mean()]
        return self.seen


class TinyData(paddle.io.Dataset):
    num_classes, ignore_index = 2, 255

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"img": np.full([3, 4, 4], index, "float32"), "label": np.zeros([4, 4], "int64")}


@pytest.fixture
def train_tiny(monkeypatch, tmp_path):
    """`paddleseg.core.train` for two iterations on `TinyData`, without its final pause."""
    monkeypatch.setattr(TRAINER.time, "sleep", lambda seconds: None)

    def train(model, **kwargs):
        optimizer = paddle.optimizer.SGD(0.1, model.parameters())
        paddleseg.core.train(model, TinyData(), optimizer=optimizer, save_dir=str(tmp_path),
                             iters=2, save_interval=1, batch_size=1, log_iters=1, **kwargs)

    return train


def test_models_own_loss_computation_is_mended_for_the_run_only(train_tiny):
    model = OwnLossModel(3, 2, 1)
    train_tiny(model)
    assert paddleseg.core.train is TRAINER.train  # both of its names
    assert [term.ndim for term in model.seen] == [0, 0]
    assert "loss_computation" not in vars(model)


def test_hooks_leave_the_trainer_its_iterations_alone(train_tiny, tmp_path):
    model, told = OwnLossModel(3, 2, 1), []

    def batches():
        for value in (1.0, 3.0):
            yield {"img": paddle.full([1, 3, 4, 4], value), "label": paddle.zeros([1, 4, 4])}
            told.append(("over", float(model.bias.sum())))

    originals = TRAINER.paddle, TRAINER.resume, TRAINER.loss_computation
    with compat.trainer_hooks(model, batches(), 0, lambda losses: told.append(
            ("losses", *map(float, losses)))):
        train_tiny(model, resume_model="absent")
    assert (TRAINER.paddle, TRAINER.resume, TRAINER.loss_computation) == originals
    assert [kind for kind, *_ in told] == ["losses", "over"] * 2
    (_, one, two), (_, after_first), (_, *_), (_, after_second) = told
    assert two == pytest.approx(2 * one)
    # Of the loss, three times the mean over two channels, each bias has a gradient of 1.5.
    assert [after_first, after_second] == pytest.approx([-0.3, -0.6])
    assert not [name for _, _, names in os.walk(tmp_path) for name in names]


def test_hooks_count_from_the_iterations_done(train_tiny):
    model, terms = OwnLossModel(3, 2, 1), []
    batch = {"img": paddle.ones([1, 3, 4, 4]), "label": paddle.zeros([1, 4, 4])}
    with compat.trainer_hooks(model, [batch], 1, terms.append):
        train_tiny(model, resume_model="absent")
    assert len(terms) == 1


def test_hooks_are_taken_out_when_the_block_fails():
    originals = TRAINER.paddle, TRAINER.resume, TRAINER.loss_computation
    model = OwnLossModel(3, 2, 1)
    with pytest.raises(KeyError, match="inside"):
        with compat.trainer_hooks(model, [], 0, max):
            assert "loss_computation" in vars(model)
            raise KeyError("inside")
    assert (TRAINER.paddle, TRAINER.resume, TRAINER.loss_computation) == originals
    assert "loss_computation" not in vars(model)


# In processes of their own, for Paddle's unmended loader waits for ever.
LOADERS = f"""
import sys; sys.path.insert(0, {tiny_runs.ROOT!r})
import gc
import paddle_csrl, paddle
from paddle_csrl.errors import UserError, user_message

class Torn(paddle.io.Dataset):
    def __init__(self, torn=None, error=None, collects=False):
        self.torn, self.error, self.collects = torn, error, collects
    def __len__(self):
        return 4
    def __getitem__(self, index):
        if self.collects:
            gc.collect()
        if index == self.torn:
            raise self.error
        return paddle.zeros([2]).numpy()
"""

ERRORS = """
for num_workers in (0, 1):
    for torn in (0, 2):
        for error in (UserError("a.png is torn; get it anew"), KeyError("a bug")):
            items = []
            try:
                items.extend(paddle.io.DataLoader(Torn(torn, error), batch_size=1,
                                                  num_workers=num_workers))
            except Exception as caught:
                print(num_workers, torn, type(caught).__name__, user_message(caught))
    print(num_workers, len(list(paddle.io.DataLoader(Torn(), num_workers=num_workers))))
"""

# The readers of the failed loaders wait in threads that the last one's worker does not have.
GARBAGE = """
gc.disable()
for torn in (0, 2):
    try:
        list(paddle.io.DataLoader(Torn(torn, KeyError("torn")), num_workers=0))
    except KeyError:
        pass
print(len(list(paddle.io.DataLoader(Torn(collects=True), num_workers=1))))
"""


ORPHANS = """
reader = iter(paddle.io.DataLoader(Torn(), num_workers=2))
print(*(worker.pid for worker in reader._workers), flush=True)
os.kill(os.getpid(), 9)
"""

# Each in a fork of one that has imported Paddle and done nothing else.
IN_FORKS = f"""
import os, traceback
for part in {[ERRORS, GARBAGE, ORPHANS]!r}:
    if os.fork() == 0:
        try:
            exec(part, globals())
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(0)
    print("ended", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


@pytest.fixture(scope="module")
def loaders():
    """Lines that each of the parts said, and its status last; and what went wrong."""
    done = run_python(LOADERS + IN_FORKS)
    *parts, rest = re.split(r"(?<=^ended )(-?\d+)\n", done.stdout, flags=re.MULTILINE)
    assert rest == "" and len(parts) == 6, done.stderr[-2000:]
    said = [part.removesuffix("ended ").splitlines() for part in parts[::2]]
    return said, [int(status) for status in parts[1::2]], done.stderr[-2000:]


def test_no_worker_is_forked_while_the_thread_of_a_reader_ends(monkeypatch):
    """Of a thread that Python has joined, the system may know a little longer."""
    asked, told = [], []

    def exists(path):
        asked.append(path)
        return len(asked) < 4

    monkeypatch.setattr(compat, "_readers", {12345, threading.get_native_id()})
    monkeypatch.setattr(compat.os.path, "exists", exists)
    compat._after_readers(lambda *args: told.append((args, len(asked))))("loader")
    assert told == [(("loader",), 4)]
    assert asked == ["/proc/self/task/12345"] * 4  # not the one that Python has running
    assert compat._readers == {threading.get_native_id()}


def test_a_thread_that_does_not_end_is_not_waited_for_forever(monkeypatch):
    told = []
    monkeypatch.setattr(compat, "_END", 0.05)
    monkeypatch.setattr(compat, "_readers", {os.getpid() + 10**7})
    monkeypatch.setattr(compat.os.path, "exists", lambda path: True)
    compat._after_readers(lambda: told.append(1))()
    assert told == [1]


def test_workers_end_with_a_parent_that_is_killed(loaders):
    said, statuses, _ = loaders
    workers, end = said[2][0].split(), time.monotonic() + 10
    assert statuses[2] == -signal.SIGKILL and len(workers) == 2
    while any(map(is_alive, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(is_alive, workers))


def is_alive(process):
    """Whether it runs: what nobody has waited for is there as a zombie, too."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_error_in_a_loader_is_told_as_it_was_raised(loaders):
    said, _, wrong = loaders
    assert said[0] == [line for workers in (0, 1) for line in (
        *(f"{workers} {torn} {told}" for torn in (0, 2)
          for told in ("UserError a.png is torn; get it anew", "KeyError None")),
        f"{workers} 4")], wrong


def test_a_loaders_workers_do_not_wait_for_what_an_earlier_loader_left(loaders):
    said, _, wrong = loaders
    assert said[1] == ["4"], wrong


@pytest.fixture
def stock_config(tmp_path):
    """A plain DeepLabV3P config over four pictures of three classes and an unlabelled edge."""
    rng = np.random.default_rng(0)
    label = np.zeros((40, 48), np.uint8)
    label[:, 24:], label[20:], label[:2] = 1, 2, 255
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.jpg"), rng.integers(0, 255, (40, 48, 3)))
        cv2.imwrite(str(tmp_path / f"{index}.png"), label)
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"{index}.jpg {index}.png\n" for index in range(4)))

    def dataset(mode):
        return {"type": "Dataset", "dataset_root": str(tmp_path), "num_classes": 3, "mode": mode,
                f"{mode}_path": str(listing),
                "transforms": [{"type": "Resize", "target_size": [64, 64]}, {"type": "Normalize"}]}

    content = {
        "batch_size": 2, "iters": 3,
        "train_dataset": dataset("train"), "val_dataset": dataset("val"),
        "optimizer": {"type": "SGD", "momentum": 0.9, "weight_decay": 4.0e-5},
        "lr_scheduler": {"type": "PolynomialDecay", "learning_rate": 0.01, "power": 0.9},
        "loss": {"types": [{"type": "MixedLoss", "coef": [0.8, 0.2], "losses": [
            {"type": "CrossEntropyLoss"}, {"type": "LovaszSoftmaxLoss"}]}], "coef": [1]},
        "model": {"type": "DeepLabV3P", "backbone": {"type": "ResNet18_vd"}},
    }
    path = tmp_path / "stock.yml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_stock_deeplab_config_trains_and_evaluates(stock_config, monkeypatch, tmp_path):
    monkeypatch.setattr(TRAINER.time, "sleep", lambda seconds: None)
    assert "DeepLabV3P" in manager.MODELS.components_dict
    config = Config(stock_config)
    builder = SegBuilder(config)
    paddleseg.core.train(
        builder.model, builder.train_dataset, val_dataset=builder.val_dataset,
        optimizer=builder.optimizer, losses=builder.loss, save_dir=str(tmp_path / "out"),
        iters=3, batch_size=2, save_interval=2, log_iters=1, use_vdl=True, use_ema=True)
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")}
    assert {"best_model/model.pdparams", "iter_2/model.pdopt", "iter_3/ema_model.pdparams"} <= files
    assert any("vdlrecords" in name for name in files)

    evaluate = paddleseg.core.evaluate
    miou, acc, class_iou, class_precision, _ = evaluate(builder.model, builder.val_dataset,
                                                        print_detail=False)
    counts = confusion(builder.model, builder.val_dataset)
    hits, union = np.diag(counts), counts.sum(0) + counts.sum(1) - np.diag(counts)
    np.testing.assert_allclose(class_iou, hits / union)
    assert miou == pytest.approx((hits / union).mean())
    assert acc == pytest.approx(hits.sum() / counts.sum())
    np.testing.assert_allclose(class_precision, hits / np.maximum(counts.sum(0), 1))
    for options in ({"aug_eval": True, "scales": [0.75, 1.0], "flip_horizontal": True},
                    {"is_slide": True, "crop_size": [64, 64], "stride": [32, 32]}):
        result = evaluate(builder.model, builder.val_dataset, print_detail=False, **options)
        assert 0.0 <= result[0] <= result[1] <= 1.0
    assert result[0] == pytest.approx(miou)  # one window that covers the picture


def confusion(model, dataset):
    """Counts [label, prediction] over the labelled pixels, with NumPy."""
    counts = np.zeros((3, 3), np.int64)
    model.eval()
    for data in dataset:
        logit = infer.inference(model, paddle.to_tensor(data["img"][None])).numpy()
        assert data["trans_info"][-1][0] == "resize"
        height, width = data["trans_info"][-1][1]
        logit = paddle.nn.functional.interpolate(paddle.to_tensor(logit), [height, width],
                                                 mode="bilinear").numpy()
        pred, label = logit[0].argmax(0), data["label"][0]
        np.add.at(counts, (label[label != 255], pred[label != 255]), 1)
    return counts


@pytest.mark.parametrize("text", ["__import__('os').getpid()", "nn.functional", "nn.Layer.__init__",
                                  "nn.__doc__", "paddle.nn.LayerNorm(3)", ""])
def test_the_norm_of_a_transformer_is_looked_up_not_computed(text):
    with pytest.raises(ValueError, match="is no layer of paddle.nn, such as nn.LayerNorm"):
        backbones.vision_transformer.Block(8, 2, norm_layer=text)
    block = backbones.cae.Block(8, 2, norm_layer="nn.LayerNorm")
    assert type(block.norm2) is nn.LayerNorm


ARCHIVES = {  # whatever else they hold, and whether it is unpacked
    "plain": (("net/model.pdparams", tarfile.REGTYPE), True),
    "upwards": (("../model.pdparams", tarfile.REGTYPE), False),
    "absolute": (("/model.pdparams", tarfile.REGTYPE), False),
    "link": (("net/link", tarfile.SYMTYPE), False), "pipe": (("net/pipe", tarfile.FIFOTYPE), False)}


@pytest.mark.parametrize("name, kind", [
    *((name, kind) for name in ARCHIVES for kind in ("w.tar", "w.tar.gz", "w.tgz")),
    *((name, "w.zip") for name in ("plain", "upwards", "absolute"))])
def test_an_archive_of_weights_is_unpacked_into_its_folder_alone(tmp_path, name, kind):
    (member, type_), is_fine = ARCHIVES[name]
    archive, inside = str(tmp_path / kind), tmp_path / "in" / "here"
    inside.mkdir(parents=True)
    if kind == "w.zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("net/first", "1")
            file.writestr(member, "2")
    else:
        with tarfile.open(archive, "w:gz" if kind.endswith("gz") else "w") as file:
            for path, its_type in (("net/first", tarfile.REGTYPE), (member, type_)):
                info = tarfile.TarInfo(path)
                info.type, info.linkname = its_type, "/etc"
                file.addfile(info)
    if is_fine:
        root = download._uncompress_file(archive, str(inside), False, False)
        assert root.startswith("net") and (inside / member).is_file()
    else:
        with pytest.raises(ValueError, match="outside of its folder|no file and no folder"):
            download._uncompress_file(archive, str(inside), False, False)
        assert not os.listdir(inside) and os.listdir(tmp_path / "in") == ["here"]


@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolution_with_bias_is_the_one_without_plus_the_bias(groups):
    """Values bit for bit; the gradients by their definition, in float64."""
    paddle.seed(0)
    layer = nn.Conv2D(4, 8, 3, padding=1, groups=groups)
    x = paddle.randn([3, 4, 5, 6])
    weights = paddle.randn([3, 8, 5, 6])
    y = layer(x)
    bare = paddle.nn.functional.conv2d(x, layer.weight, None, padding=1, groups=groups)
    np.testing.assert_array_equal(y.numpy(), bare.numpy() + layer.bias.numpy()[:, None, None])
    (y * weights).sum().backward()
    np.testing.assert_allclose(layer.bias.grad.numpy(),
                               weights.numpy().astype("float64").sum((0, 2, 3)), rtol=1e-5)
    gradient = layer.weight.grad.numpy()
    layer.clear_gradients()
    (paddle.nn.functional.conv2d(x, layer.weight, None, padding=1, groups=groups)
     * weights).sum().backward()
    np.testing.assert_array_equal(gradient, layer.weight.grad.numpy())


@pytest.mark.parametrize("x, arguments", [
    ([1, 4, 5, 5], {}), ([2, 5, 5, 4], {"data_format": "NHWC"})])
def test_one_image_and_channels_last_take_paddles_own_way(monkeypatch, x, arguments):
    seen = []

    def convolve(x, weight, bias=None, stride=1, padding=0, padding_algorithm=None, dilation=1,
                 groups=1, data_format="NCHW"):
        seen.append(bias)
        return x

    mended = compat._with_fast_parts(convolve, lambda **_: False, max)
    bias = paddle.ones([4])
    mended(paddle.zeros(x), None, bias, **arguments)
    assert seen == [bias]
