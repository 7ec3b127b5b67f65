"""The settings to try: a file of candidate values by dotted key, and draws from it."""

import copy
import math
import os
from typing import Annotated, Any, NamedTuple

import numpy as np

from paddle_csrl.config import load_yaml, merge, read_settings, set_key
from paddle_csrl.config.schema import AUTO, MAY_BE_NULL, Component, Keys
from paddle_csrl.config.wording import read_keys, unknown_key
from paddle_csrl.errors import UserError
from paddle_csrl.stages.calibration import OPEN, Calibration

#: Keys that are tried on every trained layer.
_CALIBRATIONS = ("classifier.calibration", "classifier.seen_cost")
_ABSENT = object()  # stands where a config has no such key, which null is not
Overrides = dict[str, Any]


class MethodSpace(Keys):
    """The file's part on one method."""

    base: str | None = None
    fixed: Annotated[Component, MAY_BE_NULL] = {}
    search: Annotated[Component, MAY_BE_NULL] = {}


class SpaceFile(Keys):
    """The content of the file."""

    common: Annotated[Component, MAY_BE_NULL] = {}
    methods: Annotated[dict[str, Annotated[MethodSpace, MAY_BE_NULL]], MAY_BE_NULL] = {}


class Axis(NamedTuple):
    """One thing that varies: its name and the overrides of each of its candidates."""
    name: str
    candidates: list[Overrides]

    @property
    def keys(self) -> list[str]:
        return list(dict.fromkeys(key for candidate in self.candidates for key in candidate))

    @property
    def stage(self) -> str:
        return self.keys[0].split(".")[0]


class Draw(NamedTuple):
    """Settings of one generator and of the layers that are trained on top of it."""
    generator: Overrides
    classifiers: list[Overrides]


