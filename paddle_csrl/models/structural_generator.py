"""The generator of CSRL: a graph network from class embeddings and noise to visual features.

Shape letters: C classes, N samples a class, W embedding, Z noise and D feature dimensions.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer
from paddle.distributed.fleet.utils import recompute
from paddleseg.cvlibs import manager

from paddle_csrl.models import feature_generator as base
from paddle_csrl.parallel import Share
from paddle_csrl.registry import register

#: Most values of |p_i - p_j| held at once; with more, relations are computed in blocks of pairs
#: that are computed again for the gradient instead of being kept.
PAIR_BLOCK_SIZE = 2**22


@register(manager.MODELS)
class StructuralGenerator(base.FeatureGenerator):
    """CSRL's generator (NeurIPS 2020, section 4.1, Eqs. 1-3).

    It starts from the nodes v^0_in = [a_i + z_in] (concatenated; a embeddings, z noise) and the
    edges e^0_ij = cos(a_i, a_j), and for the layers l = 1..L:

        p_i^l    = mean_n v^l_in                                                  (1)
        v^l_in   = f_v^l([v^(l-1)_in + sum_{j != i} e^(l-1)_ij p_j^(l-1)])         (2)
        e^l_ij   = f_e^l(|p_i^l - p_j^l|) e^(l-1)_ij                              (3)

    where + stands for concatenation in (2). f_v and f_e are Linear - LeakyReLU(0.2) - Dropout -
    Linear with ``hidden_dim`` in the middle, Xavier-uniform weights and biases 0.01, as in
    ZS3Net; f_v^l maps to ``hidden_dim`` for l < L and to ``feature_dim`` for l = L, f_e to one
    number.

    Args:
        embed_dim (int): W, of a class embedding.
        feature_dim (int): D, of a visual feature.
        noise_dim (int): Z, of the Gaussian noise.
        num_layers (int): L.
        hidden_dim (int): width inside the MLPs and of the nodes between layers.
        dropout (float): rate in [0, 1), inside the MLPs, in training mode only.
        num_classes (int, optional): unused; PaddleSeg injects it.
        in_channels (int): unused; PaddleSeg injects it.

    Raises:
        UserError: an argument is out of its range.
    """

    learns_relations = True

    def __init__(self, embed_dim: int, feature_dim: int, noise_dim: int = 64, num_layers: int = 2,
                 hidden_dim: int = 256, dropout: float = 0.5,
                 num_classes: int | None = None, in_channels: int = 3):
        super().__init__(embed_dim, noise_dim, dropout, feature_dim=feature_dim,
                         num_layers=num_layers, hidden_dim=hidden_dim)
        widths = [embed_dim + noise_dim] + [hidden_dim] * (num_layers - 1) + [feature_dim]
        self.feature_mlps = nn.LayerList(
            [base.mlp(2 * before, hidden_dim, after, dropout)
             for before, after in zip(widths, widths[1:])])
        self.relation_mlps = nn.LayerList(
            [base.mlp(width, hidden_dim, 1, dropout) for width in widths[1:]])

    def generate(self, embeddings: Tensor, noise: Tensor, share: Share) -> base.GeneratorOutput:
        """Generate features and edges; with C = 1 there are no neighbours, their sum in (2) is 0.

        Nodes are those of the share, prototypes and edges those of all classes.
        """
        nodes, prototypes, edges, relations = self._before_last(embeddings, noise, share)
        messages = paddle.matmul(share.take(edges), prototypes)
        nodes = _aggregate_features(self.feature_mlps[-1], nodes, messages, share)
        prototypes = share.complete(nodes.prototypes())
        relations.append(_pair_scores(self.relation_mlps[-1], prototypes, share) * relations[-1])
        return base.GeneratorOutput(nodes.values(), relations)

    def last_features(self, embeddings: Tensor, num_samples: int, start: int) -> Tensor:
        """As of every generator; the last layer, most of the work, leaves the others out."""
        if start == len(embeddings):  # Paddle 2.6 multiplies no empty matrices
            return super().last_features(embeddings, num_samples, start)
        with paddle.amp.auto_cast(enable=False):
            return self._last_nodes(embeddings, num_samples, start).values()

    def last_prototypes(self, embeddings: Tensor, num_samples: int, start: int) -> Tensor:
        """As of every generator, without the features themselves."""
        if start == len(embeddings):
            return super().last_prototypes(embeddings, num_samples, start)
        with paddle.amp.auto_cast(enable=False):
            return self._last_nodes(embeddings, num_samples, start).prototypes()

    def _last_nodes(self, embeddings: Tensor, num_samples: int, start: int) -> "_Nodes":
        noise = self._check_inputs(embeddings, num_samples, None)
        wanted = Share.last(len(embeddings), start)
        nodes, prototypes, edges, _ = self._before_last(embeddings, noise, Share(len(embeddings)))
        messages = paddle.matmul(wanted.take(edges), prototypes)
        return _aggregate_features(self.feature_mlps[-1], nodes.of(wanted), messages, wanted)

    def _before_last(self, embeddings: Tensor, noise: Tensor,
                     share: Share) -> tuple["_Nodes", Tensor, Tensor, list[Tensor]]:
        """Nodes of the share, prototypes and edges of all, and relations, for the last layer."""
        relations = [self.semantic_relations(embeddings)]
        nodes = _initial_nodes(share.take(embeddings), share.take(noise))
        prototypes = _initial_nodes(embeddings, noise).prototypes()
        others = 1 - paddle.eye(len(embeddings), dtype=embeddings.dtype)
        for feature_mlp, relation_mlp in list(zip(self.feature_mlps, self.relation_mlps))[:-1]:
            messages = paddle.matmul(share.take(relations[-1] * others), prototypes)
            nodes = _aggregate_features(feature_mlp, nodes, messages, share)
            prototypes = share.complete(nodes.prototypes())
            relations.append(_pair_scores(relation_mlp, prototypes, share) * relations[-1])
        return nodes, prototypes, relations[-1] * others, relations


class _Nodes(NamedTuple):
    """The node values v_in = base_in weight + offset_i, not multiplied out.

    What follows is linear, so that most layers need ``base`` times one product of weights
    instead of v itself, and a term that is the same for all samples of a class only once.
    """

    base: Tensor  # [C, N, K]
    weight: Tensor  # [K, V]
    offset: Tensor  # [C, V], or [V] where it is the same for all classes

    def of(self, share: Share) -> "_Nodes":
        per_class = self.offset.ndim == 2
        return _Nodes(share.take(self.base), self.weight,
                      share.take(self.offset) if per_class else self.offset)

    def prototypes(self) -> Tensor:
        """Eq. 1, [C, V]."""
        samples = self.base.shape[1]
        mean = paddle.full([1, samples], 1 / samples, dtype=self.base.dtype)
        # A product, because Paddle's mean is slower on CPU.
        return paddle.matmul(paddle.matmul(mean, self.base).squeeze(1), self.weight) + self.offset

    def values(self) -> Tensor:
        """v, [C, N, V]."""
        offset = self.offset.expand([self.base.shape[0], self.weight.shape[1]])
        return _PerClassLinear.apply(self.base, self.weight, offset)


def _initial_nodes(embeddings: Tensor, noise: Tensor) -> _Nodes:
    """v^0_in, the embedding of the class followed by the noise of the sample."""
    (classes, embed_dim), noise_dim = embeddings.shape, noise.shape[2]
    dtype = noise.dtype
    select_noise = paddle.eye(noise_dim, embed_dim + noise_dim, dtype=dtype).roll(embed_dim, 1)
    offset = paddle.concat([embeddings, paddle.zeros([classes, noise_dim], dtype)], axis=1)
    return _Nodes(noise, select_noise, offset)


def _aggregate_features(mlp: nn.Layer, nodes: _Nodes, messages: Tensor,
                        share: Share) -> _Nodes:
    """Eq. 2 for the share's classes; ``messages`` [K, V] is its sum over the neighbours."""
    first, _, dropout, second = mlp.children()
    of_node, of_messages = first.weight.chunk(2, axis=0)
    per_class = nodes.offset @ of_node + messages @ of_messages + first.bias
    linear = functools.partial(_PerClassLinear.apply, nodes.base, nodes.weight @ of_node, per_class)
    hidden = (linear(lambda hidden: _activation_factor(hidden, dropout, share))
              if paddle.is_grad_enabled() else _activate(linear(), dropout, share))
    return _Nodes(hidden, second.weight, second.bias)


