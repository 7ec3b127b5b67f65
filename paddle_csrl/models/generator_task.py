"""The model of stage 2: a generator with its objective."""

from functools import cached_property

import numpy as np
import paddle
from paddle import nn

from paddle_csrl.losses import prototype_relations, standardize_rows
from paddle_csrl.models.convex_hull import project_to_hull
from paddle_csrl.parallel import Share


class GeneratorTask(nn.Layer):
    """A feature generator together with what its losses compare (L = L_point + L_pair + L_list).

    Letters: C classes, of them S seen and U unseen; N generated and M real samples per class;
    D feature channels; d_w embedding dimensions.

    Args:
        generator (nn.Layer): maps embeddings [C, d_w] to ``features`` [C, N, D] and
            ``relations``, the list e⁰ … e^L of [C, C].
        embeddings (float32 array [C, d_w]): class embeddings.
        prototypes (float32 array [S, D]): mean real feature of each seen class.
        seen_ids (sequence of int): ids of the seen classes, in the order of ``prototypes``.
        unseen_ids (sequence of int): ids of the unseen classes.
        num_samples (int): N.
        relation (str): ``edges``, the learned relations e^L against e⁰ as the paper prints
            them; or ``prototypes``, the centred cosines between generated unseen and real seen
            prototypes against those between the embeddings, both with rows z-scored.
        relation_warmup (int): iterations over which the losses on unseen classes grow linearly
            to their full weight, so that the generator first learns what a feature is.
        unseen_prototypes (str): ``free``, or ``hull``: after training the features of an unseen
            class are moved, all by one vector, so that their mean lies at the convex hull of the
            seen prototypes.
        outside_hull (float): with ``hull``, how much of its distance to the hull the mean keeps,
            in [0, 1]: 0 for none, so that it lies in the hull.

    Attributes:
        share (Share): the classes for which this process trains; all by default. What is
            trained is the sum over the processes of the terms that each computes.
    """

    def __init__(self, generator: nn.Layer, embeddings: np.ndarray, prototypes: np.ndarray,
                 seen_ids: np.ndarray, unseen_ids: np.ndarray, num_samples: int,
                 relation: str = "prototypes", relation_warmup: int = 0,
                 unseen_prototypes: str = "free", outside_hull: float = 0.0):
        super().__init__()
        self.generator = generator
        self.relation, self.num_samples = relation, num_samples
        self.relation_warmup = relation_warmup
        self.unseen_prototypes, self.outside_hull = unseen_prototypes, outside_hull
        self.seen_ids, self.unseen_ids = seen_ids, unseen_ids
        self.num_seen, self.num_unseen = len(seen_ids), len(unseen_ids)
        # The order of classes means nothing to the generator; with the seen ones first, their
        # features are one block, which is cheaper to cut out than scattered rows.
        ordered = embeddings[np.concatenate([seen_ids, unseen_ids]).astype(np.int64)]
        self.share = Share(len(ordered))
        self._edges: tuple[paddle.Tensor, paddle.Tensor] | None = None
        self.register_buffer("embeddings", paddle.to_tensor(ordered), persistable=False)
        self.register_buffer("prototypes", paddle.to_tensor(prototypes), persistable=False)
        self.register_buffer("step", paddle.zeros([1], "int64"))

    def forward(self, real: paddle.Tensor | None = None) -> list[paddle.Tensor]:
        """Generate for all classes; ``real`` [1, S, M, D] only serves the losses.

        Returns:
            [seen features [S, N, D], unseen features [U, N, D], e⁰, …, e^L], a plain list as
            of a model of PaddleSeg. The rows of e are the seen, then the unseen classes.
            When trained by several processes, seen features are those of the share, and unseen
            ones their means, [U, 1, D].
        """
        if self._is_shared and real is not None:
            output = self.generator(self.embeddings, self.num_samples, share=self.share)
            means = self.share.complete(output.features.mean(1, keepdim=True))
            own = len(self.share.before(self.num_seen))
            others = len(self.share.rows) - own
            # Split, because the gradient of a slice takes Paddle five times as long on CPU.
            seen = output.features.split([own, others])[0] if others else output.features
            return [seen, means[self.num_seen:], *output.relations]
        output = self.generator(self.embeddings, self.num_samples)
        seen, unseen = output.features.split([self.num_seen, self.num_unseen])
        return [seen, unseen, *output.relations]

    def generate(self, num_samples: int) -> paddle.Tensor:
        """Features of the seen, then of the unseen classes, [S + U, num_samples, D]."""
        features = self.generator(self.embeddings, num_samples).features
        seen, unseen = features.split([self.num_seen, self.num_unseen])
        return paddle.concat([seen, self._placed(unseen)])

    def generate_unseen(self, num_samples: int) -> paddle.Tensor:
        """Features of the unseen classes alone, [U, num_samples, D]."""
        return self._placed(
            self.generator.last_features(self.embeddings, num_samples, self.num_seen))

    def prototypes_of_unseen(self, num_samples: int) -> paddle.Tensor:
        """Means [U, D] of what ``generate_unseen`` generates, or what is there without noise."""
        means = self.generator.last_prototypes(self.embeddings, num_samples, self.num_seen)
        return self._placed(means.unsqueeze(1)).squeeze(1)

    def _placed(self, features: paddle.Tensor) -> paddle.Tensor:
        """Features of the unseen classes with their means where ``unseen_prototypes`` says."""
        if self.unseen_prototypes == "free" or not self.num_unseen:
            return features
        means = features.astype("float32").mean(1).numpy()
        nearest, _ = project_to_hull(means, self.prototypes.numpy())
        shift = (1 - self.outside_hull) * (nearest - means)
        shift = paddle.to_tensor(shift).astype(features.dtype)
        return features + shift.unsqueeze(1)

    @property
    def _is_shared(self) -> bool:
        return self.training and self.share.ranks > 1

    def loss_computation(self, logits_list: list[paddle.Tensor], losses: dict,
                         data: dict[str, paddle.Tensor]) -> list[paddle.Tensor]:
        """Every loss of ``losses`` times its coefficient; the training loop adds them up.

        Args:
            logits_list: what ``forward`` returned.
            losses (dict): ``types`` and ``coef``; each type says with ``consumes`` which pair
                it compares: ``features``, ``relations`` or ``prototypes``.
            data (dict): ``img`` float32 [1, S, M, D], real features; ``label`` int64 [1, S],
                how many of the M are valid for each class, best an array: reading a tensor
                waits for the device.
        """
        with paddle.amp.auto_cast(enable=False):
            return self._terms(logits_list, losses, data)

    def _terms(self, logits_list: list[paddle.Tensor], losses: dict,
               data: dict[str, paddle.Tensor]) -> list[paddle.Tensor]:
        seen, unseen, *relations = logits_list
        unseen_prototypes = unseen.astype("float32").mean(1)
        share = self.share if self._is_shared else Share(len(self.embeddings))
        rows = (share.before(self.num_seen),) if self._is_shared else ()
        pairs = {
            "features": (seen, data["img"][0], data["label"][0], *rows),
            "relations": self.compared_relations(unseen_prototypes, relations),
            "prototypes": (unseen_prototypes, self.prototypes),
        }
        if self.training:
            self.step += 1
        # On the device, for reading the step would wait for it.
        weight = (self.step[0].astype("float32") / max(self.relation_warmup, 1)).clip(max=1.0)
        # Features are compared by the share; the rest, which is little, by every process alike.
        parts = {"features": 1.0, **dict.fromkeys(("relations", "prototypes"),
                                                  weight / share.ranks)}
        return [coef * parts[loss.consumes] * loss(*pairs[loss.consumes])
                for loss, coef in zip(losses["types"], losses["coef"])]

    def compared_relations(self, unseen_prototypes: paddle.Tensor,
                           relations: list[paddle.Tensor]) -> tuple:
        """The generated and the semantic relations [U, S] that the relation losses compare."""
        if self.relation == "edges":
            return relations[-1][self.num_seen:, :self.num_seen], self._kept(relations[0])
        return (standardize_rows(prototype_relations(unseen_prototypes, self.prototypes)),
                self.semantic_relations)

    def _kept(self, edges: paddle.Tensor) -> paddle.Tensor:
        """The relations of unseen to seen classes: for the same ``edges`` the same tensor."""
        if self._edges is None or self._edges[0] is not edges:
            self._edges = edges, edges[self.num_seen:, :self.num_seen]
        return self._edges[1]

    @cached_property
    def semantic_relations(self) -> paddle.Tensor:
        """Z-scored centred cosines [U, S] between unseen and seen embeddings."""
        seen, unseen = self.embeddings.split([self.num_seen, self.num_unseen])
        return standardize_rows(prototype_relations(unseen, seen))
