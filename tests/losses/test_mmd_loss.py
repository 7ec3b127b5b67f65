"""MMDLoss against a loop in NumPy, central differences, and values worked out by hand."""

import math

import numpy as np
import paddle
import pytest
from paddleseg.cvlibs import manager

from helpers.losses import central_differences, evaluate, gradient
from paddle_csrl.errors import UserError
from paddle_csrl.losses import mmd_loss, mmd_on_host
from paddle_csrl.losses.mmd_loss import MMDLoss
from paddle_csrl.utils import device

ZS3NET = [2, 5, 10, 20, 40, 80]


@pytest.fixture(params=["on a CPU", "as on a GPU"], autouse=True)
def _way(request, monkeypatch):
    if request.param == "as on a GPU":
        monkeypatch.setattr(device, "is_on_host", lambda tensor: False)


def in_blocks(monkeypatch, size):
    monkeypatch.setattr(mmd_on_host, "BLOCK_SIZE", size)
    monkeypatch.setattr(mmd_loss, "GPU_BLOCK_SIZE", size)


def mmd2_by_loops(x, y, bandwidths):
    def kernel(p, q):
        distance = math.dist(p, q)**2
        return sum(math.exp(-distance / (2 * v)) for v in bandwidths)

    def mean_kernel(a, b):
        return np.mean([[kernel(p, q) for q in b.tolist()] for p in a.tolist()])

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)


def samples(classes=3, generated=4, real=5, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(classes, generated, dim)), rng.normal(1, 2, (classes, real, dim))


@pytest.mark.parametrize("bandwidths", [ZS3NET, [3.0], [1, 2, 4, 8], [0.7, 9, 1.4], [2, 2],
                                        [4, 2, 4, 1, 2, 2]])
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("block", [mmd_on_host.BLOCK_SIZE, 1])
def test_agrees_with_loops(monkeypatch, bandwidths, squared, block):
    in_blocks(monkeypatch, block)
    x, y = samples(generated=3, dim=2)

    def by_loops(x):
        each = [mmd2_by_loops(a, b, bandwidths) for a, b in zip(x, y)]
        return np.mean(each if squared else np.sqrt(each))

    loss = MMDLoss(bandwidths, squared)
    assert evaluate(loss, x, y) == pytest.approx(by_loops(x), rel=1e-12)
    np.testing.assert_allclose(gradient(loss, x, y), central_differences(by_loops, x), atol=1e-8)


@pytest.mark.parametrize("bandwidths", [ZS3NET, [1, 2, 4, 8], [0.7, 9, 1.4]])
def test_samples_that_are_far_apart_agree_with_loops(bandwidths):
    """Kernels down to what no float holds, of which the small ones are raised on the way."""
    x, y = samples(generated=3, dim=2)
    x, y = 12 * x, 12 * y

    def by_loops(x):
        return np.mean([mmd2_by_loops(a, b, bandwidths) for a, b in zip(x, y)])

    loss = MMDLoss(bandwidths)
    assert evaluate(loss, x, y) == pytest.approx(by_loops(x), rel=1e-12)
    np.testing.assert_allclose(gradient(loss, x, y), central_differences(by_loops, x), atol=1e-8)
    in_single = gradient(loss, x.astype("float32"), y.astype("float32"))
    np.testing.assert_allclose(in_single, gradient(loss, x, y), atol=1e-5)


def test_hand_value():
    # One sample each, two apart, v = 2: 1 + 1 - 2 exp(-4 / 4).
    value = evaluate(MMDLoss([2]), np.array([[[0.0]]]), np.array([[[2.0]]]))
    assert value == pytest.approx(2 - 2 * math.exp(-1), rel=1e-12)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("counts", [None, [5, 1, 3]])
def test_gradient(squared, counts):
    x, y = samples()
    loss = MMDLoss(ZS3NET, squared)
    numeric = central_differences(lambda v: evaluate(loss, v, y, counts), x)
    np.testing.assert_allclose(gradient(loss, x, y, counts), numeric, atol=1e-9)


