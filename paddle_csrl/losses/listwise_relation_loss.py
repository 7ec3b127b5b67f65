"""The listwise relation loss, Eqs. 7 and 8 of CSRL, without its |S|! terms.

Shape letters: U unseen classes, S seen classes, K sampled orders. A set of seen classes is the
integer whose bit k says whether class k belongs to it.
"""

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute
from paddleseg.cvlibs import manager

from paddle_csrl.errors import UserError
from paddle_csrl.losses import functional
from paddle_csrl.registry import register
from paddle_csrl.utils import device

METHODS = ("auto", "exact", "sampled")
#: Most seen classes for which "auto" is exact: 1 MiB and a few milliseconds an unseen class.
MAX_AUTO_EXACT = 17
#: Most seen classes for which "exact" is accepted: 8 MiB an unseen class.
MAX_EXACT = 20
#: Most numbers of sampled orders held at once, some ten times; with more, unseen classes are taken
#: in blocks that are computed again for the gradient instead of being kept.
ORDERS_BLOCK_SIZE = 2**18
#: Where gaps of scores are cut off before exp, which overflows in float64 from 710 on.
_MOST_GAP = 700.0


@register(manager.LOSSES)
class ListwiseRelationLoss(nn.Layer):
    """KL divergence of the Plackett-Luce distributions over orders of the seen classes.

    mean_i KL(P(. | semantic_i / gamma) || P(. | generated_i / gamma)), P over all S! orders
    (CSRL, Eqs. 7, 8). With the scores a = semantic_i / gamma and x = generated_i / gamma, and
    P_a(R) the probability under a that R is what remains unranked at stage S - |R|, it is

        sum_R P_a(R) KL(softmax_R(a) || softmax_R(x))
            = const + sum_R P_a(R) logsumexp_R(x) - sum_k x_k

    "exact" sums over all 2^S sets: P_a is tabulated once and kept until the semantic side
    changes. "sampled" averages the left-hand side over the sets met by random orders drawn
    from P_a, anew at every call by Paddle's random state; it is unbiased. Both are computed in
    float64, are never negative, and do not change when a constant is added to a row.

    Args:
        gamma (float): temperature, > 0.
        method (str): "exact" (S <= 20), "sampled", or "auto": exact for S <= 17.
        num_samples (int): orders K a row of the sampled method, >= 1.
        ignore_index (int): unused; PaddleSeg injects it.

    Shape: generated [U, S] and semantic [U, S], floating, S >= 1 -> scalar >= 0. U = 0 gives a
    differentiable 0. ``semantic`` is a constant: it gets no gradient. On a GPU the exact method
    does not read one that is the same tensor as at the last call, which would wait for the
    device.

    Raises:
        UserError: an argument is out of its range, the shapes do not fit, the method is "exact"
            with more than 20 seen classes, or ``semantic`` is not finite.
    """

    consumes = "relations"

    def __init__(self, gamma: float = 0.1, method: str = "auto", num_samples: int = 64,
                 ignore_index: int = 255):
        super().__init__()
        if method not in METHODS:
            raise UserError(f"ListwiseRelationLoss: method must be one of {', '.join(METHODS)}, "
                            f"got {method!r}")
        if isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
            raise UserError("ListwiseRelationLoss: num_samples must be an integer >= 1, "
                            f"got {num_samples!r}")
        self.gamma = functional.check_positive(gamma, "ListwiseRelationLoss: gamma")
        self.method = method
        self.num_samples = num_samples
        self._table: _SetTable | None = None
        self._tabulated_of: Tensor | None = None

    @functional.in_full_precision
    def forward(self, generated: Tensor, semantic: Tensor) -> Tensor:
        functional.check_relations(generated, semantic, "ListwiseRelationLoss")
        unseen, seen = generated.shape
        if self.method == "exact" and seen > MAX_EXACT:
            raise UserError(f"ListwiseRelationLoss: method 'exact' takes at most {MAX_EXACT} seen "
                            f"classes, got {seen}; use 'sampled' or 'auto'")
        if unseen == 0:
            return functional.differentiable_zero(generated)
        if seen == 1:  # there is one order
            return (generated * 0).sum()
        target = semantic.detach().astype("float64") / self.gamma
        scores = generated.astype("float64") / self.gamma
        exact = self.method == "exact" or (self.method == "auto" and seen <= MAX_AUTO_EXACT)
        divergence = (_exact_divergence(scores, self._tabulated(semantic, target)) if exact
                      else _sampled_divergence(scores, target, self.num_samples))
        return divergence.mean().astype(generated.dtype)

    def _tabulated(self, semantic: Tensor, target: Tensor) -> "_SetTable":
        """The table of ``target``, made of ``semantic``; only the last one is kept."""
        if self._table and semantic is self._tabulated_of and not device.is_on_host(semantic):
            return self._table
        values = target.numpy()
        if self._table is None or not np.array_equal(self._table.scores, values):
            self._table = _tabulate(values, device.is_on_host(semantic))
        self._tabulated_of = semantic
        return self._table


