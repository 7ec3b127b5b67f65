"""The objective of stage 2: which loss compares what, with which weight."""

import numpy as np
import paddle
import pytest
from paddle import nn

from helpers.relations import centred_cosines
from paddle_csrl import losses
from paddle_csrl.models.generator_task import GeneratorTask
from paddle_csrl.models.structural_generator import StructuralGenerator

C, W, D, N, M = 6, 5, 8, 4, 7
SEEN, UNSEEN = np.array([0, 2, 3, 5]), np.array([1, 4])
ALL_LOSSES = [losses.MMDLoss, losses.PairwiseRelationLoss, losses.ListwiseRelationLoss,
              losses.PrototypeNormLoss]


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return {"embeddings": rng.normal(size=(C, W)).astype(np.float32),
            "prototypes": rng.normal(1.0, 1.0, (len(SEEN), D)).astype(np.float32),
            "real": rng.normal(size=(len(SEEN), M, D)).astype(np.float32)}


def make_task(data, seen=SEEN, unseen=UNSEEN, prototypes=None, **options):
    paddle.seed(0)
    generator = StructuralGenerator(W, D, noise_dim=3, num_layers=2, hidden_dim=6, dropout=0.0)
    prototypes = data["prototypes"] if prototypes is None else prototypes
    return GeneratorTask(generator, data["embeddings"], prototypes, seen, unseen, N, **options)


def batch(data, real=None):
    real = data["real"] if real is None else real
    return {"img": paddle.to_tensor(real[None]),
            "label": paddle.to_tensor(np.full((1, len(real)), M, np.int64))}


class Recorder(nn.Layer):
    """A loss that keeps what it was given and is worth ``value``."""

    def __init__(self, consumes, value=1.0):
        super().__init__()
        self.consumes, self.value, self.given = consumes, value, None

    def forward(self, *given):
        self.given = given
        return given[0].sum() * 0 + self.value


def compute(task, data, *types, coef=None):
    section = {"types": list(types), "coef": coef or [1.0] * len(types)}
    return task.loss_computation(task(), section, batch(data))


def compared(task, data, consumes):
    """What the task generates, and what a loss of it is given."""
    outputs, recorder = task(), Recorder(consumes)
    task.loss_computation(outputs, {"types": [recorder], "coef": [1.0]}, batch(data))
    return outputs, recorder.given


def test_outputs_are_the_seen_then_the_unseen_features_then_the_relations(data):
    seen, unseen, *relations = make_task(data)()
    assert seen.shape == [4, N, D] and unseen.shape == [2, N, D]
    assert [edge.shape for edge in relations] == [[C, C]] * 3


def test_the_first_relations_are_cosines_in_the_order_seen_unseen(data):
    rows = data["embeddings"][np.concatenate([SEEN, UNSEEN])]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(make_task(data)()[2].numpy(), rows @ rows.T, atol=1e-6)


def test_the_point_loss_compares_seen_features_with_real_ones(data):
    outputs, (generated, real, counts) = compared(make_task(data), data, "features")
    assert np.array_equal(generated.numpy(), outputs[0].numpy())
    assert np.array_equal(real.numpy(), data["real"])
    assert counts.tolist() == [M] * 4


def test_edges_compares_the_last_with_the_first_edges(data):
    outputs, (visual, semantic) = compared(make_task(data, relation="edges"), data, "relations")
    assert np.array_equal(visual.numpy(), outputs[-1].numpy()[4:, :4])
    unit = data["embeddings"] / np.linalg.norm(data["embeddings"], axis=1, keepdims=True)
    np.testing.assert_allclose(semantic.numpy(), unit[UNSEEN] @ unit[SEEN].T, atol=1e-6)


def standardized(relations):
    """Each row less its mean, over its deviation."""
    return (relations - relations.mean(1, keepdims=True)) / relations.std(1, keepdims=True)


def test_prototypes_compares_standardized_centred_cosines(data):
    task = make_task(data, relation="prototypes")
    outputs, (visual, semantic) = compared(task, data, "relations")
    unseen = outputs[1].numpy().astype(np.float64).mean(1)
    np.testing.assert_allclose(visual.numpy(), standardized(centred_cosines(
        unseen, data["prototypes"].astype(np.float64))), atol=1e-4)
    embeddings = data["embeddings"].astype(np.float64)
    np.testing.assert_allclose(semantic.numpy(), standardized(centred_cosines(
        embeddings[UNSEEN], embeddings[SEEN])), atol=1e-4)


def test_the_norm_loss_gets_generated_and_real_prototypes(data):
    outputs, (generated, real) = compared(make_task(data), data, "prototypes")
    np.testing.assert_allclose(generated.numpy(), outputs[1].numpy().mean(1), atol=1e-6)
    assert np.array_equal(real.numpy(), data["prototypes"])


def test_losses_come_in_the_order_of_the_config_times_their_coefficients(data):
    task = make_task(data)
    terms = compute(task, data, Recorder("prototypes", 2.0), Recorder("features", 3.0),
                    Recorder("relations", 5.0), Recorder("features", 7.0),
                    coef=[1.0, 0.5, 0.1, 2.0])
    np.testing.assert_allclose([float(term) for term in terms], [2.0, 1.5, 0.5, 14.0])


