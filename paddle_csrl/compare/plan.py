"""The plan of a comparison: methods × splits × stage-1 seeds × seeds, from one YAML file."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from paddle_csrl.config import ZeroShotConfig, load_yaml
from paddle_csrl.config.load import parse_opts
from paddle_csrl.config.schema import MAY_BE_NULL, Keys, Path, key, wanted
from paddle_csrl.config.wording import read_keys
from paddle_csrl.errors import UserError
from paddle_csrl.evaluation.layers import EXTREME

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
               "zero_shot": ("cache_dir", "pretraining"),
               **{stage: ("log_iters", "save_interval") for stage in _LATER_STAGES}}


def _check_opts(opts: dict[str, Any]) -> dict[str, Any]:
    for name in _SAID_ELSEWHERE:
        if name in opts:
            raise ValueError(f"sets {name}, which has no effect in a comparison; its key "
                             f"`{_SAID_ELSEWHERE[name]}` says this")
    return opts


def _check_name(name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("names a folder: use letters, digits and _ . + -, a letter or digit "
                         "first, and no name that begins with stage1_seed")
    return name


def _check_different(values: list[float]) -> list[float]:
    if len(set(values)) != len(values):
        raise ValueError(f"must hold no number twice, got {values}")
    return values


Name = Annotated[str, BeforeValidator(_check_name)]
Seeds = Annotated[
    list[Annotated[int, Field(ge=0, lt=_OWN_SEEDS)]], Field(min_length=1),
    wanted(f"a list of whole numbers from 0 to {_OWN_SEEDS - 1}"), AfterValidator(_check_different)]
Calibrations = Annotated[
    Literal["auto"] | Annotated[list[Annotated[float, Field(gt=-EXTREME, lt=EXTREME)]],
                                AfterValidator(_check_different)],
    wanted(f"`auto` or a list of different numbers between -{EXTREME:.0f} and {EXTREME:.0f}, such "
           f"as [0, 1, 2, 4]")]
Opts = Annotated[dict[str, Any], MAY_BE_NULL, AfterValidator(_check_opts)]


class Split(Keys):
    """Classes declared unseen, with data settings of the split's own."""

    unseen: Annotated[
        list[Annotated[str, Field(min_length=1)]], Field(min_length=1),
        BeforeValidator(lambda names: [name.strip() for name in names.split(",")]
                        if isinstance(names, str) else names),
        wanted("a list of class names, the unseen ones")]
    opts: Opts = {}

    @model_validator(mode="before")
    @classmethod
    def _take_names_alone(cls, content: Any) -> Any:
        return content if isinstance(content, dict) else {"unseen": content}


class Method(Keys):
    """A method: another config, YAML files merged over it, dotted settings."""

    config: str | None = None
    include: Annotated[
        list[str], BeforeValidator(lambda path: [path] if isinstance(path, str) else path)] = []
    opts: Opts = {}


@dataclass(frozen=True, order=True)
class Cell:
    """One training: a method on a split with a seed of stage 1 and one of the stages after."""

    split: str
    stage1_seed: int
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{self.split} {self.method} stage1_seed{self.stage1_seed}_seed{self.seed}"


