"""Unseen classes that were named when the weights of a run were trained: what it already knew.

A class was named by a label of ImageNet-1k if its name is a word of that label, or of what is above
it in WordNet 3.0: ``cow`` by ``ox``, which is below ``cattle, cows, kine``. Case, blanks, ``-`` and
``_`` do not count, and singular and plural are alike. A joined name has to be a word as a whole.
Words have more than one meaning, and WordNet's words are taken for all of them: ``plant`` is found
by way of the industrial plant above ``lumbermill``. What is found is therefore shown by its labels;
a class that is not found may yet have been in the pictures.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from paddle_csrl.builder import pretrained_in
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets.class_names import CLASS_NAMES, SYNONYMS, fold_name
from paddle_csrl.embeddings.resolve import ALIASES, FILLERS
from paddle_csrl.errors import UserError
from paddle_csrl.models.named_weights import RELEASES
from paddle_csrl.models.trained_labels import IMAGENET, LabelSet, labels_of
from paddle_csrl.utils.io import asset

#: In place of labels.
UNKNOWN = "unknown"

# Words for more labels than these, such as those for mammals or artefacts, tell of a class of that
# very name alone, not of one that is merely looked up under such a word.
_GENERAL = 200
# What ImageNet calls classes for which WordNet lacks the word, or has another one below or beside.
_ALSO = {"fridge": "refrigerator", "handbag": "purse", "lorry": "truck", "pottedplant": "flowerpot",
         "railing": "handrail", "rooster": "cock", "sink": "washbasin", "sportsball": "ball",
         "stopsign": "street sign", "tennisracket": "racket", "toilet": "toilet seat",
         "trafficsign": "street sign", "wallstone": "stone wall"}
_INFLECTIONS = ((r"$", "s"), (r"$", "es"), (r"y$", "ies"), (r"fe?$", "ves"),
                (r"(?<=..)ies$", "y"), (r"(?<=..)ves$", "f"), (r"(?<=..)ves$", "fe"),
                (r"([sxz]|ch|sh)es$", r"\1"), (r"(?<=..)(?<!s)s$", ""))


class Weights(NamedTuple):
    """Weights that a run starts from.

    Attributes:
        key (str): where the config names them, dotted.
        path (str): their name, address or file.
        labels (tuple[LabelSet, ...], optional): what they were trained with; None: unknown.
        named (dict[str, str]): unseen class → labels that named it.
    """

    key: str
    path: str
    labels: tuple[LabelSet, ...] | None
    named: dict[str, str]


class Pretraining(NamedTuple):
    """All ``weights`` that a run starts from; from scratch, none."""

    weights: tuple[Weights, ...] = ()

    @property
    def labels(self) -> list[str]:
        """The labels of all weights, among them ``UNKNOWN`` for those of which nothing tells."""
        return list(dict.fromkeys(title for item in self.weights for title in (
            map(str, item.labels) if item.labels is not None else (UNKNOWN,))))

    @property
    def named(self) -> dict[str, str]:
        """Unseen class → labels that named it."""
        return {name: labels for item in self.weights for name, labels in item.named.items()}

    @property
    def remark(self) -> str:
        """The remark beside scores; empty where nothing was named."""
        return ", ".join(["unseen classes NAMED in pretraining"] * bool(self.named)
                         + ["pretraining unknown"] * (UNKNOWN in self.labels))

    def describe(self) -> dict[str, Any]:
        """Return ``labels`` and ``named`` for JSON."""
        return {"labels": self.labels, "named": self.named}

    def warnings(self) -> list[tuple[str, str]]:
        """Tell which classes were named, and of which weights that is unknown, with a hint."""
        found = [f"unseen classes were named in pretraining: {shown(self.named)}"] \
            if self.named else []
        found += [f"nothing tells which labels the weights of `{item.key}: {item.path}` were "
                  f"trained with" for item in self.weights if item.labels is None]
        return [(text, "say so beside the scores, or refuse such weights by "
                       "zero_shot.pretraining=forbid") for text in found]

    def require_allowed(self, config: ZeroShotConfig) -> None:
        """Raise ``UserError`` for weights that ``zero_shot.pretraining`` forbids."""
        if config.settings.zero_shot.pretraining == "allow":
            return
        for item in self.weights:
            reason = (f"were trained with labels of unseen classes: {shown(item.named)}"
                      if item.named else f"were trained with {UNKNOWN} labels"
                      if item.labels is None else "")
            if reason:
                raise UserError(f"`zero_shot.pretraining: forbid`: the weights of `{item.key}: "
                                f"{item.path}` {reason}; name others, such as ZS3Net's "
                                f"(tools/convert_zs3.py --without), null, or allow it")


def pretraining_of(config: ZeroShotConfig, unseen: Sequence[str],
                   model_path: str | None = None) -> Pretraining:
    """Find out which of the ``unseen`` classes, by name, were named in a config's pretraining.

    Args:
        model_path (str, optional): weights to be scored. If they are known, they speak for
            themselves, whatever the config would start from.
    """
    sources = weights_in(config)
    if "segmentor_weights" in sources:  # in place of all that `model` starts from
        sources = {"segmentor_weights": sources["segmentor_weights"]}
    if model_path and labels_of(model_path):
        sources = {"--model_path": model_path}
    words = config.settings.zero_shot.embeddings.words
    found = []
    for key, path in sources.items():
        labels = (LabelSet(IMAGENET),) if path in RELEASES else labels_of(path)
        named = {name: named_by(name, labels, words.get(name)) for name in unseen} if labels else {}
        found.append(Weights(key, path, labels, {name: told for name, told in named.items()
                                                 if told}))
    return Pretraining(tuple(found))


def weights_in(config: ZeroShotConfig) -> dict[str, str]:
    """Return the weights that a config names, by their dotted keys."""
    found = {**pretrained_in(config.given["model"]),
             "segmentor_weights": config.settings.segmentor_weights}
    return {key: path for key, path in found.items() if path}


def recorded(content: Any) -> dict[str, Any] | None:
    """Return what ``Pretraining.describe`` left in a record of scores; None where it has none."""
    told = content.get("pretraining") if isinstance(content, dict) else None
    if not isinstance(told, dict) or not isinstance(told.get("labels"), list) \
            or not isinstance(told.get("named"), dict):
        return None
    return told


def summary(described: Mapping[str, Any]) -> str:
    """Say in words what ``Pretraining.describe`` returned."""
    labels, named = described["labels"], described["named"]
    if not labels:
        return "none"
    found = shown(named) or ("" if UNKNOWN in labels else "no unseen class")
    return ", ".join(map(str, labels)) + (f", which named {found}" if found else "")


def shown(named: Mapping[str, str]) -> str:
    """Return classes and their labels in words: ``cow (ox), dog (Chihuahua and 117 more)``."""
    return ", ".join(f"{name} ({labels})" for name, labels in named.items())


def named_by(name: str, label_sets: Iterable[LabelSet], words: str | None = None) -> str:
    """Tell by which labels a class was named; empty if by none.

    Args:
        name (str): the class.
        label_sets: what weights were trained with.
        words (str, optional): what its embedding is looked up under, as in
            ``zero_shot.embeddings.words``.
    """
    own = _spellings([name, *_synonyms(name)])
    labels: dict[str, None] = {}
    for item in label_sets:
        if own & _spellings(item.left_out):
            continue
        if item.name == IMAGENET:
            others = _spellings(_other_words(name, words))
            labels.update(dict.fromkeys(_imagenet_labels(own, others)))
        else:
            labels.update({label: None for label in CLASS_NAMES[item.name]
                           if own & _spellings([label])})
    first, *more = labels or [""]
    return f"{first} and {len(more)} more" if more else first


def _synonyms(name: str) -> list[str]:
    """Other names of a class for which data sets differ."""
    return [other for group in SYNONYMS if fold_name(name) in group for other in group]


def _other_words(name: str, words: Any) -> list[str]:
    found = (table.get(spelling) for spelling in _spellings([name]) for table in (ALIASES, _ALSO))
    return [text for text in (words, *found)
            if isinstance(text, str)]  # wrong `words` are told of where they are looked up


def _spellings(names: Iterable[str]) -> set[str]:
    """Return all that may stand for ``names``, folded; a name may list several, with commas."""
    found: set[str] = set()
    for name in (part for text in names for part in re.split("[;,]", text) if part.strip()):
        whole = " ".join(part for part in re.split(r"[\s_\-]+", name) if part not in FILLERS)
        found.update(fold_name(text) for text in (name, whole) if text.strip())
    return found | {re.sub(pattern, ending, spelling, count=1) for spelling in found
                    for pattern, ending in _INFLECTIONS}


def _imagenet_labels(own: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return the labels with such a word: first those that have it themselves, then by order."""
    words = _imagenet_words()
    found = {place: label for spelling in own for place, label in words.get(spelling, {}).items()}
    for spelling in others:
        if len(words.get(spelling, {})) <= _GENERAL:
            found.update(words.get(spelling, {}))
    return [found[place] for place in sorted(found)]


@functools.cache
def _imagenet_words() -> dict[str, dict[tuple[bool, int], str]]:
    """Return the labels of ImageNet-1k by the folded words for them and for what is above them.

    A label has its place (whether the word is of something above it, its number) and its own first
    word.
    """
    with open(asset("imagenet1k", "labels.txt"), encoding="utf-8") as file:
        labels = dict(line.rstrip("\n").split(" ", 1) for line in file)
    above: dict[str, set[str]] = {}
    with open(asset("imagenet1k", "hypernyms.txt"), encoding="utf-8") as file:
        for line in file:  # from the root down
            synset, parents, *words = line.rstrip("\n").split(" ", 2)
            above[synset] = {fold_name(word) for text in words or [labels[synset]]
                             for word in text.split(", ")}.union(
                *(above[parent] for parent in parents.split(",") if parent != "-"))
    found: dict[str, dict[tuple[bool, int], str]] = {}
    for number, (synset, text) in enumerate(labels.items()):
        own = list(map(fold_name, text.split(", ")))
        for spelling in above[synset]:
            place = (spelling not in own, number)
            found.setdefault(spelling, {})[place] = text.split(", ")[0]
    return found
