"""Class embeddings: from class names to the word vectors of a file.

A class name is looked up by these rules, the first that succeeds; a name that lists synonyms
(``"screen;silver screen"``) tries each rule on every synonym before the next rule:

0. ``usual``: of the vectors that come with the package, where rare words have poor ones, an
   alias of one word that is at least ``RARER`` times as frequent as the name: ``airplane`` for
   ``aeroplane``. What ``words`` names is taken as it is.
1. ``exact``: the name as written.
2. ``case-folded``: the same letters in another case, the most frequent spelling.
3. ``phrase``: blanks, ``-`` and ``_`` replaced by ``_``, ``-`` or nothing.
4. ``alias``: another name for the same thing, from ``ALIASES``.
5. ``mean``: of the words of a multi-word name, without the words in ``FILLERS``; each word by
   the other rules.
6. ``spelling``: the American spelling of a British name, by ``_BRITISH``.
7. ``inflection``: the singular for the plural, or the other way round.
8. ``split``: a joined name as two words of at least four letters, or of three if they are common
   (``diningtable``), the pair of the most frequent words. It comes last, as it is the likeliest
   to go astray: ``kimono`` is not kim + ono.
"""

import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from paddleseg.utils import logger

from paddle_csrl.datasets.class_names import require_length
from paddle_csrl.embeddings.readers import WordVector, iterate_rows, read_vectors
from paddle_csrl.errors import UserError
from paddle_csrl.utils import progress
from paddle_csrl.utils.io import asset

#: What ``zero_shot.embeddings.path: null`` stands for.
DEFAULT = "glove100"
#: The vectors that come with the package, by the names that stand for their paths; the folders say
#: where they are from.
SHIPPED = {DEFAULT: asset("glove", "glove100.npz"), "minilm": asset("minilm", "minilm.npz")}

#: Names that many word-vector files lack, or that the later rules would misread, by what stands
#: in for them; the keys are without blanks and dashes.
ALIASES = {
    # Spellings and synonyms.
    "aeroplane": "airplane",
    "aubergine": "eggplant",
    "chequered": "checkered",
    "conveyerbelt": "conveyor belt",
    "coriander": "cilantro",
    "courgette": "zucchini",
    "donut": "doughnut",
    "ellipse": "oval",
    "faucet": "tap",
    "hexagon": "hexagonal",
    "hovel": "hut",
    "kerb": "curb",
    "minibike": "motorbike",
    "motorbike": "motorcycle",
    "moustache": "mustache",
    "nappy": "diaper",
    "plaything": "toy",
    "prawn": "shrimp",
    "pyjamas": "pajamas",
    "rucksack": "backpack",
    "sofa": "couch",
    "speckled": "spotted",
    "tshirt": "t-shirt",
    "yoghurt": "yogurt",
    # Splits that go astray: ash + can, nap + kin, window + pane; `tv` is too short for one.
    "ashcan": "trash can",
    "napkin": "table cloth",
    "tvmonitor": "tv monitor",
    "windowpane": "window",
    # Rare words, described.
    "awning": "sun shade",
    "crtscreen": "computer screen",
    "cyan": "blue green",
    "escalator": "moving staircase",
    "firehydrant": "fire hose",
    "frisbee": "flying disc",
    "magenta": "purple pink",
    "sconce": "wall lamp",
    "swivelchair": "office chair",
    "toaster": "toast oven",
    "zigzag": "diagonal stripes",
}

#: How many times rarer than its alias, by Zipf's law, a name must be to be passed over for it.
#: It takes aeroplane (5.7) and leaves motorbike (3.5) and sofa (1.6), whose vectors are good.
RARER = 5

#: Words without meaning of their own in a class name such as ``wall-other``.
FILLERS = frozenset(("other", "stuff", "merged", "of", "the", "and"))

_SEPARATORS = re.compile(r"[\s_\-]+")
_BRITISH = (("our", "or"), ("re", "er"), ("ae", "e"), ("oe", "e"))
_TO_SINGULAR = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("s", ""), ("es", ""))
_TO_PLURAL = (("", "s"), ("", "es"), ("y", "ies"), ("f", "ves"), ("fe", "ves"))
_SHORTEST_PART = 3
# The rank, in a file sorted by frequency, above which parts of three letters are no common words.
_COMMON = 3000
# Lengths of a vector of which float32 holds the square.
_SHORTEST, _LONGEST = 1e-15, 1e15
_SEVERAL = " | "
_MAX_REPORTED = 5
_MAX_NEIGHBOURS = 20000


