"""What a comparison runs: methods × splits × stage-1 seeds × seeds, read from one YAML file."""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from paddle_csrl.compare.curve import EXTREME
from paddle_csrl.config import ZeroShotConfig, parse_opts
from paddle_csrl.errors import UserError

#: Tables of the paper that ``paper`` may name (``assets/paper_tables.yml``).
PAPER_TABLES = ("voc", "context", "ablation")

_KEYS = {"config", "opts", "splits", "stage1_seeds", "seeds", "reference", "methods", "paper",
         "calibrations", "save_dir"}
_SPLIT_KEYS = {"unseen", "opts"}
_METHOD_KEYS = {"config", "include", "opts"}

# What the file says elsewhere, by the key that would say it in `opts`.
_SAID_ELSEWHERE = {"seed": "stage1_seeds", "save_dir": "save_dir", "zero_shot.unseen": "splits",
                   "generator.seed": "seeds", "classifier.seed": "seeds",
                   "self_training.seed": "seeds"}

_NAME = re.compile(r"(?!stage1_seed)\w[\w.+-]*")

# A system that trains a segmentor of its own does so in every cell, from a seed of its own.
_OWN_SEEDS = 1000

_NEVER = 10**9  # iterations

_LATER_STAGES = ("generator", "classifier", "self_training")

# What has no influence on a score.
_IRRELEVANT = {"": ("save_dir", "num_workers", "log_iters", "use_vdl", "keep_checkpoint_max"),
               "zero_shot": ("cache_dir",), **{stage: ("log_iters", "save_interval")
                                                for stage in _LATER_STAGES}}


@dataclass(frozen=True)
class Split:
    """Classes declared unseen, with settings of the split's own."""

    name: str
    unseen: tuple[str, ...]
    opts: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Method:
    """A method: another config, YAML files merged over it, dotted settings."""

    name: str
    config: str | None = None
    include: tuple[str, ...] = ()
    opts: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, order=True)
class Cell:
    """One training: a method on a split with a seed of stage 1 and one of the stages after."""

    split: str
    stage1_seed: int
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.split} {self.method} stage1_seed{self.stage1_seed}_seed{self.seed}"