def _activate(hidden: Tensor, dropout: nn.Layer, share: Share) -> Tensor:
    """LeakyReLU and dropout in place, for new memory of that size costs more than the computing."""
    activated = F.leaky_relu_(hidden, base.LEAK)
    mask = dropout.mask(activated, share)
    return activated if mask is None else activated.multiply_(mask)


class _PerClassLinear(PyLayer):
    """base [C, N, K] times weight [K, V] plus per_class [C, V], times the factor made of that sum.

    The sum's gradient is taken by a product too: Paddle's own broadcasts and sums over the
    samples take longer on CPU than the product itself. Of a factor, which is a constant, Paddle's
    own product would keep both sides for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, base: Tensor, weight: Tensor, per_class: Tensor,
                factor_of: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        result = paddle.matmul(base, weight)
        result.add_(per_class.unsqueeze(1).expand_as(result))
        factor = factor_of(result) if factor_of else None
        ctx.save_for_backward(base, weight, factor)
        return result if factor is None else result.multiply_(factor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor,  # type: ignore[override]  # Paddle's are *args
                 ) -> tuple[Tensor | None, Tensor, Tensor]:
        base, weight, factor = ctx.saved_tensor()
        if factor is not None:
            gradient = gradient * factor
        of_base = None if base.stop_gradient else paddle.matmul(gradient, weight, transpose_y=True)
        of_weight = paddle.matmul(base.flatten(0, 1), gradient.flatten(0, 1), transpose_x=True)
        samples = paddle.ones([1, gradient.shape[1]], gradient.dtype)
        return of_base, of_weight, paddle.matmul(samples, gradient).squeeze(1)


@paddle.no_grad()
def _activation_factor(hidden: Tensor, dropout: nn.Layer, share: Share) -> Tensor:
    """Return the factor of LeakyReLU and dropout together: one pass, also backwards."""
    # A step at 0 made of a steep slope: comparison and cast take Paddle longer on CPU.
    step = F.hardsigmoid(hidden, slope=2.0**126, offset=0.0)
    factor = step.scale_(1 - base.LEAK, base.LEAK)
    mask = dropout.mask(hidden, share)
    return factor if mask is None else factor.multiply_(mask)


def _pair_scores(mlp: nn.Layer, prototypes: Tensor, share: Share) -> Tensor:
    """f_e(|p_i - p_j|) of Eq. 3 for all pairs, [C, V] -> [C, C]; each i <= j is computed once.

    The pairs, too, are shared out among the processes.
    """
    classes, width = prototypes.shape
    rows, columns, position = _pairs(classes)

    def scores(prototypes: Tensor, first: Tensor, second: Tensor, pairs: Share) -> Tensor:
        one, other = (paddle.gather(prototypes, pairs.take(ids)) for ids in (first, second))
        return base.apply_mlp(mlp, (one - other).abs(), pairs).squeeze(1)

    first_layer, *_ = mlp.children()
    size = max(1, PAIR_BLOCK_SIZE // max(width, first_layer.weight.shape[1]))
    lengths = [min(size, len(rows) - start) for start in range(0, len(rows), size)]
    compute = functools.partial(recompute, scores) if len(lengths) > 1 else scores
    values = paddle.concat([
        own.complete(compute(prototypes, first, second, own)) for first, second, own in zip(
            *(paddle.to_tensor(ids).split(lengths) for ids in (rows, columns)),
            map(share.like, lengths))])
    return paddle.gather(values, paddle.to_tensor(position)).reshape([classes, classes])


@functools.lru_cache(maxsize=1)
def _pairs(classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both classes i <= j of each pair, and the pair of each i and j, int32 [C * C]."""
    rows, columns = (ids.astype(np.int32) for ids in np.triu_indices(classes))
    position = np.empty([classes, classes], np.int32)
    position[rows, columns] = position[columns, rows] = np.arange(len(rows))
    return rows, columns, position.ravel()