def load_class_embeddings(class_names: Sequence[str], path: str | Sequence[str] | None = None,
                          normalize: bool = True,
                          words: Mapping[str, str] | None = None) -> np.ndarray:
    """Embeddings a_i of the classes, from word-vector files.

    Args:
        class_names (list[str]): C names.
        path (str, optional): a file as in ``read_vectors``, or of ``SHIPPED``; None for
            ``DEFAULT``. Of several, a list, the embeddings are joined as by ``join_spaces``.
        normalize (bool): scale each class vector to unit L2 norm, after averaging its words and
            joining its files.
        words (dict[str, str], optional): class name to the word or words to look up instead.

    Returns:
        float32 array [C, d_w].

    Raises:
        UserError: a class without a word in a file, naming the nearest known spellings; a class
            whose vector is zero; a key of ``words`` that is no class; a damaged file.
    """
    vectors, how = resolve_class_embeddings(class_names, path, normalize, words)
    inexact = under_other_names(class_names, how)
    if inexact:
        logger.info(f"class embeddings not under the class's own name: {'; '.join(inexact)}")
    return vectors


def resolve_class_embeddings(class_names: Sequence[str], path: str | Sequence[str] | None = None,
                             normalize: bool = True, words: Mapping[str, str] | None = None
                             ) -> tuple[np.ndarray, list[str]]:
    """Find the embeddings as ``load_class_embeddings`` does, and tell how each was found.

    Returns:
        float32 array [C, d_w] and C texts, ``"rule: word + word"``; where several files differ,
        their texts with `` | `` between.
    """
    spaces, found = [], []
    for one in listed(path):
        resolutions, vocabulary = find_words(class_names, one, words)
        spaces.append(np.stack([vocabulary.mean(resolution.words) for resolution in resolutions]))
        found.append(list(map(str, resolutions)))
        _require_length(spaces[-1], class_names, found[-1])
    how = [_SEVERAL.join(dict.fromkeys(texts)) for texts in zip(*found)]
    vectors = join_spaces(spaces, normalize)
    _warn_of_twins(vectors, class_names, how)
    return vectors, how


def listed(path: str | Sequence[str] | None) -> list[str]:
    """The paths of ``zero_shot.embeddings.path``, which may be one or several, or ``DEFAULT``."""
    return [path or DEFAULT] if path is None or isinstance(path, str) else list(path)


def words_of(name: str, path: str | Sequence[str] | None) -> str:
    """Return what finds under ``words``, which are taken as written, what ``name`` finds by itself.

    That is another word where the rule ``usual`` holds. ``path`` is as for
    ``load_class_embeddings``; ``attributes`` may be part of it.
    """
    for one in listed(path):
        if one in SHIPPED:
            (own,), _ = find_words([name], one)
            (written,), _ = find_words([name], one, {name: name})
            if own.words != written.words:
                return " ".join(own.words)
    return name


def join_spaces(spaces: Sequence[np.ndarray], normalize: bool) -> np.ndarray:
    """Join the embeddings of the same classes in several spaces, so that each weighs the same.

    Args:
        spaces (list of float32 arrays [C, d_i]): of several, every vector is scaled to length 1.
        normalize (bool): scale what is joined to length 1. Its cosines are then the means of
            those in the spaces.

    Returns:
        float32 array [C, Σ d_i].
    """
    vectors = np.concatenate(list(map(_unit, spaces)) if len(spaces) > 1 else spaces, axis=1)
    return _unit(vectors) if normalize else vectors


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def under_other_names(class_names: Sequence[str], how: Sequence[str]) -> list[str]:
    """``"class = rule: words"`` for the classes that some file does not have by their own name."""
    return [f"{name} = {text}" for name, text in zip(class_names, how)
            if not all(rule.startswith("exact") for rule in text.split(_SEVERAL))]


def find_words(class_names: Sequence[str], path: str = DEFAULT,
               words: Mapping[str, str] | None = None
               ) -> tuple[list["Resolution"], "Vocabulary"]:
    """The words that stand for each class, by the rules, and the vocabulary that holds them.

    Arguments and errors are those of ``load_class_embeddings``, for one file.
    """
    words = words or {}
    names = names_to_look_up(class_names, words)
    path = SHIPPED.get(path, path)
    is_shipped = path in SHIPPED.values()
    wanted, best = spellings(names), {synonyms(name)[0] for name in names}
    # By the rule `usual` the vector of one class would depend on how far others have it read.
    kept = read_vectors(path, lambda word: word.casefold() in wanted,
                        lambda kept: best <= kept.keys() and not is_shipped)
    as_written, vocabulary = Vocabulary(kept), Vocabulary(kept, is_shipped)
    resolutions = [_resolve(name, as_written if class_name in words else vocabulary)
                   for class_name, name in zip(class_names, names)]
    found = list(filter(None, resolutions))
    if len(found) < len(names):
        missing = [pair for pair, resolution in zip(zip(class_names, names), resolutions)
                   if resolution is None]
        _raise_missing(missing, path, vocabulary)
    return found, vocabulary


