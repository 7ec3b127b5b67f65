"""Reading a CSRL config: a stock PaddleSeg segmentor config plus three sections.

The top-level keys are stage 1, as PaddleSeg reads them. ``zero_shot`` names the unseen classes
and their embeddings; ``generator`` and ``classifier`` hold stages 2 and 3 under PaddleSeg's own
key names (``iters``, ``optimizer``, ``loss`` ...). ``docs/configs.md`` lists every key.
"""

import copy
import difflib
import inspect
import os
from typing import Any, Dict, Iterable, Optional

import yaml
from paddleseg.cvlibs import Config, manager
from paddleseg.cvlibs.config import merge_config_dicts
from paddleseg.cvlibs.config_checker import DefaultLossRule

from paddle_csrl.errors import UserError

_TRAINING_KEYS = {"iters", "batch_size", "optimizer", "lr_scheduler", "loss", "model", "seed"}

#: The keys a config may hold, by section; "" is the top level.
KNOWN_KEYS = {
    "": _TRAINING_KEYS | {
        "train_dataset", "val_dataset", "test_config", "to_static_training",
        "zero_shot", "generator", "classifier",
        "save_dir", "save_interval", "log_iters", "num_workers", "keep_checkpoint_max",
        "do_eval", "use_vdl", "precision", "amp_level",
    },
    "zero_shot": {"unseen", "policy", "class_names", "embeddings", "features", "cache_dir"},
    "zero_shot.embeddings": {"path", "normalize", "words"},
    "zero_shot.features": {"samples_per_class", "normalize", "transforms"},
    "generator": _TRAINING_KEYS - {"batch_size"} | {
        "num_samples", "relation", "relation_warmup", "save_interval", "log_iters"},
    "classifier": _TRAINING_KEYS - {"model"} | {
        "unseen_share", "class_balance", "num_generated", "calibration",
        "save_interval", "log_iters"},
    "test_config": {"aug_eval", "scales", "flip_horizontal", "flip_vertical", "is_slide",
                    "stride", "crop_size"},
}

_REQUIRED_KEYS = {
    "": ("train_dataset", "val_dataset", "model", "loss", "optimizer", "lr_scheduler",
         "iters", "batch_size", "zero_shot", "generator", "classifier"),
    "zero_shot": ("unseen",),
    "generator": ("model", "loss", "optimizer", "lr_scheduler", "iters", "num_samples"),
    "classifier": ("loss", "optimizer", "lr_scheduler", "iters", "batch_size"),
}

_COMPONENTS = (manager.MODELS, manager.BACKBONES, manager.DATASETS, manager.TRANSFORMS,
               manager.LOSSES, manager.OPTIMIZERS)


def load_yaml(path: str) -> Dict[str, Any]:
    """Read a config with its ``_base_`` files, PaddleSeg's way but with the safe YAML loader.

    Raises:
        UserError: the file is missing, is not a ``.yml``, or is not well-formed.
    """
    if not os.path.isfile(path):
        raise UserError(f"no config at {path}; give a YAML file with -c/--config")
    if not path.endswith((".yml", ".yaml")):
        raise UserError(f"config {path} must end in .yml or .yaml")
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not well-formed YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no `key: value` pairs")
    bases = content.pop("_base_", [])
    for base in [bases] if isinstance(bases, str) else bases:
        base_content = load_yaml(os.path.join(os.path.dirname(path), base))
        content = merge_config_dicts(content, base_content)
    return content


class ZeroShotConfig(Config):
    """A PaddleSeg ``Config`` with the sections ``zero_shot``, ``generator`` and ``classifier``.

    Args:
        path (str): the YAML file.
        opts (list[str], optional): ``key.subkey=value`` overrides, as PaddleSeg's ``--opts``.
        overrides (dict, optional): dotted key to value, applied last (command-line flags).
            A value of ``None`` leaves the key as it is.

    Raises:
        UserError: a missing, misspelt or ill-typed key, naming it and the nearest known one.
    """

    def __init__(self, path: str, opts: Optional[Iterable[str]] = None,
                 overrides: Optional[Dict[str, Any]] = None):
        self.path = path
        self.overrides = {key: value for key, value in (overrides or {}).items()
                          if value is not None}
        opts = list(opts or [])
        for item in opts:
            if item.count("=") != 1:
                raise UserError(f"--opts {item}: write key=value, such as zero_shot.policy=ignore")
        try:
            super().__init__(path, opts=opts)
        except (AssertionError, RuntimeError) as error:
            _raise_in_one_line(error, path)

    @classmethod
    def _parse_from_yaml(cls, path: str, *args, **kwargs) -> Dict[str, Any]:
        return load_yaml(path)

    def update_config_dict(self, dic: dict, *args, **kwargs) -> dict:
        """Apply ``opts`` and the overrides, then check every key."""
        dic = Config.update_config_dict(copy.deepcopy(dic), *args, **kwargs)
        for dotted, value in self.overrides.items():
            *parents, last = dotted.split(".")
            section = dic
            for parent in parents:
                section = section.setdefault(parent, {})
            section[last] = value
        _unwrap_zero_shot_datasets(dic)
        check_keys(dic, self.path)
        return dic

    @property
    def zero_shot(self) -> Dict[str, Any]:
        return self.dic["zero_shot"]

    @property
    def save_dir(self) -> str:
        stem = os.path.splitext(os.path.basename(self.path))[0]
        return self.dic.get("save_dir") or os.path.join("output", stem)

    @property
    def seed(self) -> int:
        return self.dic.get("seed", 0)

    def option(self, key: str, default: Any, stage: str = "") -> Any:
        """A run option such as ``log_iters``: the stage's own value, else the top level's."""
        return self.dic.get(stage, {}).get(key, self.dic.get(key, default))