class Plan(Keys, frozen=False):
    """A comparison as its YAML file describes it; ``Plan.read`` reads one.

    Paths in the file are relative to its folder, and ``{split}`` in them stands for the split's
    name.
    """

    config: str = key(..., "the config of all methods, and of the stages they share")
    opts: Opts = key({}, "dotted settings for all, such as `generator.iters: 500`; `--opts` on the "
                         "command line are stronger than all others")
    splits: Annotated[dict[Name, Split], Field(min_length=1)] = key(
        ..., "name → unseen classes, or name → `{unseen: [...], opts: {...}}` with data settings "
             "of its own")
    stage1_seeds: Seeds = key([0], "seeds of the segmentor and the features")
    seeds: Seeds = key([0], "seeds of the stages after them")
    methods: Annotated[dict[Name, Annotated[Method, MAY_BE_NULL]], Field(min_length=1)] = key(
        ..., "name → `{}` or any of `config`: another config; `include`: YAML files merged over "
             "it; `opts`: dotted settings, applied after those of the split")
    reference: str = key("", "paired differences are to this one", "the first method")
    paper: Literal["voc", "context", "ablation"] | None = key(
        None, "figures of the paper beside ours, by the names of splits and methods: `voc`, "
              "`context` or `ablation` (`paddle_csrl/assets/paper_tables.yml`, with its misprints "
              "noted)")
    calibrations: Calibrations = key(
        [], "where every cell is scored as well, for the seen–unseen curve: `auto`, which takes "
            "for each cell the calibrations δ that cost the seen classes certain shares; or δ in "
            "logit units, `[0, 0.5, 1, 2, 4]`; training does not repeat")
    save_dir: Annotated[Path, BeforeValidator(lambda folder: folder or "")] = key(
        "", "folder of everything", "`output/NAME`")

    _path: str = PrivateAttr("")
    _command_opts: dict[str, Any] = PrivateAttr(default_factory=dict)
    _dics: dict[tuple[str, str], dict[str, Any]] = PrivateAttr(default_factory=dict)

    @classmethod
    def read(cls, path: str, opts: Sequence[str] = (), save_dir: str | None = None) -> "Plan":
        """Read a comparison.

        Args:
            path: the file.
            opts: ``key.subkey=value`` overrides for all cells, stronger than the file.
            save_dir: folder of everything, in place of the file's.

        Raises:
            UserError: a key or value that is none; the message names it.
        """
        plan = read_keys(cls, load_yaml(path), path)
        plan._path, plan._command_opts = path, parse_opts(opts)
        try:
            _check_opts(plan._command_opts)
        except ValueError as error:
            raise UserError(f"--opts {error}") from None
        plan.save_dir = save_dir or plan.save_dir or os.path.join("output", plan.name)
        plan.reference = plan.reference or next(iter(plan.methods))
        if plan.reference not in plan.methods:
            raise UserError(f"{path}: `reference: {plan.reference}` is none of the methods "
                            f"{', '.join(plan.methods)}")
        plan._check_files()
        return plan

    def _check_files(self) -> None:
        named = [("config", self.config)]
        for name, method in self.methods.items():
            named += [(f"methods.{name}.config", method.config)] if method.config else []
            named += [(f"methods.{name}.include", path) for path in method.include]
        for place, path in named:
            for split in self.splits:
                if not os.path.isfile(self.file(path, split)):
                    raise UserError(f"{self._path}: `{place}: {path}`: there is no file "
                                    f"{self.file(path, split)}")

    @property
    def name(self) -> str:
        return os.path.splitext(os.path.basename(self._path))[0]

    def file(self, name: str, split: str) -> str:
        """Path of a YAML file that the comparison names, for a split."""
        return os.path.normpath(os.path.join(os.path.dirname(self._path),
                                             name.replace("{split}", split)))

    def cells(self, methods: Iterable[str] | None = None,
              splits: Iterable[str] | None = None,
              stage1_seeds: Iterable[int] | None = None,
              seeds: Iterable[int] | None = None) -> list[Cell]:
        """The cells in the order they run, or those of a selection.

        Raises:
            UserError: something selected is not in the file.
        """
        methods = _chosen(methods, list(self.methods), "methods", self._path)
        splits = _chosen(splits, list(self.splits), "splits", self._path)
        stage1_seeds = _chosen(stage1_seeds, self.stage1_seeds, "stage1_seeds", self._path)
        seeds = _chosen(seeds, self.seeds, "seeds", self._path)
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
            self.file(self.config, split),
            _merged(self.opts, self.splits[split].opts, self._command_opts, self._unseen(split)),
            {"save_dir": self.stage1_dir(split, stage1_seed), "seed": stage1_seed,
             "use_vdl": False})

    def cell_config(self, cell: Cell, own_stage1: bool = False) -> ZeroShotConfig:
        """The config of a cell.

        Args:
            cell: the cell.
            own_stage1: whether the cell trains its own segmentor. Its seed is then one of the
                cell's, so that cells with different seeds are different trainings.
        """
        seed = _OWN_SEEDS * cell.stage1_seed + cell.seed if own_stage1 else cell.stage1_seed
        return self._load(cell, seed=seed, **{
            f"{stage}.{name}": value for stage in _later_stages(self._dic(cell))
            for name, value in (("seed", cell.seed), ("save_interval", _NEVER))})

    def _load(self, cell: Cell, **overrides: Any) -> ZeroShotConfig:
        """The config of the cell's method on its split, but for the seeds."""
        method = self.methods[cell.method]
        return ZeroShotConfig(
            self.file(method.config or self.config, cell.split),
            _merged(self.opts, self.splits[cell.split].opts, method.opts, self._command_opts,
                    self._unseen(cell.split)),
            {"save_dir": self.cell_dir(cell), "use_vdl": False, "keep_checkpoint_max": 1,
             **overrides},
            includes=[self.file(path, cell.split) for path in method.include])

    def _dic(self, cell: Cell) -> dict[str, Any]:
        """The inputs of all scores of the method on the split, but for the seeds."""
        place = (cell.split, cell.method)
        if place not in self._dics:
            self._dics[place] = dic = self._load(cell).dic
            for section, names in _IRRELEVANT.items():
                content = dic.get(section) if section else dic
                for name in names if isinstance(content, dict) else ():
                    content.pop(name, None)
        return self._dics[place]

    def digest(self, cell: Cell) -> str:
        """A checksum over all settings that the cell's score depends on."""
        dic = {**self._dic(cell), "seed": cell.stage1_seed}
        dic.update({stage: {**dic[stage], "seed": cell.seed} for stage in _later_stages(dic)})
        text = json.dumps(dic, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def _unseen(self, split: str) -> dict[str, Any]:
        return {"zero_shot.unseen": list(self.splits[split].unseen)}


def _later_stages(dic: dict[str, Any]) -> list[str]:
    return [stage for stage in _LATER_STAGES if isinstance(dic.get(stage), dict)]


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
        for name, value in layer.items():
            merged.pop(name, None)
            merged[name] = value
    return merged
