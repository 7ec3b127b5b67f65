"""The search: every draw on every fold and seed, the best of them, and the file that says so."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from paddleseg.utils import logger
from prettytable import PrettyTable

from paddle_csrl.config import read_settings
from paddle_csrl.config.schema import Settings
from paddle_csrl.errors import UserError
from paddle_csrl.stages import seen_cost
from paddle_csrl.stages.calibration import Calibration
from paddle_csrl.stages.classifier import CLOSED_FORM, check_classifier
from paddle_csrl.stages.closed_form import require_bias
from paddle_csrl.stages.generator import check_generator
from paddle_csrl.tuning.bank_trial import SCORES, bank_trial, make_fold
from paddle_csrl.tuning.folds import draw_folds
from paddle_csrl.tuning.seen_classes import SeenClasses
from paddle_csrl.tuning.space import Space
from paddle_csrl.utils import progress, read_json, write_json, write_text
from paddle_csrl.utils.provenance import versions
from paddle_csrl.utils.yaml_files import dump_yaml

HIOU = SCORES.index("hiou")
# Of a config; nothing in it leads to the data or says which classes are unseen.
_KEPT = ("generator", "classifier", "model", "loss", "optimizer", "lr_scheduler", "iters",
         "batch_size")
#: Changed when the same settings would score otherwise, which makes recorded scores out of date.
_FORMAT = "0.1.0"
#: How many settings the summary shows.
NUM_SHOWN = 5


@dataclass(frozen=True)
class Budget:
    """The size of a search, the same for every method.

    Attributes:
        trials (int): generator settings.
        classifiers (int): classifier settings per generator.
        folds (int): groups of classes held out in turn.
        seeds (int): seeds per fold.
        finalists (int): how many trials, the best by their best setting, go on to more seeds;
            0 for none.
        final_seeds (int): further seeds for these.

    Raises:
        UserError: one is less than 1, or finalists less than 0.
    """
    trials: int = 12
    classifiers: int = 4
    folds: int = 3
    seeds: int = 1
    finalists: int = 0
    final_seeds: int = 2

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name == "finalists" else 1
            if value < least:
                raise UserError(f"--{_FLAGS.get(name, name)} {value} must be at least {least}")


_FLAGS = {"trials": "budget", "classifiers": "classifier_draws"}


class Setting(NamedTuple):
    """One point of the space: indices of a draw, of a layer and of a calibration."""
    trial: int
    classifier: int
    calibration: int


class Search:
    """A search for the settings of one method.

    Args:
        seen: the seen classes, all that the search knows of the data.
        space: of the method.
        dic: the content of the config to tune.
        budget: how much is tried.
        seed: of folds, splits and draws; trials use the seeds from 0 on.
        record: path of the JSON with every trial, from which an interrupted search goes on.

    Raises:
        UserError: a setting that will be tried cannot be built, or the folds cannot be made.
    """

    def __init__(self, seen: SeenClasses, space: Space, dic: dict[str, Any], budget: Budget,
                 seed: int, record: str):
        self.seen, self.space, self.budget, self.seed = seen, space, budget, seed
        dic = {**{key: dic[key] for key in _KEPT}, "train_dataset": {"type": "Dataset"},
               "val_dataset": {"type": "Dataset"}, "zero_shot": {"unseen": []}}
        self.original, self.start = dic, space.start(dic)
        self.record = record
        self.held_out = draw_folds(seen, budget.folds, seed)
        self.draws = space.draws(self.start, budget.trials, budget.classifiers, seed)
        trained, wanted = (sum(len(draw.classifiers) for draw in self.draws),
                           budget.trials * budget.classifiers)
        if trained < wanted:
            logger.warning(f"[tune] {space.path} has {trained} settings for {space.method}, fewer "
                           f"than the {wanted} of --budget and --classifier_draws; a method that "
                           f"is compared with it should get no more")
        self._sections = [
            (space.settings(self.start, draw.generator)["generator"],
             [space.settings(self.start, item)["classifier"] for item in draw.classifiers])
            for draw in self.draws]
        self._typed = [
            (self._settings(draw.generator).section("generator"),
             [self._settings(item).section("classifier") for item in draw.classifiers])
            for draw in self.draws]
        own = Calibration.of(self._settings({}).section("classifier"))
        self.calibrations = sorted({*space.calibrations, own})
        self.as_it_stands = Setting(0, 0, self.calibrations.index(own))
        self._digest = seen.digest()
        content = read_json(record)
        content = content.get("scores") if isinstance(content, dict) else None
        self._known: dict[str, Any] = content if isinstance(content, dict) else {}
        self._check_draws()

    def _settings(self, overrides: dict[str, Any]) -> Settings:
        return read_settings(self.space.settings(self.start, overrides), self.space.path)

    def run(self) -> dict[str, Any]:
        """Run what has not been run, choose, and record everything.

        Returns:
            what ``summary`` returns.
        """
        seeds = range(self.budget.seeds)
        ranking = self._rank(range(len(self.draws)), seeds)
        if self.budget.finalists:
            trials = list(dict.fromkeys(setting.trial for setting in ranking))
            seeds = range(self.budget.seeds + self.budget.final_seeds)
            ranking = self._rank(trials[:self.budget.finalists], seeds)
        summary = self.summary(ranking, seeds)
        write_json(self.record, {**summary, "scores": self._known})
        return summary

    def _rank(self, trials: Sequence[int], seeds: Sequence[int]) -> list[Setting]:
        """All points of these trials, the best mean first and the first of equals before others."""
        self._run(trials, seeds)
        return sorted(self.settings(trials), reverse=True,
                      key=lambda setting: self.scores(setting, seeds)[:, :, HIOU].mean())

    def settings(self, trials: Sequence[int]) -> list[Setting]:
        """All points of these trials."""
        return [Setting(trial, classifier, calibration) for trial in trials
                for classifier in range(len(self.draws[trial].classifiers))
                for calibration in range(len(self.calibrations))]

    def scores(self, setting: Setting, seeds: Sequence[int]) -> np.ndarray:
        """float64 [folds, seeds, 3]: ``SCORES`` of one point."""
        return np.array([[self._known[self._key(setting.trial, fold, seed)]
                          [setting.classifier][setting.calibration] for seed in seeds]
                         for fold in range(len(self.held_out))])

    def content(self, setting: Setting) -> dict[str, Any]:
        """The sections ``generator`` and ``classifier`` of one point."""
        draw = self.draws[setting.trial]
        return self.space.settings(
            self.start, draw.generator, draw.classifiers[setting.classifier],
            self.calibrations[setting.calibration].settings)

    def summary(self, ranking: Sequence[Setting], seeds: Sequence[int]) -> dict[str, Any]:
        """The report of the search: the settings in order of their score, best first."""
        return {
            "method": self.space.method,
            "budget": {**asdict(self.budget), "calibrations": len(self.calibrations),
                       "settings": len(self.settings(range(len(self.draws))))},
            "seed": self.seed,
            "folds": [[self.seen.names[c] for c in group] for group in self.held_out],
            "chosen": self.space.chosen(self.original, self.content(ranking[0])),
            "as_it_stands": self._describe(self.as_it_stands, range(self.budget.seeds)),
            "ranking": [self._describe(setting, seeds) for setting in ranking],
            "versions": versions(),
        }

    def _describe(self, setting: Setting, seeds: Sequence[int]) -> dict[str, Any]:
        scores, draw = self.scores(setting, seeds).mean(1), self.draws[setting.trial]
        return {
            "trial": setting.trial, **dict(zip(SCORES, scores.mean(0).tolist())),
            "spread": float(scores[:, HIOU].std()), "hiou_by_fold": scores[:, HIOU].tolist(),
            "seeds": len(seeds), "overrides": {
                **draw.generator, **draw.classifiers[setting.classifier],
                **self.calibrations[setting.calibration].settings}}

    def _run(self, trials: Sequence[int], seeds: Sequence[int]) -> None:
        missing = [(fold, trial, seed) for fold in range(len(self.held_out)) for trial in trials
                   for seed in seeds if self._key(trial, fold, seed) not in self._known]
        total = len(self.held_out) * len(trials) * len(seeds)
        if len(missing) < total:
            logger.info(f"[tune] {total - len(missing)} of {total} trainings are in {self.record}")
        waiting = progress(missing, f"tune {self.space.method}")
        for fold, group in itertools.groupby(waiting, itemgetter(0)):
            data = make_fold(self.seen, self.held_out[fold], self.seed)  # one's at a time: memory
            for _, trial, seed in group:
                generator, classifiers = self._typed[trial]
                scores = bank_trial(data, generator, classifiers, self.calibrations, seed)
                self._known[self._key(trial, fold, seed)] = scores.tolist()
                write_json(self.record, {"scores": self._known})

    def _key(self, trial: int, fold: int, seed: int) -> str:
        """Hash of all that one training's scores depend on."""
        inputs = {"paddle_csrl": _FORMAT, "data": self._digest,
                  "held_out": self.held_out[fold].tolist(), "split": self.seed, "seed": seed,
                  "sections": self._sections[trial],
                  "calibrations": self.calibrations}
        if any(calibration.is_open for calibration in self.calibrations):
            inputs["seen_cost"] = seen_cost.ALGORITHM
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]

    def _check_draws(self) -> None:
        """Build what every draw names, so that a mistake shows before hours have passed."""
        held_out = self.held_out[0]
        seen_ids = np.setdiff1d(np.arange(len(self.seen.names)), held_out)
        for generator, classifiers in self._typed:
            check_generator(generator, self.seen.embeddings, seen_ids, held_out)
            for classifier in classifiers:
                check_classifier(classifier, len(self.seen.names))
                if classifier.mode == CLOSED_FORM:
                    require_bias(self.seen.has_bias)