class _SetTable(NamedTuple):
    """P_a over the sets, split into the classes of the low and of the high bits.

    Rows count the non-empty sets of the high classes, columns those of the low ones. For scores on
    the CPU these are arrays, as NumPy takes a quarter of Paddle's time for exp and log of float64
    there; tensors otherwise.
    """

    scores: np.ndarray  # a, [U, S]
    high: Any  # P_a of a high part with an empty low part, [U, rows]
    low: Any  # P_a of a low part, whatever the high part, [U, columns]
    both: Any  # P_a of both parts together, [U, rows, columns]
    constant: Any  # sum_R P_a(R) logsumexp_R(a) - sum_k a_k, [U]
    outside_high: Any  # 0 for the classes of each high part, -inf for the others, [rows, n]
    outside_low: Any  # the same of the low parts


def _tabulate(scores: np.ndarray, on_host: bool) -> _SetTable:
    if not np.isfinite(scores).all():
        raise UserError(f"ListwiseRelationLoss: semantic relations must be finite, got {scores}")
    unseen, seen = scores.shape
    middle = seen // 2
    logsumexp = _subset_logsumexp(scores)
    probability = _remaining_probability(scores, logsumexp)
    constant = (probability[1:] * logsumexp[1:]).sum(axis=0) - scores.sum(axis=1)
    parts = probability.T.reshape(unseen, 2**(seen - middle), 2**middle)
    arrays = map(np.ascontiguousarray, (
        parts[:, 1:, 0], parts[:, :, 1:].sum(axis=1), parts[:, 1:, 1:], constant,
        _outside(seen - middle), _outside(middle)))
    return _SetTable(scores, *(arrays if on_host else map(paddle.to_tensor, arrays)))


def _subset_logsumexp(scores: np.ndarray) -> np.ndarray:
    """logsumexp of every set of classes, [2^S, U]; -inf for the empty one."""
    table = np.full((1, len(scores)), -np.inf)
    for score in scores.T:
        table = np.concatenate([table, np.logaddexp(table, score)])
    return table


def _remaining_probability(scores: np.ndarray, logsumexp: np.ndarray) -> np.ndarray:
    """P_a(R) of every set R, [2^S, U]: each set hands its own on to the sets one class smaller."""
    seen = scores.shape[1]
    probability = np.zeros_like(logsumexp)
    probability[-1] = 1
    for sets in _sets_by_size(seen)[:1:-1]:
        for k in range(seen):
            holders = sets[sets >> k & 1 == 1]
            chosen = np.exp(scores[:, k] - logsumexp[holders])
            probability[holders ^ 1 << k] += probability[holders] * chosen
    return probability


def _sets_by_size(seen: int) -> list[np.ndarray]:
    sizes = np.zeros(1, np.int64)
    for _ in range(seen):
        sizes = np.concatenate([sizes, sizes + 1])
    return np.split(np.argsort(sizes, kind="stable"), np.cumsum(np.bincount(sizes))[:-1])


def _exact_divergence(scores: Tensor, table: _SetTable) -> Tensor:
    """KL of each row, [U]; the gradient is written out, for it shares nearly 2^S values a row."""
    with paddle.no_grad():
        if isinstance(table.both, np.ndarray):
            with np.errstate(invalid="ignore"):  # of scores that are not finite
                results = _divergence_and_gradients(scores.numpy(), table, np)
            divergence, *gradients = (paddle.to_tensor(result, place=scores.place)
                                      for result in results)
        else:
            divergence, *gradients = _divergence_and_gradients(scores, table, paddle)
        gradient = paddle.concat(gradients, axis=1)
    # Rounding alone can take a divergence of zero below zero.
    return functional.attach_gradient(divergence, scores, gradient).clip(min=0)