def test_gradient_of_a_scaled_loss():
    x, y = samples()
    tensor = paddle.to_tensor(x, stop_gradient=False)
    (3 * MMDLoss(ZS3NET)(tensor * 1, paddle.to_tensor(y))).backward()
    np.testing.assert_allclose(tensor.grad.numpy(), 3 * gradient(MMDLoss(ZS3NET), x, y),
                               rtol=1e-12)


def test_counts_select_the_first_samples_and_skip_empty_classes():
    x, y = samples()
    y[0, 2:], y[1] = np.nan, np.inf
    expected = np.mean([mmd2_by_loops(x[0], y[0, :2], ZS3NET), mmd2_by_loops(x[2], y[2], ZS3NET)])
    assert evaluate(MMDLoss(ZS3NET), x, y, [2, 0, 5]) == pytest.approx(expected, rel=1e-12)
    assert np.isfinite(gradient(MMDLoss(ZS3NET), x, y, [2, 0, 5])).all()


@pytest.mark.parametrize("bandwidths", [ZS3NET, "auto"])
def test_no_valid_sample_is_a_differentiable_zero(bandwidths):
    x, y = samples()
    assert evaluate(MMDLoss(bandwidths), x, y, [0, 0, 0]) == 0
    assert (gradient(MMDLoss(bandwidths), x, y, [0, 0, 0]) == 0).all()


def test_root_is_finite_where_the_sets_agree():
    x = samples()[0].astype("float32")
    loss = MMDLoss(ZS3NET, squared=False)
    assert 0 <= evaluate(loss, x, x.copy()) < 2e-3
    assert np.isfinite(gradient(loss, x, x.copy())).all()


def test_root_of_a_negative_value_is_zero():
    value = paddle.to_tensor([-1e-7, 0.0, 4.0], stop_gradient=False)
    root = mmd_loss._root(value)
    root.sum().backward()
    np.testing.assert_allclose(root.numpy(), [0, 0, 2])
    assert np.isfinite(value.grad.numpy()).all() and value.grad.numpy()[2] == 0.25


def test_auto_bandwidths_are_the_median_times_eighths_to_two():
    x, y = samples()
    counts = [5, 3, 0]
    distances = [((y[c, i] - y[c, j])**2).sum() for c, count in enumerate(counts)
                 for i in range(count) for j in range(i)]
    bandwidths = [float(np.median(distances)) * f for f in (1 / 8, 1 / 4, 1 / 2, 1, 2)]
    assert evaluate(MMDLoss("auto"), x, y, counts) == pytest.approx(
        evaluate(MMDLoss(bandwidths), x, y, counts), rel=1e-9)


def test_auto_without_a_scale_uses_one():
    x, y = samples(real=1)
    expected = evaluate(MMDLoss([1 / 8, 1 / 4, 1 / 2, 1, 2]), x, y)
    assert evaluate(MMDLoss("auto"), x, y) == pytest.approx(expected, rel=1e-12)
    repeated = np.repeat(y, 4, axis=1).astype("float32")
    assert evaluate(MMDLoss("auto"), x.astype("float32"), repeated) == pytest.approx(
        expected, rel=1e-4)


def test_invariances():
    x, y = samples()
    loss = MMDLoss(ZS3NET)
    value = evaluate(loss, x, y)
    order = np.random.default_rng(1)
    assert evaluate(loss, order.permutation(x), order.permutation(y)) != pytest.approx(value)
    same = order.permutation(len(x))
    assert evaluate(loss, x[same], y[same]) == pytest.approx(value, rel=1e-12)
    assert evaluate(loss, order.permutation(x, axis=1), y[:, ::-1].copy()) == pytest.approx(
        value, rel=1e-12)
    assert evaluate(loss, y, x) == pytest.approx(value, rel=1e-12)
    assert evaluate(loss, x + 1e3, y + 1e3) == pytest.approx(value, rel=1e-8)


def test_far_from_the_origin_in_float32():
    x, y = samples()
    expected = evaluate(MMDLoss(ZS3NET), x, y)
    moved = evaluate(MMDLoss(ZS3NET), (x + 100).astype("float32"), (y + 100).astype("float32"))
    assert moved == pytest.approx(expected, rel=1e-4)