class Plan:
    """A comparison as its YAML file describes it.

    Args:
        path (str): the file; paths in it are relative to its folder, and ``{split}`` in them
            stands for the split's name.
        opts (list[str]): ``key.subkey=value`` overrides for all cells, stronger than the file.
        save_dir (str, optional): folder of everything, in place of the file's.

    Raises:
        UserError: a key or value that is none; the message names it.
    """

    def __init__(self, path: str, opts: Sequence[str] = (), save_dir: str | None = None):
        self.path = path
        content = _read(path)
        _check_keys(content, _KEYS, "", path)
        for key in ("config", "splits", "methods"):
            if key not in content:
                raise UserError(f"{path}: `{key}` is missing")
        self.opts = _pairs(content, "opts", path)
        self.command_opts = parse_opts(opts)
        _check_opts(self.command_opts, f"{path}: --opts ")
        self.stage1_seeds = _seeds(content.get("stage1_seeds", [0]), "stage1_seeds", path)
        self.seeds = _seeds(content.get("seeds", [0]), "seeds", path)
        self.splits = {name: self._split(name, item)
                       for name, item in _named(content, "splits", path).items()}
        self.config = self._file(content["config"], "config")
        self.methods = {name: self._method(name, item)
                        for name, item in _named(content, "methods", path).items()}
        self.reference = content.get("reference", next(iter(self.methods)))
        if self.reference not in list(self.methods):  # which need not be hashable
            raise UserError(f"{path}: `reference: {self.reference}` is none of the methods "
                            f"{', '.join(self.methods)}")
        self.paper = content.get("paper")
        if self.paper is not None and self.paper not in PAPER_TABLES:
            raise UserError(f"{path}: `paper: {self.paper}` must be one of "
                            f"{', '.join(PAPER_TABLES)}")
        self.calibrations = _calibrations(content.get("calibrations", []), path)
        self.save_dir = save_dir or content.get("save_dir") or os.path.join("output", self.name)
        if not isinstance(self.save_dir, str):
            raise UserError(f"{path}: `save_dir: {self.save_dir}` must be a folder's name")
        self._settings: dict[tuple[str, str], dict[str, Any]] = {}

    @property
    def name(self) -> str:
        return os.path.splitext(os.path.basename(self.path))[0]

    def cells(self, methods: Iterable[str] | None = None,
              splits: Iterable[str] | None = None,
              stage1_seeds: Iterable[int] | None = None,
              seeds: Iterable[int] | None = None) -> list[Cell]:
        """The cells in the order they run, or those of a selection.

        Raises:
            UserError: something selected is not in the file.
        """
        methods = _chosen(methods, list(self.methods), "methods", self.path)
        splits = _chosen(splits, list(self.splits), "splits", self.path)
        stage1_seeds = _chosen(stage1_seeds, self.stage1_seeds, "stage1_seeds", self.path)
        seeds = _chosen(seeds, self.seeds, "seeds", self.path)
        return [Cell(split, stage1_seed, method, seed) for split in splits
                for stage1_seed in stage1_seeds for seed in seeds for method in methods]

    def check(self) -> None:
        """Read the config of every method on every split.

        Raises:
            UserError: one of them has a misspelt key or the like.
        """
        for cell in self.cells(stage1_seeds=self.stage1_seeds[:1], seeds=self.seeds[:1]):
            self.digest(cell)

    def stage1_dir(self, split: str, stage1_seed: int) -> str:
        """Folder of the segmentor and the features that the cells share."""
        return os.path.join(self.save_dir, split, f"stage1_seed{stage1_seed}")

    def cell_dir(self, cell: Cell) -> str:
        return os.path.join(self.save_dir, cell.split, cell.method,
                            f"stage1_seed{cell.stage1_seed}_seed{cell.seed}")

    def stage1_config(self, split: str, stage1_seed: int) -> ZeroShotConfig:
        """The config of the shared stages: the base with the split and the seed, no more."""
        return ZeroShotConfig(
            self._for(split, self.config),
            _merged(self.opts, self.splits[split].opts, self.command_opts, self._unseen(split)),
            {"save_dir": self.stage1_dir(split, stage1_seed), "seed": stage1_seed,
             "use_vdl": False})

    def cell_config(self, cell: Cell, own_stage1: bool = False) -> ZeroShotConfig:
        """The config of a cell.

        Args:
            cell: the cell.
            own_stage1: whether the cell trains its own segmentor. Its seed is then one of the
                cell's, so that cells with different seeds are different trainings.
        """
        method = self.methods[cell.method]
        config = ZeroShotConfig(
            self._for(cell.split, method.config or self.config),
            _merged(self.opts, self.splits[cell.split].opts, method.opts, self.command_opts,
                    self._unseen(cell.split)),
            {"save_dir": self.cell_dir(cell), "use_vdl": False, "keep_checkpoint_max": 1,
             "seed": _OWN_SEEDS * cell.stage1_seed + cell.seed if own_stage1
             else cell.stage1_seed},
            includes=[self._for(cell.split, path) for path in method.include])
        for stage in _LATER_STAGES:
            if isinstance(config.dic.get(stage), dict):
                config.dic[stage].update(seed=cell.seed, save_interval=_NEVER)
        return config

    def digest(self, cell: Cell) -> str:
        """A checksum over all settings that the cell's score depends on."""
        key = (cell.split, cell.method)
        if key not in self._settings:
            dic = self.cell_config(cell).dic
            for section, names in _IRRELEVANT.items():
                content = dic.get(section) if section else dic
                for name in names if isinstance(content, dict) else ():
                    content.pop(name, None)
            self._settings[key] = dic
        dic = {**self._settings[key], "seed": cell.stage1_seed}
        for stage in _LATER_STAGES:
            if isinstance(dic.get(stage), dict):
                dic[stage] = {**dic[stage], "seed": cell.seed}
        text = json.dumps(dic, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def _unseen(self, split: str) -> dict[str, Any]:
        return {"zero_shot.unseen": list(self.splits[split].unseen)}

    def _for(self, split: str, path: str) -> str:
        return path.replace("{split}", split)

    def _file(self, name: Any, key: str) -> str:
        """Path of the YAML file that ``key`` names for every split."""
        if not isinstance(name, str):
            raise UserError(f"{self.path}: `{key}: {name}` must be the name of a YAML file")
        path = os.path.normpath(os.path.join(os.path.dirname(self.path), name))
        for split in self.splits:
            if not os.path.isfile(self._for(split, path)):
                raise UserError(f"{self.path}: `{key}: {name}`: there is no file "
                                f"{self._for(split, path)}")
        return path

    def _split(self, name: str, item: Any) -> Split:
        place = f"splits.{name}"
        content = item if isinstance(item, dict) else {"unseen": item}
        _check_keys(content, _SPLIT_KEYS, place, self.path)
        unseen = content.get("unseen")
        if isinstance(unseen, str):
            unseen = [part.strip() for part in unseen.split(",")]
        if not isinstance(unseen, list) or not unseen or not all(
                isinstance(part, str) and part for part in unseen):
            raise UserError(f"{self.path}: `{place}: {item}` must be a list of class names, the "
                            f"unseen ones")
        return Split(name, tuple(unseen), _pairs(content, "opts", self.path, place))

    def _method(self, name: str, item: Any) -> Method:
        place = f"methods.{name}"
        content = {} if item is None else item
        _check_keys(content, _METHOD_KEYS, place, self.path)
        include = content.get("include", [])
        include = [include] if isinstance(include, str) else include
        if not isinstance(include, list):
            raise UserError(f"{self.path}: `{place}.include: {include}` must be a list of YAML "
                            f"files")
        paths = tuple(self._file(path, f"{place}.include") for path in include)
        config = content.get("config")
        return Method(name, config and self._file(config, f"{place}.config"), paths,
                      _pairs(content, "opts", self.path, place))


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise UserError(f"no comparison at {path} ({error.strerror}); give a YAML file with "
                        f"-c/--config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not well-formed YAML: {' '.join(str(error).split())}") from None
    return content


def _check_keys(content: Any, known: Iterable[str], place: str, path: str) -> None:
    if not isinstance(content, dict):
        raise UserError(f"{path}: {f'`{place}`' if place else 'a comparison'} must hold "
                        f"`key: value` pairs, got {content!r}")
    for key in content:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), list(known), n=1)
            hint = (f"did you mean `{nearest[0]}`?" if nearest
                    else f"known: {', '.join(sorted(known))}")
            raise UserError(f"{path}: unknown key `{f'{place}.' if place else ''}{key}`; {hint}")


