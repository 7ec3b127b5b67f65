"""Stages 2 and 3 read nothing from the device but at log lines and before they save.

On a GPU every such read waits until all that was asked of it before is done. There is none here:
what counts is how often a tensor's values are asked for.
"""

import numpy as np
import paddle
import pytest
from paddleseg.utils import logger, utils

from paddle_csrl.bank.batches import ClassifierBatches, GeneratorBatches
from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.config.schema import TrainedSection
from paddle_csrl.losses import mmd_loss
from paddle_csrl.models.generator_task import GeneratorTask
from paddle_csrl.models.mlp_generator import MLPGenerator
from paddle_csrl.models.pixel_classifier import PixelClassifier
from paddle_csrl.models.structural_generator import StructuralGenerator
from paddle_csrl.stages.fit import fit, to_device_if_it_fits
from paddle_csrl.stages.progress import DivergenceCheck, ProgressLog, Step, Terms
from paddle_csrl.utils import device

#: All ways to the values of a tensor.
READS = ("numpy", "item", "tolist", "__array__", "__float__", "__int__", "__index__", "__bool__")
SEEN, UNSEEN = np.array([0, 1, 3]), np.array([2])
ITERS, LOG_ITERS = 8, 4


@pytest.fixture
def reads(monkeypatch):
    """Counts reads, with the code that takes its tensors for those of a GPU."""
    monkeypatch.setattr(device, "is_on_host", lambda tensor: False)
    counts = [0]

    def counted(read):
        def count(*args, **kwargs):
            counts[0] += 1
            return read(*args, **kwargs)

        return count

    for name in READS:
        monkeypatch.setattr(paddle.Tensor, name, counted(getattr(paddle.Tensor, name)))
    return counts


def bank():
    rng = np.random.default_rng(0)
    counts = np.array([6, 2, 0, 6])
    return FeatureBank(rng.normal(size=(14, 4)).astype("float32"), counts, 10 * counts)


def section(*losses):
    return TrainedSection(
        seed=0, save_interval=ITERS, log_iters=LOG_ITERS, iters=ITERS,
        optimizer={"type": "Adam"},
        lr_scheduler={"type": "PolynomialDecay", "learning_rate": 1e-3, "end_lr": 0.0,
                      "power": 0.9},
        loss={"types": list(losses), "coef": [1.0] * len(losses)})


def reads_by_iteration(reads, model, batches, section):
    """How often values were read in each iteration, with its log line and its check."""
    seen = []
    names = [loss["type"] for loss in section.loss["types"]]
    check = DivergenceCheck(names, LOG_ITERS, pytest.fail)
    log = ProgressLog(ITERS, LOG_ITERS)
    fit(model, batches, section, [check, log, lambda step: seen.append(reads[0])])
    return np.diff(seen).tolist()  # without the first, which looks at what it is given


def placed(batches, on_device):
    if on_device:
        batches.to_device()
    return batches


def classifier_batches():
    generated = np.random.default_rng(1).normal(size=(1, 6, 4)).astype("float32")
    return ClassifierBatches(bank(), generated, UNSEEN, 16, "auto", "balanced", ITERS, 0)


ON_DEVICE = pytest.mark.parametrize("on_device", [False, True])


@pytest.mark.parametrize("generator, relation", [
    (StructuralGenerator, "edges"), (StructuralGenerator, "prototypes"),
    (MLPGenerator, "prototypes")])
@pytest.mark.parametrize("bandwidths, method", [("auto", "exact"), ([2, 4], "sampled")])
@ON_DEVICE
def test_no_iteration_of_the_generator_reads(reads, generator, relation, bandwidths, method,
                                             on_device):
    features = bank()
    embeddings = np.random.default_rng(1).normal(size=(4, 5)).astype("float32")
    task = GeneratorTask(generator(5, 4, 3), embeddings, features.prototypes(SEEN), SEEN, UNSEEN,
                         num_samples=4, relation=relation, relation_warmup=3)
    losses = section({"type": "MMDLoss", "bandwidths": bandwidths}, {"type": "PrototypeNormLoss"},
                     {"type": "PairwiseRelationLoss"},
                     {"type": "ListwiseRelationLoss", "method": method})
    batches = placed(GeneratorBatches(features, SEEN, 4, ITERS, 0), on_device)
    check_quiet(reads_by_iteration(reads, task, batches, losses))


@ON_DEVICE
def test_no_iteration_of_the_classifier_reads(reads, on_device):
    batches = placed(classifier_batches(), on_device)
    check_quiet(reads_by_iteration(reads, PixelClassifier(4, 4), batches,
                                   section({"type": "CrossEntropyLoss"})))