def test_warmup_grows_linearly_and_spares_the_point_loss(data):
    task = make_task(data, relation_warmup=4)
    steps = [[float(term) for term in compute(task, data, Recorder("features"),
                                              Recorder("relations"), Recorder("prototypes"))]
             for _ in range(6)]
    np.testing.assert_allclose(steps, [[1, w, w] for w in (.25, .5, .75, 1, 1, 1)])


def test_without_warmup_the_weight_is_full_at_once(data):
    assert float(compute(make_task(data), data, Recorder("relations"))[0]) == 1.0


def test_evaluation_does_not_count_as_a_step(data):
    task = make_task(data, relation_warmup=4)
    compute(task, data, Recorder("relations"))
    task.eval()
    assert [float(compute(task, data, Recorder("relations"))[0]) for _ in range(3)] == [.25] * 3


def test_warmup_goes_on_from_a_checkpoint(data):
    first, second = (make_task(data, relation_warmup=4) for _ in range(2))
    for _ in range(2):
        compute(first, data, Recorder("relations"))
    second.set_state_dict(first.state_dict())
    assert float(compute(second, data, Recorder("relations"))[0]) == 0.75


def test_a_checkpoint_holds_the_generator_and_the_step_only(data):
    names = set(make_task(data).state_dict())
    assert "step" in names and not names & {"embeddings", "prototypes"}
    assert all(name == "step" or name.startswith("generator.") for name in names)


@pytest.mark.parametrize("relation", ["edges", "prototypes"])
@pytest.mark.parametrize("make_loss", ALL_LOSSES)
def test_every_loss_reaches_the_generator(data, relation, make_loss):
    task = make_task(data, relation=relation)
    term, = compute(task, data, make_loss())
    term.backward()
    norms = {name: float(np.abs(p.grad.numpy()).sum()) if p.grad is not None else 0.0
             for name, p in task.generator.named_parameters()}
    assert np.isfinite(list(norms.values())).all()
    assert sum(norm for name, norm in norms.items() if "feature_mlps" in name) > 0
    through_edges = relation == "edges" and make_loss().consumes == "relations"
    # Only the paper's printed form gives the last f_e a gradient.
    last = sum(norm for name, norm in norms.items() if "relation_mlps.1" in name)
    assert (last > 0) == through_edges


def run_losses(data, seen, unseen, relation):
    """Values with noise-free determinism: the generator is a fixed linear map of embeddings."""

    class Linear(nn.Layer):
        def forward(self, embeddings, num_samples):
            from paddle_csrl.models.feature_generator import GeneratorOutput, semantic_relations
            weight = paddle.to_tensor(np.random.default_rng(1).normal(
                size=(W, D)).astype(np.float32))
            spread = paddle.linspace(0.5, 1.5, num_samples).reshape([1, -1, 1])
            edges = semantic_relations(embeddings)
            features = (embeddings @ weight).unsqueeze(1) * spread
            return GeneratorOutput(features, [edges, edges * 0.5 + edges.square()])

    rows = [list(SEEN).index(c) for c in seen]
    task = GeneratorTask(Linear(), data["embeddings"], data["prototypes"][rows], seen, unseen, N,
                         relation)
    types = [make_loss() for make_loss in ALL_LOSSES]
    return [float(term) for term in task.loss_computation(
        task(), {"types": types, "coef": [1.0] * 4}, batch(data, data["real"][rows]))]


@pytest.mark.parametrize("relation", ["edges", "prototypes"])
def test_the_order_of_classes_does_not_matter(data, relation):
    straight = run_losses(data, SEEN, UNSEEN, relation)
    mixed = run_losses(data, np.array([3, 5, 0, 2]), np.array([4, 1]), relation)
    np.testing.assert_allclose(straight, mixed, rtol=1e-4, atol=1e-6)


def test_generated_unseen_features_are_those_of_the_unseen_classes(data):
    task = make_task(data)
    task.eval()
    ordered = paddle.to_tensor(data["embeddings"][np.concatenate([SEEN, UNSEEN])])
    paddle.seed(0)
    expected = task.generator(ordered, 9).features[4:]
    paddle.seed(0)
    found = task.generate_unseen(9)
    assert found.shape == [2, 9, D]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("place", ["free", "hull"])
def test_prototypes_of_unseen_classes_are_the_means_of_their_features(data, place):
    task = make_task(data, unseen_prototypes=place)
    paddle.seed(0)
    whole = task.generate(9).numpy()
    paddle.seed(0)
    found = task.prototypes_of_unseen(9).numpy()
    np.testing.assert_allclose(found, whole[len(SEEN):].mean(1), atol=1e-5)


def test_one_unseen_class_will_do(data):
    task = make_task(data, seen=np.arange(5), unseen=np.array([5]),
                     prototypes=np.ones((5, D), np.float32) * np.arange(5)[:, None])
    assert task()[1].shape == [1, N, D]
