"""Generators without training: from class embeddings to prototypes in closed form.

What is learned has to beat them. Both are fitted in one step to the prototypes and embeddings of
seen classes, and features are prototypes with the noise that real features have.

Shape letters: C classes, S of them seen, N samples a class, W embedding, D feature dimensions.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddleseg.cvlibs import manager
from scipy.linalg import solve

from paddle_csrl.errors import UserError
from paddle_csrl.models import feature_generator as base
from paddle_csrl.parallel import Share
from paddle_csrl.registry import register

#: The penalty of ``RidgePrototypes`` and the temperature of ``ConvexPrototypes`` by default.
RIDGE, TEMPERATURE = 0.1, 0.1
#: Of ridge and temperature: with less, rounding decides.
_LEAST = 1e-6


class PrototypeGenerator(base.FeatureGenerator):
    """x = p(a_i) + z with z ~ N(0, Σ): Σ is the covariance within real seen classes.

    Subclasses say in ``prototypes`` what p is, and in ``_fitted`` what they hold for it. Until
    ``fit`` or a loading of weights all prototypes and Σ are zero.
    """

    is_trained = False
    #: Those of the buffers with one row for each class of ``fit``.
    _per_class: tuple[str, ...] = ()

    def __init__(self, embed_dim: int, feature_dim: int):
        super().__init__(embed_dim, feature_dim, dropout=0.0, feature_dim=feature_dim)
        self.fit(np.eye(1, embed_dim), np.zeros((1, feature_dim)),
                 np.zeros((feature_dim, feature_dim)))

    def fit(self, embeddings: np.ndarray, prototypes: np.ndarray, covariance: np.ndarray) -> None:
        """Take in the seen classes: embeddings [S, W], prototypes [S, D]; and Σ [D, D].

        Σ may be of any rank.
        """
        values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
        self._hold({"spread": vectors * np.sqrt(values.clip(min=0)),
                    **self._fitted(unit_rows(embeddings), np.asarray(prototypes, np.float64))})

    def make_room(self, state: Mapping[str, Any]) -> None:
        """Be ready for the weights ``state``, which may be of another number of seen classes."""
        rows = {len(state[name]) for name in self._per_class if name in state}
        if len(rows) == 1:
            shapes = {name: [*rows, *getattr(self, name).shape[1:]] for name in self._per_class}
            self._hold({name: np.zeros(shape) for name, shape in shapes.items()})

    def _hold(self, values: Mapping[str, np.ndarray]) -> None:
        for name, value in values.items():
            self.register_buffer(name, paddle.to_tensor(value.astype(np.float32)))

    def _fitted(self, embeddings: np.ndarray, prototypes: np.ndarray) -> dict[str, np.ndarray]:
        """Buffers by name, from unit embeddings float64 [S, W] and prototypes float64 [S, D]."""
        raise NotImplementedError

    def prototypes(self, embeddings: Tensor) -> Tensor:
        """Prototypes [C, D] of classes with ``embeddings`` [C, W], none of norm zero."""
        raise NotImplementedError

    def last_prototypes(self, embeddings: Tensor, num_samples: int, start: int) -> Tensor:
        """Those without noise; ``num_samples`` has no influence."""
        return self.prototypes(embeddings[start:])

    def generate(self, embeddings: Tensor, noise: Tensor, share: Share) -> base.GeneratorOutput:
        """Generate features; the relations are e^0 alone."""
        relations = base.semantic_relations(embeddings)
        features = paddle.matmul(share.take(noise), self.spread, transpose_y=True)
        features += self.prototypes(share.take(embeddings)).unsqueeze(1)
        return base.GeneratorOutput(features, [relations])


class RidgeMap(NamedTuple):
    """p(a) = centre + (a − origin) weight, of unit embeddings a: [D], [W] and [W, D]."""
    centre: np.ndarray
    origin: np.ndarray
    weight: np.ndarray

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        return self.centre + (embeddings - self.origin) @ self.weight


def ridge_map(embeddings: np.ndarray, prototypes: np.ndarray, ridge: float) -> RidgeMap:
    """Fit ``RidgePrototypes`` to unit embeddings [S, W] and prototypes [S, D], in float64."""
    origin, centre = embeddings.mean(0), prototypes.mean(0)
    inputs, outputs = embeddings - origin, prototypes - centre
    classes, dim = inputs.shape
    if classes < dim:  # the same by the smaller system
        gram = inputs @ inputs.T + ridge * np.eye(classes)
        weight = inputs.T @ solve(gram, outputs, assume_a="pos")
    else:
        gram = inputs.T @ inputs + ridge * np.eye(dim)
        weight = solve(gram, inputs.T @ outputs, assume_a="pos")
    return RidgeMap(centre, origin, weight)


@register(manager.MODELS)
class RidgePrototypes(PrototypeGenerator):
    """Ridge regression from unit class embeddings to prototypes.

    p(a) = p̄ + (a − ā) B, where ā and p̄ are means over the seen classes, so that the intercept is
    not penalised, and B minimises Σ_s ‖p_s − p(a_s)‖² + ``ridge`` ‖B‖².

    Args:
        embed_dim (int): W.
        feature_dim (int): D.
        ridge (float): at least 1e-6; embeddings are scaled to length 1.
        num_classes (int, optional): unused; PaddleSeg injects it.
        in_channels (int): unused; PaddleSeg injects it.

    Raises:
        UserError: an argument is out of its range.
    """

    def __init__(self, embed_dim: int, feature_dim: int, ridge: float = RIDGE,
                 num_classes: int | None = None, in_channels: int = 3):
        self.ridge = _number("RidgePrototypes", "ridge", ridge)
        super().__init__(embed_dim, feature_dim)

    def _fitted(self, embeddings: np.ndarray, prototypes: np.ndarray) -> dict[str, np.ndarray]:
        return ridge_map(embeddings, prototypes, self.ridge)._asdict()

    def prototypes(self, embeddings: Tensor) -> Tensor:
        directions = F.normalize(embeddings)
        return self.centre + paddle.matmul(directions - self.origin, self.weight)


@register(manager.MODELS)
class ConvexPrototypes(PrototypeGenerator):
    """Mixtures of the seen prototypes: p(a) = Σ_s softmax_s(cos(a, a_s) / ``temperature``) p_s.

    Args:
        embed_dim (int): W.
        feature_dim (int): D.
        temperature (float): at least 1e-6; the smaller, the fewer classes take part.
        num_classes (int, optional): unused; PaddleSeg injects it.
        in_channels (int): unused; PaddleSeg injects it.

    Raises:
        UserError: an argument is out of its range.
    """

    _per_class = ("seen_embeddings", "seen_prototypes")

    def __init__(self, embed_dim: int, feature_dim: int, temperature: float = TEMPERATURE,
                 num_classes: int | None = None, in_channels: int = 3):
        self.temperature = _number("ConvexPrototypes", "temperature", temperature)
        super().__init__(embed_dim, feature_dim)

    def _fitted(self, embeddings: np.ndarray, prototypes: np.ndarray) -> dict[str, np.ndarray]:
        return {"seen_embeddings": embeddings, "seen_prototypes": prototypes}

    def prototypes(self, embeddings: Tensor) -> Tensor:
        cosines = paddle.matmul(F.normalize(embeddings), self.seen_embeddings, transpose_y=True)
        return paddle.matmul(F.softmax(cosines / self.temperature), self.seen_prototypes)


@register(manager.MODELS)
class MeanPrototypes(RidgePrototypes, ConvexPrototypes):
    """Half way between ``RidgePrototypes`` and ``ConvexPrototypes``, whose errors differ.

    Args:
        embed_dim (int): W.
        feature_dim (int): D.
        ridge (float), temperature (float): as theirs.
        num_classes (int, optional): unused; PaddleSeg injects it.
        in_channels (int): unused; PaddleSeg injects it.

    Raises:
        UserError: an argument is out of its range.
    """

    def __init__(self, embed_dim: int, feature_dim: int, ridge: float = RIDGE,
                 temperature: float = TEMPERATURE, num_classes: int | None = None,
                 in_channels: int = 3):
        self.ridge = _number("MeanPrototypes", "ridge", ridge)
        self.temperature = _number("MeanPrototypes", "temperature", temperature)
        PrototypeGenerator.__init__(self, embed_dim, feature_dim)

    def _fitted(self, embeddings: np.ndarray, prototypes: np.ndarray) -> dict[str, np.ndarray]:
        return {**RidgePrototypes._fitted(self, embeddings, prototypes),
                **ConvexPrototypes._fitted(self, embeddings, prototypes)}

    def prototypes(self, embeddings: Tensor) -> Tensor:
        return (RidgePrototypes.prototypes(self, embeddings)
                + ConvexPrototypes.prototypes(self, embeddings)) / 2


def _number(title: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= _LEAST:
        raise UserError(f"{title}: {name} must be a number of at least {_LEAST}, got {value!r}")
    return float(value)


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """float64 [S, W] of length 1; ``semantic_relations`` has the word for rows of zeros."""
    base.semantic_relations(paddle.to_tensor(np.asarray(embeddings, np.float32)))
    rows = np.asarray(embeddings, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