def generator_and_its_batches():
    embeddings = np.random.default_rng(1).normal(size=(4, 5)).astype("float32")
    task = GeneratorTask(StructuralGenerator(5, 4, 3), embeddings, bank().prototypes(SEEN), SEEN,
                         UNSEEN, num_samples=4)
    return task, GeneratorBatches(bank(), SEEN, 4, ITERS, 0), "MMDLoss"


def layer_and_its_batches():
    return PixelClassifier(4, 4, np.ones(4, "float32")), classifier_batches(), "CrossEntropyLoss"


@pytest.mark.parametrize("make", [generator_and_its_batches, layer_and_its_batches])
def test_a_bank_on_the_device_trains_the_same_weights(make):
    trained = []
    for on_device in (False, True):
        utils.set_seed(0)
        model, batches, loss = make()
        before = model.parameters()[0].numpy()
        fit(model, placed(batches, on_device), section({"type": loss}))
        trained.append([value.numpy() for value in model.parameters()])
        assert not np.array_equal(trained[-1][0], before)
    for expected, found in zip(*trained, strict=True):
        assert np.array_equal(expected, found)


@pytest.mark.parametrize("room, told", [
    (639, "is on the host: the device has room for 0.00 GiB"), (640, "is on the device")])
def test_a_gpu_gets_the_bank_once_if_it_has_room(monkeypatch, room, told):
    lines, batches = [], classifier_batches()  # 14 + 6 features of 4 channels: 320 bytes
    monkeypatch.setattr(logger, "info", lines.append)
    monkeypatch.setattr(device, "free_memory", lambda: room)
    to_device_if_it_fits(batches, "classifier")
    assert not lines and isinstance(batches[0]["img"], np.ndarray)  # there is no GPU
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    to_device_if_it_fits(batches, "classifier")
    assert lines == [f"[classifier] the bank of 0.00 GiB {told}"]
    assert isinstance(batches[0]["img"], paddle.Tensor) == (told == "is on the device")


@pytest.mark.parametrize("free, room", [
    (0, 0), (3, 1), (8 * 2**30, 4 * 2**30), (15 * 2**30, 15 * 2**29), (80 * 2**30, 2**33 - 4)])
def test_half_of_what_is_free_is_for_data(free, room):
    assert device.room_for_data(free) == room


def test_memory_that_paddle_keeps_in_reserve_is_free(monkeypatch):
    monkeypatch.setattr(paddle.base.core, "gpu_memory_available", lambda: 700, raising=False)
    monkeypatch.setattr(paddle.device.cuda, "memory_reserved", lambda: 300)
    monkeypatch.setattr(paddle.device.cuda, "memory_allocated", lambda: 100)
    assert device.free_memory() == 900


def check_quiet(found):
    """Iterations 2 to ``ITERS``: those with a log line read, which shows that reads count."""
    for iteration, count in enumerate(found, 2):
        assert (count > 0) == (iteration % LOG_ITERS == 0), found


def step(iteration, *terms):
    return Step(iteration, list(map(paddle.to_tensor, terms)), 0.1, 0.0, None)


def test_terms_are_read_once_and_as_they_were():
    terms = Terms([[1.0, 2.0]])
    terms.add(step(1, 3.0, [4.0]))
    terms.add(step(2, 5.5, 6.0))
    assert terms.read() == [[1.0, 2.0], [3.0, 4.0], [5.5, 6.0]] == terms.read()


def test_the_first_term_that_is_no_number_is_told_late_but_exactly():
    told = []
    check = DivergenceCheck(["a", "b"], 4, told.append)
    for iteration, b in enumerate([1.0, 2.0, float("inf"), float("nan"), 1.0, float("nan")], 5):
        check(step(iteration, 0.5, b))
        assert bool(told) == (iteration >= 8)
    assert told[0] == "b is inf at iteration 7"
    check.now()
    assert told[-1] == "b is nan at iteration 10"


@pytest.mark.parametrize("values", [[[0.5, 3.0, 1.0, 2.0]], [[7.0, 1.0, 4.0, 2.0]]])
@pytest.mark.parametrize("chosen", [[[True] * 4], [[True, True, False, True]]])
def test_median_on_a_device(values, chosen):
    values, chosen = np.array(values, "float32"), np.array(chosen)
    assert float(mmd_loss._median(paddle.to_tensor(values), chosen)) == np.median(values[chosen])