def spellings(names: Iterable[str]) -> set[str]:
    """Every spelling, case-folded, that the rules may ask a file for.

    The rules run on an empty vocabulary that takes notes, so that this is exactly what they
    look for.
    """
    recorder = _Recorder()
    for name in names:
        _resolve(name, recorder)
    return recorder.asked


class Resolution(NamedTuple):
    """The rule that found a class and the words, as the file spells them, to be averaged."""

    rule: str
    words: list[str]

    def __str__(self) -> str:
        return f"{self.rule}: {' + '.join(self.words)}"


class Vocabulary:
    """The kept words of a file, found by exact or else case-folded spelling.

    Args:
        kept: the words, of a file that is sorted by frequency.
        prefers_usual: whether rare words have vectors so poor that the rule ``usual`` holds.
    """

    def __init__(self, kept: Mapping[str, WordVector], prefers_usual: bool = False):
        self.kept, self.prefers_usual = kept, prefers_usual
        self._by_folded: dict[str, str] = {}
        for word in kept:
            self._by_folded.setdefault(word.casefold(), word)

    def find(self, spelling: str) -> str | None:
        return spelling if spelling in self.kept else self._by_folded.get(spelling.casefold())

    def frequency(self, words: Iterable[str]) -> float:
        """Joint frequency of independent words, up to a factor, by Zipf's law."""
        return float(np.prod([1 / (1 + self.kept[word].rank) for word in words]))

    def mean(self, words: Sequence[str]) -> np.ndarray:
        return np.mean([self.kept[word].vector for word in words], axis=0)


class _Recorder(Vocabulary):
    """A vocabulary of nothing that notes what it was asked for."""

    def __init__(self) -> None:
        super().__init__({})
        self.asked: set[str] = set()

    def find(self, spelling: str) -> None:
        self.asked.add(spelling.casefold())


def _resolve(name: str, vocabulary: Vocabulary) -> Resolution | None:
    for rule, look_up in _RULES.items():
        for synonym in synonyms(name):
            words = look_up(synonym, vocabulary)
            if words:
                return Resolution(rule, words)
    return None


# The rules: a name and a vocabulary to the words found, none if the rule fails. When all have
# failed, they have asked for every spelling they know, which `spellings` relies on.

def _usual(name: str, vocabulary: Vocabulary) -> list[str]:
    if not vocabulary.prefers_usual:
        return []
    own, alias = _folded(name, vocabulary), _alias(name, vocabulary)
    is_rarer = own and len(alias) == 1 and (
        vocabulary.frequency(alias) >= RARER * vocabulary.frequency(own))
    return alias if is_rarer else []


def _exact(name: str, vocabulary: Vocabulary) -> list[str]:
    return [name] if vocabulary.find(name) == name else []


def _folded(name: str, vocabulary: Vocabulary) -> list[str]:
    word = vocabulary.find(name)
    return [word] if word else []


def _phrase(name: str, vocabulary: Vocabulary) -> list[str]:
    parts = name_parts(name)
    found = (vocabulary.find(separator.join(parts)) for separator in ("_", "-", ""))
    return list(itertools.islice(filter(None, found), 1))


def _alias(name: str, vocabulary: Vocabulary) -> list[str]:
    target = ALIASES.get("".join(name_parts(name)).casefold())
    return _first(target, vocabulary, _folded, _phrase, _mean, _inflection) if target else []


def _spelling(name: str, vocabulary: Vocabulary) -> list[str]:
    found = (vocabulary.find(name.casefold().replace(british, american))
             for british, american in _BRITISH if british in name.casefold())
    return list(itertools.islice(filter(None, found), 1))


def _mean(name: str, vocabulary: Vocabulary) -> list[str]:
    parts = name_parts(name)
    found = [_word(part, vocabulary) for part in parts if part.casefold() not in FILLERS]
    return sum(found, []) if len(parts) > 1 and all(found) else []


def _inflection(name: str, vocabulary: Vocabulary) -> list[str]:
    endings = _TO_SINGULAR if name.casefold().endswith("s") else _TO_PLURAL
    found = (vocabulary.find(name[:len(name) - len(old)] + new) for old, new in endings
             if name.casefold().endswith(old) and len(name) - len(old) >= _SHORTEST_PART)
    return list(itertools.islice(filter(None, found), 1))


def _split(name: str, vocabulary: Vocabulary) -> list[str]:
    pairs = ((vocabulary.find(name[:at]), vocabulary.find(name[at:]))
             for at in range(_SHORTEST_PART, len(name) - _SHORTEST_PART + 1))
    best = max(([first, second] for first, second in pairs if first and second),
               key=vocabulary.frequency, default=[])
    are_words = all(len(part) > _SHORTEST_PART or vocabulary.kept[part].rank < _COMMON
                    for part in best)
    return best if are_words else []


