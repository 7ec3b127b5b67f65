"""``seen_cost: auto``: the share at which seen classes that are left out score best."""

import itertools

import numpy as np
import pytest

from paddle_csrl.bank.feature_bank import FeatureBank
from paddle_csrl.run import Run
from paddle_csrl.stages import seen_cost
from paddle_csrl.stages.calibration import Calibration
from paddle_csrl.stages.seen_cost import COSTS, DEFAULT_COST, cost_of_left_out, settled
from paddle_csrl.utils import read_json

SEEN = 7


def scene(noise, seed=0, counts=(31, 23, 29, 37, 17, 19, 41), unseen=2):
    """Features around a linear map of the embeddings, which predicts classes left out.

    No share of them is one of ``COSTS`` exactly, where rounding would decide.
    """
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(len(counts) + unseen, 3)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    means = embeddings @ rng.normal(size=(3, 4)) * 3
    rows = [mean + noise * rng.normal(size=(count, 4)) for mean, count in zip(means, counts)]
    counts = np.array([*counts, *[0] * unseen])
    pixels = counts * rng.integers(1, 50, len(counts))
    return FeatureBank(np.concatenate(rows).astype(np.float32), counts, pixels), embeddings


def ridge(embeddings, prototypes, wanted, penalty=0.1):
    """Ridge regression by least squares on rows added for the penalty."""
    origin, centre = embeddings.mean(0), prototypes.mean(0)
    inputs = np.concatenate([embeddings - origin, np.sqrt(penalty) * np.eye(embeddings.shape[1])])
    outputs = np.concatenate([prototypes - centre,
                              np.zeros((embeddings.shape[1], prototypes.shape[1]))])
    return centre + (wanted - origin) @ np.linalg.lstsq(inputs, outputs, rcond=None)[0]


def hious_by_hand(bank, embeddings, left_out):
    """hIoU at every cost, pixel by pixel and class by class."""
    rows = [bank.of(c).astype(np.float64) for c in range(SEEN)]
    means = np.array([own.mean(0) for own in rows])
    covariance = np.mean([np.cov(own.T) for own in rows], axis=0)
    covariance += 0.1 * np.trace(covariance) / 4 * np.eye(4)
    kept = [c for c in range(SEEN) if c not in left_out]
    made = means.copy()
    made[left_out] = ridge(embeddings[kept].astype(np.float64), means[kept], embeddings[left_out])
    inverse = np.linalg.inv(covariance)

    def log_density(x, c):
        return -0.5 * (x - made[c]) @ inverse @ (x - made[c])

    pixels = []  # class, margin, best class of those kept, best of those left out, weight
    for c, own in enumerate(rows):
        for x in own:
            best, other = (max(ids, key=lambda k: log_density(x, k)) for ids in (kept, left_out))
            pixels.append((c, log_density(x, best) - log_density(x, other), best, other,
                           bank.pixel_counts[c] / len(own)))
    result = []
    for cost in COSTS:
        order = sorted((margin, 1 / len(rows[c]) / len(kept)) for c, margin, *_ in pixels
                       if c in kept)
        lost = list(itertools.accumulate(share for _, share in order))
        limit = order[min(int(np.searchsorted(lost, cost)), len(order) - 1)][0]
        hits, truth, said = np.zeros((3, SEEN))
        for c, margin, best, other, weight in pixels:
            predicted = other if margin < limit else best
            hits[c] += weight * (predicted == c)
            truth[c] += weight
            said[predicted] += weight
        iou = hits / (truth + said - hits)
        seen, unseen = iou[kept].mean(), iou[left_out].mean()
        result.append(2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0)
    return np.array(result)


@pytest.mark.parametrize("noise", [0.5, 1.5])
def test_it_is_the_one_of_scores_counted_by_hand(noise, monkeypatch):
    monkeypatch.setattr(seen_cost, "_FOLDS", 3)
    bank, embeddings = scene(noise)
    rng = np.random.default_rng(0)
    folds = [sorted(rng.choice(SEEN, 2, replace=False)) for _ in range(3)]
    scores = np.array([hious_by_hand(bank, embeddings, fold) for fold in folds])
    relative = (scores / scores.max(1, keepdims=True)).mean(0)
    found = COSTS.index(cost_of_left_out(bank, embeddings, 2))
    assert relative[found] == pytest.approx(relative.max(), abs=1e-3)
    assert relative.max() > relative.min() + 0.1  # so that it could have been another


def test_classes_that_are_told_apart_are_cheap():
    costs = [cost_of_left_out(*scene(noise), 2) for noise in (0.2, 1.0, 3.0)]
    assert costs == sorted(costs) and costs[0] < 0.05 < costs[-1]


def test_nothing_of_an_unseen_class_has_an_influence():
    bank, embeddings = scene(1.0)
    changed = embeddings.copy()
    changed[SEEN:] = 9.0
    assert cost_of_left_out(bank, changed, 2) == cost_of_left_out(bank, embeddings, 2)


def test_lengths_of_embeddings_do_not_matter():
    bank, embeddings = scene(1.0)
    lengths = np.linspace(0.5, 4, len(embeddings))[:, None]
    assert cost_of_left_out(bank, (embeddings * lengths).astype(np.float32), 2) == \
        cost_of_left_out(bank, embeddings, 2)


def test_more_unseen_classes_than_could_be_left_out():
    bank, embeddings = scene(1.0, unseen=9)
    assert cost_of_left_out(bank, embeddings, 9) == cost_of_left_out(bank, embeddings, 2)


@pytest.mark.parametrize("counts", [(30,), (30, 30), (1, 1, 1, 1), (1, 1)])
def test_where_nothing_can_be_left_out(counts):
    """Fewer than three seen classes, or features without any spread within a class."""
    bank, embeddings = scene(1.0, counts=counts)
    assert cost_of_left_out(bank, embeddings, 1) == DEFAULT_COST


def test_a_class_with_one_feature_takes_part():
    bank, embeddings = scene(1.0, counts=(30, 30, 1, 30, 1, 30))
    assert cost_of_left_out(bank, embeddings, 2) in COSTS


def test_what_the_config_says_is_kept():
    for calibration in (Calibration(1.5), Calibration(0.3, is_cost=True)):
        assert settled(calibration, *scene(1.0), 2) is calibration


def test_a_run_writes_down_what_it_found(finished, tmp_path):
    run = finished("shapes").copy(tmp_path / "run")
    run.again("classifier.calibration=auto", "classifier.seen_cost=auto")
    record, context = read_json(run.path("calibration.json")), Run.open(run.folder).context
    assert record["seen_cost"] == cost_of_left_out(
        context.bank, context.embeddings, len(context.classes.unseen_ids))
    assert Run.open(run.folder).calibration == record["calibration"]
    run.again("classifier.calibration=auto", f"classifier.seen_cost={record['seen_cost']}")
    assert read_json(run.path("calibration.json")) == record