def _divergence_and_gradients(scores: Any, table: _SetTable, library: ModuleType) -> tuple:
    """KL of each row, [U], and its gradients to the low and the high classes, [U, n] each.

    All are arrays of ``library``, NumPy or Paddle.

    The logsumexp of a union of h and l is logaddexp(h, l) = l + log(1 + exp(g)) - g of g = l - h,
    also where g is cut off far above 0. Its slope along h is 1 / (1 + exp(g)).
    """
    middle = scores.shape[1] // 2
    low, of_low = _logsumexp(scores[:, :middle], table.outside_low, library)
    high, of_high = _logsumexp(scores[:, middle:], table.outside_high, library)
    gaps = (low[:, None] - high[:, :, None]).clip(max=_MOST_GAP)
    sums = 1 + library.exp(gaps)
    slopes = table.both / sums
    expected = ((table.both * (library.log(sums) - gaps)).sum(axis=(1, 2))
                + (table.high * high).sum(axis=1) + (table.low * low).sum(axis=1))
    to_low, to_high = table.low - slopes.sum(axis=1), table.high + slopes.sum(axis=2)
    return (expected - scores.sum(axis=1) - table.constant,
            (to_low[:, None] @ of_low)[:, 0] - 1, (to_high[:, None] @ of_high)[:, 0] - 1)


def _logsumexp(scores: Any, outside: Any, library: ModuleType) -> tuple:
    """logsumexp of every non-empty set of the n columns, [U, 2^n - 1], and its gradient.

    The gradient, [U, 2^n - 1, n], is the softmax over each set.
    """
    members = scores[:, None] + outside
    most = members.max(axis=2)
    shares = library.exp(members - most[:, :, None])
    sums = shares.sum(axis=2)
    return most + library.log(sums), shares / sums[:, :, None]


def _outside(columns: int) -> np.ndarray:
    """0 for the members of each non-empty set of columns, -inf for the others, [2^n - 1, n]."""
    member = np.arange(1, 2**columns)[:, None] >> np.arange(columns) & 1 == 1
    return np.where(member, 0.0, -np.inf)


def _sampled_divergence(scores: Tensor, target: Tensor, num_samples: int) -> Tensor:
    """Unbiased estimate of each row's KL, [U]."""
    unseen, seen = scores.shape
    size = max(1, ORDERS_BLOCK_SIZE // (num_samples * seen))
    if unseen <= size:
        return _divergence_over_orders(scores, target, num_samples)
    return paddle.concat([
        recompute(_divergence_over_orders, scores[start:start + size],
                  target[start:start + size], num_samples) for start in range(0, unseen, size)])


def _divergence_over_orders(scores: Tensor, target: Tensor, num_samples: int) -> Tensor:
    """As ``_sampled_divergence``, of all rows at once.

    Scores plus Gumbel noise, sorted downwards, are a Plackett-Luce order; sorted upwards, the
    first j are what remains unranked before the j-th last stage.
    """
    unseen, seen = scores.shape
    uniform = paddle.rand([unseen, num_samples, seen], dtype=scores.dtype)
    noisy = target.unsqueeze(1) - paddle.log(-paddle.log(uniform))
    order = paddle.argsort(noisy, axis=2).reshape([unseen, -1])
    a, x = (paddle.index_sample(s, order).reshape([unseen, num_samples, seen])
            for s in (target, scores))
    with paddle.no_grad():
        remaining_a, remaining_x = paddle.logcumsumexp(a, axis=2), paddle.logcumsumexp(x, axis=2)
        # Mean of a - x under softmax_R(a), as logsumexp of a plus the log of a gap made >= 1.
        gap = a - x
        shift = 1 - gap.min(axis=2, keepdim=True)
        shifted = paddle.logcumsumexp(a + (gap + shift).log(), axis=2)
        mean_gap = (shifted - remaining_a).exp() - shift
        divergence = (mean_gap - remaining_a + remaining_x).clip(min=0).sum(axis=2).mean(axis=1)
        gradient = (_sum_of_shares(x, remaining_x) - _sum_of_shares(a, remaining_a)) / num_samples
    return functional.attach_gradient(divergence, x, gradient)


def _sum_of_shares(ordered: Tensor, remaining: Tensor) -> Tensor:
    """Sum of each element's softmax over all the sets that it is in, [U, K, S]."""
    sums = paddle.logcumsumexp(-remaining.flip(2), axis=2).flip(2)
    return (ordered + sums).exp()