def table(summary: dict[str, Any]) -> str:
    """The best settings and the config as it stands, in percent, as text."""
    rows = PrettyTable(["", "trial", "seen", "held out", "hIoU", "spread"], align="r")
    best = summary["ranking"][:NUM_SHOWN]
    for name, row in [*enumerate(best, 1), ("as it stands", summary["as_it_stands"])]:
        rows.add_row([name, row["trial"],
                      *(f"{100 * row[key]:.2f}" for key in (*SCORES, "spread"))])
    settings = [f"{place}: " + ", ".join(f"{key}={value}"
                                         for key, value in row["overrides"].items())
                for place, row in enumerate(best, 1)]
    return "\n".join([str(rows), *settings])


def write_settings(path: str, summary: dict[str, Any], config: str) -> None:
    """Write what was chosen as YAML for ``_base_``, with a comment that says how.

    Args:
        path: the file.
        summary: what ``Search.run`` returned.
        config: name of the config that was tuned.
    """
    best, start, budget = summary["ranking"][0], summary["as_it_stands"], summary["budget"]
    folds = ", ".join(f"{100 * value:.2f}" for value in best["hiou_by_fold"])
    final = (f"; then the best {budget['finalists']} trials with {budget['final_seeds']} more "
             f"seeds" if budget["finalists"] else "")
    lines = [
        f"Chosen by tools/tune.py for {config}, method {summary['method']}, on seen classes held",
        "out at the feature bank; the unseen classes took no part (docs/tuning.md).",
        f"hIoU on them: {100 * best['hiou']:.2f} ± {100 * best['spread']:.2f} over "
        f"{len(best['hiou_by_fold'])} folds ({folds}), the best of {budget['settings']}",
        f"settings; the config as it stands: {100 * start['hiou']:.2f} ± "
        f"{100 * start['spread']:.2f}.",
        f"Budget: {budget['trials']} generators x {budget['classifiers']} classifiers x "
        f"{budget['calibrations']} calibrations, {budget['folds']} folds of "
        f"{len(summary['folds'][0])}, {budget['seeds']} seed(s), draws of seed "
        f"{summary['seed']}{final}.",
        "Held out: " + " | ".join(", ".join(names) for names in summary["folds"]) + ".",
        ", ".join(f"{name} {version}" for name, version in summary["versions"].items()) + "."]
    write_text(path, "".join(f"# {line}\n" for line in lines) + dump_yaml(summary["chosen"]))