_RULES = {"usual": _usual, "exact": _exact, "case-folded": _folded, "phrase": _phrase,
          "alias": _alias, "mean": _mean, "spelling": _spelling, "inflection": _inflection,
          "split": _split}


def _word(part: str, vocabulary: Vocabulary) -> list[str]:
    """One word of a multi-word name."""
    return _first(part, vocabulary, _usual, _folded, _alias, _spelling, _inflection, _split)


def _first(name: str, vocabulary: Vocabulary, *rules: Callable) -> list[str]:
    return next(filter(None, (rule(name, vocabulary) for rule in rules)), [])


def name_parts(name: str) -> list[str]:
    return [part for part in _SEPARATORS.split(name) if part]


def synonyms(name: str) -> list[str]:
    return [part for part in re.split(r"\s*[;,]\s*", name.strip()) if part]


def names_to_look_up(class_names: Sequence[str], words: Mapping[str, str]) -> list[str]:
    """Return what to look up for every class: of ``words``, else its name.

    Raises:
        UserError: ``words`` names what is no class, or what is looked up is no text.
    """
    for name in words:
        require_length(str(name), "`words`")
        if name not in class_names:
            nearest = difflib.get_close_matches(str(name), list(map(str, class_names)), n=3)
            raise UserError(f"`words` names {name!r}, which is no class; "
                            f"{_suggest(nearest, 'use the class names')}")
    names = [words.get(name, name) for name in class_names]
    for class_name, name in zip(class_names, names):
        if not isinstance(name, str) or not any(map(name_parts, synonyms(name))):
            raise UserError(f"class {class_name!r}: {name!r} is no word to look up; give text")
        require_length(name, f"the words of class {class_name[:20]}")
    if not names:
        raise UserError("there are no class names to find embeddings for")
    return names


def _raise_missing(missing: Sequence[tuple[str, str]], path: str,
                   vocabulary: Vocabulary) -> None:
    """Report (class name, name looked up) pairs, with their neighbours from a second pass."""
    unknown = {name: [part for synonym in synonyms(name) for part in name_parts(synonym)
                      if not _word(part, vocabulary)] for _, name in missing[:_MAX_REPORTED]}
    neighbours = _neighbours(path, itertools.chain(*unknown.values()))
    reports = []
    for class_name, name in missing[:_MAX_REPORTED]:
        nearest = list(itertools.chain(*(neighbours[part] for part in unknown[name])))
        reports.append(f"class {class_name!r} ({_suggest(nearest, 'nothing near it known')})")
    more = f" and {len(missing) - _MAX_REPORTED} more" if len(missing) > _MAX_REPORTED else ""
    raise UserError(f"{path} has no word for {', '.join(reports)}{more}; name another word under "
                    f"`words`, such as words: {{{missing[0][0]}: thing}} (to tools/add_class.py as "
                    f"\"{missing[0][0]}=thing\"), or give another file")


def _neighbours(path: str, words: Iterable[str]) -> dict[str, list[str]]:
    """The nearest spellings in the file, among words of like length and equal first letter."""
    near: dict[str, list[str]] = {word: [] for word in words}
    for candidate, _, _ in progress(iterate_rows(path), "nearest words"):
        for word, candidates in near.items():
            if (candidate[:1].casefold() == word[:1].casefold()
                    and abs(len(candidate) - len(word)) <= 2
                    and len(candidates) < _MAX_NEIGHBOURS):
                candidates.append(candidate)
    return {word: difflib.get_close_matches(word, candidates, n=3)
            for word, candidates in near.items()}


def _suggest(nearest: Sequence[str], otherwise: str) -> str:
    return f"nearest known: {', '.join(nearest)}" if nearest else otherwise


def _require_length(vectors: np.ndarray, class_names: Sequence[str], how: Sequence[str]) -> None:
    for name, vector, text in zip(class_names, vectors, how):
        length = np.linalg.norm(vector.astype(np.float64))
        if not _SHORTEST <= length <= _LONGEST:
            raise UserError(f"the vector of class {name!r} ({text}) is zero; name another "
                            f"word for it under `words`" if not length else
                            f"the vector of class {name!r} ({text}) has the length "
                            f"{length:.0e}, too far from 1 to be computed with; mend the file or "
                            f"name another word for it under `words`")


def _warn_of_twins(vectors: np.ndarray, class_names: Sequence[str], how: Sequence[str]) -> None:
    owners: dict[bytes, str] = {}
    for name, vector, text in zip(class_names, vectors, how):
        other = owners.setdefault(vector.tobytes(), name)
        if other is not name:
            logger.warning(f"classes {other!r} and {name!r} have the same embedding "
                           f"({text}); no method can tell them apart")