class StageConfig(Config):
    """A PaddleSeg ``Config`` made from one section, for the stages that have no file of their own.

    Args:
        section (dict): the section ``generator`` or ``classifier``.
    """

    def __init__(self, section: Dict[str, Any]):
        # PaddleSeg's builder asks for the type of the data set; `Dataset` is the one for which
        # it infers nothing.
        self.dic = {**copy.deepcopy(section), "train_dataset": {"type": "Dataset"}}
        DefaultLossRule("loss").check_and_correct(self)


def check_keys(dic: Dict[str, Any], place: str) -> None:
    """Check section keys against ``KNOWN_KEYS`` and component arguments against signatures.

    Raises:
        UserError: naming the key, where it stands and the nearest known key.
    """
    for section, known in KNOWN_KEYS.items():
        content = _section(dic, section)
        if content is None and section not in _REQUIRED_KEYS:
            continue
        if not isinstance(content, dict):
            raise UserError(f"{place}: `{section}` must hold `key: value` pairs, got {content!r}")
        for key in content:
            _check_known(key, known, section, place)
        for key in _REQUIRED_KEYS.get(section, ()):
            if key not in content:
                raise UserError(f"{place}: `{_join(section, key)}` is missing; set it or inherit "
                                f"it from a file under configs/_base_/")
    _check_values(dic, "", place)


def _section(dic: Dict[str, Any], dotted: str) -> Any:
    for key in dotted.split(".") if dotted else ():
        dic = dic.get(key) if isinstance(dic, dict) else None
    return dic


def _join(section: str, key: str) -> str:
    return f"{section}.{key}" if section else str(key)


def _check_known(key: str, known: Iterable[str], section: str, place: str) -> None:
    if key in known:
        return
    nearest = difflib.get_close_matches(str(key), list(known), n=1)
    hint = f"did you mean `{nearest[0]}`?" if nearest else f"known: {', '.join(sorted(known))}"
    raise UserError(f"{place}: unknown key `{_join(section, key)}`; {hint}")


def _check_values(value: Any, dotted: str, place: str) -> None:
    """Walk the config: component arguments must exist, numbers must be numbers."""
    if isinstance(value, dict):
        if "type" in value and dotted.rsplit(".", 1)[-1] != "lr_scheduler":
            _check_component(value, dotted, place)
        for key, item in value.items():
            _check_values(item, _join(dotted, key), place)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_values(item, f"{dotted}[{index}]", place)
    elif isinstance(value, str) and _is_exponent_number(value):
        raise UserError(f"{place}: `{dotted}: {value}` is text to YAML; write a dot, "
                        f"such as 1.0e-4")


def _is_exponent_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "e" in text.lower() and any(character.isdigit() for character in text)


def _check_component(content: Dict[str, Any], dotted: str, place: str) -> None:
    name = _component_name(content)
    found = [registry[name] for registry in _COMPONENTS if name in registry.components_dict]
    if not found:
        known = [key for registry in _COMPONENTS for key in registry.components_dict]
        nearest = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"{place}: `{dotted}.type: {name}` is no registered component{hint}")
    target = found[0].__init__ if inspect.isclass(found[0]) else found[0]
    parameters = inspect.signature(target).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = {parameter.name for parameter in parameters} - {"self"}
    for key in content:
        if key not in ("type", "_inherited_"):
            _check_known(key, known, dotted, place)


def _component_name(content: Dict[str, Any]) -> str:
    """The component that PaddleSeg makes of ``type``, which for optimizers has older spellings."""
    name = {"adam": "Adam", "sgd": "SGD"}.get(content["type"], content["type"])
    return "Momentum" if name == "SGD" and "momentum" in content else name


def _unwrap_zero_shot_datasets(dic: Dict[str, Any]) -> None:
    """Let a config name ``type: ZeroShotDataset`` itself.

    The pipeline wraps the data sets from ``zero_shot``, so that PaddleSeg's own checks see the
    stock data set; a wrapper written out in the config is taken apart into the same form.
    """
    for name in ("train_dataset", "val_dataset"):
        content = dic.get(name)
        if not isinstance(content, dict) or content.get("type") != "ZeroShotDataset":
            continue
        content = dict(content)
        content.pop("type")
        dic[name] = content.pop("dataset", None)
        section = dic.setdefault("zero_shot", {})
        for key, value in content.items():
            if section.setdefault(key, value) != value:
                raise UserError(f"`{name}.{key}: {value}` contradicts "
                                f"`zero_shot.{key}: {section[key]}`; keep one of them")


def _raise_in_one_line(error: Exception, place: str) -> None:
    """Turn PaddleSeg's many-line config errors into one line."""
    cause = error.__cause__ or error.__context__
    if isinstance(error, UserError):
        raise error
    raise UserError(f"{place}: {' '.join(str(cause or error).split())}") from None