def test_blocks_of_classes_change_nothing(monkeypatch):
    x, y = samples(classes=5)
    whole = evaluate(MMDLoss(ZS3NET), x, y), gradient(MMDLoss(ZS3NET), x, y)
    in_blocks(monkeypatch, 2 * 5 * 6)
    assert evaluate(MMDLoss(ZS3NET), x, y) == pytest.approx(whole[0], rel=1e-12)
    np.testing.assert_allclose(gradient(MMDLoss(ZS3NET), x, y), whole[1], rtol=1e-10)


@pytest.mark.parametrize("given, kept", [("float16", "float32"), ("float32", "float32"),
                                         ("float64", "float64")])
def test_precision(given, kept):
    x, y = (paddle.to_tensor(v).astype(given) for v in samples())
    value = MMDLoss(ZS3NET)(x, y)
    assert value.dtype == getattr(paddle, kept) and value.ndim == 0
    assert float(value) == pytest.approx(evaluate(MMDLoss(ZS3NET), *samples()), rel=1e-2)


def test_inputs_are_left_alone():
    x, y = (paddle.to_tensor(v) for v in samples())
    MMDLoss(ZS3NET)(x, y, paddle.to_tensor([1, 2, 3]))
    np.testing.assert_array_equal(x.numpy(), samples()[0])
    np.testing.assert_array_equal(y.numpy(), samples()[1])


def test_registered_with_the_injected_argument():
    loss = manager.LOSSES["MMDLoss"](bandwidths="auto", squared=False, ignore_index=255)
    assert loss.consumes == "features"


@pytest.mark.parametrize("bandwidths, shown", [
    ([], r"\[\]"), ([2, 0], "got 0"), ([-1.0], "got -1.0"), (["1e-4"], "got '1e-4'"),
    ([math.nan], "got nan"), ([True], "got True"), ("median", "'median'"), (3, "got 3")])
def test_bad_bandwidths(bandwidths, shown):
    with pytest.raises(UserError, match=shown):
        MMDLoss(bandwidths)


@pytest.mark.parametrize("x, y", [((2, 3, 4), (3, 3, 4)), ((2, 3, 4), (2, 3, 5)),
                                  ((2, 3), (2, 3, 4))])
def test_bad_shapes(x, y):
    with pytest.raises(UserError, match=str(list(x)).replace("[", r"\[")):
        MMDLoss([1])(paddle.zeros(x), paddle.zeros(y))


@pytest.mark.parametrize("counts", [[1, 2], [1, 2, 6], [1, 2, -1], [1.0, 2.0, 3.0]])
def test_bad_counts(counts):
    x, y = samples()
    with pytest.raises(UserError, match=r"counts must be 3 integers in \[0, 5\]"):
        evaluate(MMDLoss([1]), x, y, counts)


@pytest.mark.parametrize("generated, real", [
    ([2, 0, 3], [2, 4, 3]), ([2, 4, 3], [2, 0, 3]), ([2, 4, 0], [2, 4, 0]), ([0, 4, 3], [0, 4, 3])])
def test_nothing_to_compare_is_refused(generated, real):
    with pytest.raises(UserError, match="takes non-empty generated"):
        MMDLoss([1.0])(paddle.zeros(generated), paddle.zeros(real))


def test_rounding_makes_no_distance_negative():
    """Norms that are rounded down by a thousandth would give −2 for equal points of norm 1000."""
    points = paddle.to_tensor([[[1000.0 ** 0.5, 0.0]]])
    norms = mmd_loss._squared_norms(points) * 0.999
    kernel, _ = mmd_loss._kernel_and_slope(
        mmd_loss._exponents(points, points, norms, norms), [1.0])
    assert float(kernel) == 1
    far = np.float32([[[1000.0, 0.1]]]).repeat(9, axis=1)
    assert mmd_on_host._exponents(far, far + np.float32(1e-4)).max() <= 0