class Space:
    """The search space of one method.

    The file holds ``common``, what is searched for every method, and ``methods`` by name. Each
    method may have ``base``, a config file laid over the config that is tuned, ``fixed``, dotted
    keys with values, and ``search``. Where something is searched, a dotted key has a list of
    values; a name without a dot has a list of alternatives, each with dotted keys of its own.
    Keys of the classifier are searched under ``common`` alone, so that every method gets the
    same number of settings.

    Args:
        path (str): the file.
        method (str): the method.

    Raises:
        UserError: the file is no such space, or lacks the method.
    """

    def __init__(self, path: str, method: str):
        content = read_keys(SpaceFile, load_yaml(path), path)
        self.path, self.method = path, method
        if method not in content.methods:
            raise UserError(f"{path}: no method `{method}` under `methods`; it has "
                            f"{', '.join(content.methods) or 'none'}")
        section = content.methods[method]
        self.fixed = section.fixed
        for key in self.fixed:
            _check_key(key, path)
        self.base = self._load_base(section.base)
        self.calibrations = _calibrations(content.common, path)
        axes = {name: _axis(name, values, path) for name, values in content.common.items()
                if name not in _CALIBRATIONS}
        for name, values in section.search.items():
            axes.pop(name, None)  # so that the method's own comes last
            axes[name] = _axis(name, values, path)
            if axes[name].stage == "classifier":
                raise UserError(f"{path}: `methods.{method}.search.{name}` belongs under `common`, "
                                f"so that every method gets the same number of classifiers")
        self.axes = list(axes.values())

    def _load_base(self, name: str | None) -> dict[str, Any]:
        if name is None:
            return {}
        base = load_yaml(os.path.join(os.path.dirname(self.path), name), (self.path,))
        known = ("generator", "classifier")
        for key in base:
            if key not in known:
                raise unknown_key(key, known, "", f"{self.path}: base {name}")
        return base

    def start(self, dic: dict[str, Any]) -> dict[str, Any]:
        """The config ``dic`` as the method starts from it, checked."""
        dic = merge(copy.deepcopy(self.base), dic)
        return self.settings(dic, self.fixed)

    def settings(self, dic: dict[str, Any], *overrides: Overrides) -> dict[str, Any]:
        """The content ``dic`` with ``overrides``, checked; what it was made of is not shared."""
        dic = copy.deepcopy(dic)
        for item in overrides:
            for key, value in item.items():
                set_key(dic, key, copy.deepcopy(value))
        if read_settings(dic, self.path).section("classifier").mode == "legacy":
            raise UserError(f"{self.path}: `classifier.mode: legacy` reads labels of unseen "
                            f"classes, which tuning keeps away from; set it to clean")
        return dic

    def draws(self, start: dict[str, Any], number: int, classifiers: int,
              seed: int) -> list[Draw]:
        """``number`` generators with ``classifiers`` layers each, drawn at random.

        The first draw, and the first layer of each, leaves ``start`` as it is. No combination
        comes twice before all have come; a generator that comes again gets other layers, and
        where there are none left either, there are fewer draws. A larger ``number`` begins with
        the draws of a smaller one.
        """
        generators = self._distinct("generator", start, number, seed)
        draws = []
        for index in range(number):
            lap, which = divmod(index, len(generators))
            layers = self._distinct("classifier", start, (lap + 1) * classifiers, [seed, which])
            if layers[lap * classifiers:]:
                draws.append(Draw(generators[which], layers[lap * classifiers:]))
        return draws

    def _distinct(self, stage: str, start: dict[str, Any], number: int,
                  seed: Any) -> list[Overrides]:
        """At most ``number`` different combinations, the first of which changes nothing."""
        rng = np.random.default_rng(seed)
        axes = [axis for axis in self.axes if axis.stage == stage]
        sizes = [len(axis.candidates) for axis in axes]
        found: list[Overrides] = [{}]
        tried: set[tuple[int, ...]] = set()
        while len(found) < number and len(tried) < math.prod(sizes):
            picks = tuple(rng.integers(sizes).tolist())
            overrides = {key: value for axis, pick in zip(axes, picks)
                         for key, value in axis.candidates[pick].items()}
            if picks not in tried and self.settings(start, overrides) != start:
                found.append(overrides)
            tried.add(picks)
        return found

    def chosen(self, original: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        """Return the part of ``settings`` with which a file turns ``original`` into them.

        These are the keys that the method fixes and those that were searched.
        """
        content: dict[str, Any] = copy.deepcopy(self.base)
        keys = [*self.fixed, *(key for axis in self.axes for key in axis.keys),
                *Calibration.of(read_settings(settings, self.path).section("classifier")).settings]
        for key in keys:
            name, value = _outside_lists(settings, key)
            if value is not _ABSENT:
                set_key(content, name, _in_place_of(_outside_lists(original, name)[1], value))
        return content


def _in_place_of(before: Any, value: Any) -> Any:
    """A copy of ``value`` which, laid over ``before``, leaves nothing else of it."""
    if not isinstance(value, dict) or not isinstance(before, dict):
        return copy.deepcopy(value)
    if set(before) - set(value):
        return {**copy.deepcopy(value), "_inherited_": False}
    return {key: _in_place_of(before.get(key), item) for key, item in value.items()}


def _outside_lists(dic: dict[str, Any], dotted: str) -> tuple[str, Any]:
    """The part of a dotted key that leads to a list or to its end, and the value there."""
    value: Any = dic
    names = dotted.split(".")
    for depth, name in enumerate(names):
        if isinstance(value, list):
            return ".".join(names[:depth]), value
        value = value.get(name, _ABSENT) if isinstance(value, dict) else _ABSENT
    return dotted, value


def _axis(name: str, values: Any, path: str) -> Axis:
    if not isinstance(values, list) or not values:
        raise UserError(f"{path}: `{name}: {values}` must be a list of candidates")
    if "." in name:
        axis = Axis(name, [{name: value} for value in values])
    else:
        if not all(isinstance(value, dict) and value for value in values):
            raise UserError(f"{path}: `{name}` has no dot, so each of its candidates must hold "
                            f"dotted keys with values, such as {{generator.relation: edges}}")
        axis = Axis(name, values)
    for key in axis.keys:
        _check_key(key, path)
    if len({key.split(".")[0] for key in axis.keys}) > 1:
        raise UserError(f"{path}: `{name}` mixes keys of generator and classifier; split it")
    return axis


def _check_key(key: Any, path: str) -> None:
    stage, _, rest = str(key).partition(".")
    if stage not in ("generator", "classifier") or not rest or rest == "seed":
        raise UserError(f"{path}: `{key}` cannot be tuned; only keys under generator and "
                        f"classifier can, except their seed, for stage 1 is not trained again")
    if str(key) in _CALIBRATIONS:
        raise UserError(f"{path}: `{key}` belongs directly under `common`, where it is "
                        f"tried on every trained layer")


def _calibrations(common: dict[str, Any], path: str) -> list[Calibration]:
    found = []
    for key, is_cost in zip(_CALIBRATIONS, (False, True)):
        values = common.get(key, [])
        if not isinstance(values, list) or not all(
                type(value) in (int, float) and math.isfinite(value)
                and (0 < value < 1 or not is_cost) or is_cost and value == AUTO
                for value in values):
            raise UserError(f"{path}: `common.{key}: {values}` must be a list of numbers"
                            + (f" between 0 and 1, or {AUTO}" if is_cost else ""))
        found += [OPEN if value == AUTO else Calibration(float(value), is_cost)
                  for value in values]
    return found