def _pairs(content: dict[str, Any], key: str, path: str, place: str = "") -> dict[str, Any]:
    value = content.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{path}: `{f'{place}.' if place else ''}{key}: {value}` must hold dotted "
                        f"keys with values, such as generator.iters: 500")
    _check_opts(value, f"{path}: {f'{place}.' if place else ''}{key}.")
    return value


def _check_opts(opts: dict[str, Any], place: str) -> None:
    for key in opts:
        if key in _SAID_ELSEWHERE:
            raise UserError(f"{place}{key} has no effect in a comparison; its key "
                            f"`{_SAID_ELSEWHERE[key]}` says this")


def _named(content: dict[str, Any], key: str, path: str) -> dict[str, Any]:
    value = content[key]
    if not isinstance(value, dict) or not value:
        raise UserError(f"{path}: `{key}: {value}` must hold one `name: ...` for each of them")
    for name in value:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{path}: `{key}.{name}` names a folder: use letters, digits and "
                            f"_ . + -, a letter or digit first, and no name that begins with "
                            f"stage1_seed")
    return value


def _seeds(value: Any, key: str, path: str) -> list[int]:
    if not isinstance(value, list) or not value or len(set(map(str, value))) != len(value) \
            or not all(type(seed) is int and 0 <= seed < _OWN_SEEDS for seed in value):
        raise UserError(f"{path}: `{key}: {value}` must be a list of different whole numbers, "
                        f"0 to {_OWN_SEEDS - 1}")
    return value


def _calibrations(value: Any, path: str) -> list[float]:
    if not isinstance(value, list) or len(set(map(str, value))) != len(value) or not all(
            type(item) in (int, float) and abs(item) < EXTREME for item in value):
        raise UserError(f"{path}: `calibrations: {value}` must be a list of different numbers "
                        f"between -{EXTREME:.0f} and {EXTREME:.0f}, such as [0, 1, 2, 4]")
    return value


def _chosen(selected: Iterable | None, known: list, key: str, path: str) -> list:
    if selected is None:
        return known
    selected = list(selected)
    for item in selected:
        if item not in known:
            raise UserError(f"--{key} {item} is none of {path}: {', '.join(map(str, known))}")
    return [item for item in known if item in selected]


def _merged(*layers: dict[str, Any]) -> dict[str, Any]:
    """Settings of all ``layers`` in the order they are to be applied, later ones last."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            merged.pop(key, None)
            merged[key] = value
    return merged
