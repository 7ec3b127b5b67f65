"""Reading a CSRL config: a stock PaddleSeg segmentor config plus three sections.

The top-level keys are stage 1, as PaddleSeg reads them. ``zero_shot`` names the unseen classes
and their embeddings; ``generator`` and ``classifier`` hold stages 2 and 3 under PaddleSeg's own
key names (``iters``, ``optimizer``, ``loss`` ...). With ``projection``, stage 1 learns a
projection onto the embeddings and there is nothing to generate. ``docs/configs.md`` lists every
key.
"""

import ast
import copy
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from paddleseg.cvlibs import Config
from pydantic import ValidationError

from paddle_csrl import limits
from paddle_csrl.config.components import check_components, try_losses, try_transforms
from paddle_csrl.config.schema import SECTIONS, Section, Settings, StageSection
from paddle_csrl.config.wording import missing, user_error
from paddle_csrl.errors import UserError, one_line
from paddle_csrl.utils.yaml_files import read_yaml

AnySection = TypeVar("AnySection", bound=Section)


def load_yaml(path: str, children: Sequence[str] = ()) -> dict[str, Any]:
    """Read a config with its ``_base_`` files, PaddleSeg's way but with the safe YAML loader.

    Args:
        path (str): the file.
        children (sequence of str): the files that led here by their ``_base_``.

    Raises:
        UserError: a file is missing, is not a ``.yml``, is not well-formed, or is its own base,
            or there are more than ``limits.MOST_BASES``.
    """
    return _load(path, tuple(children), itertools.count(1))


def _load(path: str, children: tuple[str, ...], numbers: Iterator[int]) -> dict[str, Any]:
    """``load_yaml``; ``numbers`` counts the files."""
    _check_path(path, children)
    if next(numbers) > limits.MOST_BASES:
        raise UserError(f"{children[0]} is made of more than {limits.MOST_BASES} files by way of "
                        f"`_base_`, the last {path}; name fewer")
    if any(os.path.samefile(path, child) for child in children):
        raise UserError(f"{path} is its own `_base_`, by way of {children[-1]}")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no `key: value` pairs")
    bases = content.pop("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: `_base_: {bases}` must name one YAML file or a list of them")
    for base in bases:
        base_path = os.path.join(os.path.dirname(path), base)
        content = _overlay(content, _load(base_path, (*children, path), numbers))
    return content


def _check_path(path: str, children: Sequence[str] = ()) -> None:
    if not os.path.isfile(path):
        hint = (f"the `_base_` of {children[-1]}" if children
                else "give a YAML file that is there; the project's own are in the folder "
                     "configs/ of its repository")
        raise UserError(f"no config at {path}; {hint}")
    if not path.endswith((".yml", ".yaml")):
        raise UserError(f"config {path} must end in .yml or .yaml")


def merge(content: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """``base`` overridden by ``content``, section by section unless ``_inherited_: false``."""
    return _plain(_overlay(content, base))


def _overlay(content: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """``merge`` with that mark still in its place, for what may come below ``base``."""
    if not content.get("_inherited_", True):
        return content
    merged = dict(base)
    for key, value in content.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _overlay(value, base[key]) if both else value
    return merged


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) if isinstance(value, dict) else value
            for key, value in content.items() if key != "_inherited_"}


class ZeroShotConfig(Config):
    """A PaddleSeg ``Config`` with the sections ``zero_shot``, ``generator`` and ``classifier``.

    Args:
        path (str): the YAML file.
        opts (list[str] | dict, optional): ``key.subkey=value`` overrides, as PaddleSeg's
            ``--opts``, or dotted key to value.
        includes (sequence of str): YAML files merged over the file, the last one strongest.
        overrides (dict, optional): dotted key to value, applied last (command-line flags).
            A value of ``None`` leaves the key as it is, and no optional stage is added.

    Attributes:
        given (dict): all of the above in one. PaddleSeg's builder adds to ``dic`` as it builds;
            a file with those additions would not be the config that a run was made from.
        settings (Settings): the keys with their types and defaults.

    Raises:
        UserError: a missing, misspelt or ill-typed key, naming it and the nearest known one.
    """

    def __init__(self, path: str, opts: Iterable[str] | Mapping[str, Any] | None = None,
                 overrides: dict[str, Any] | None = None, includes: Sequence[str] = ()):
        self.path, self.includes = path, includes
        self._opts = opts if isinstance(opts, Mapping) else parse_opts(opts or [])
        self._overrides = overrides or {}
        _check_path(path)
        try:
            super().__init__(path)
        except (AssertionError, RuntimeError) as error:
            cause = error.__cause__ or error.__context__ or error
            raise UserError(f"{path}: {one_line(cause)}") from None
        self.settings = _typed_settings(self.dic, path)  # with what PaddleSeg's rules completed
        self.given = copy.deepcopy(self.dic)

    @classmethod
    def _parse_from_yaml(cls, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return load_yaml(path)

    def update_config_dict(self, dic: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Apply ``opts`` and the overrides, then check every key."""
        dic = _plain(dic)
        for include in self.includes:
            dic = merge(load_yaml(include), dic)
        dic = _unshared(dic)
        for dotted, value in self._opts.items():
            set_key(dic, dotted, _unshared(value, dotted))
        for dotted, value in self._overrides.items():
            kind = SECTIONS.get(dotted.partition(".")[0])
            if value is not None and (
                    kind is None or kind.required or dic.get(kind.name) is not None):
                set_key(dic, dotted, _unshared(value))
        _unwrap_zero_shot_datasets(dic)
        read_settings(dic, self.path)
        return dic

    def section(self, name: str) -> Any:
        """The typed section of a stage; None where the config has none."""
        return self.settings.section(name)

    @property
    def test_config(self) -> dict[str, Any]:
        content = dict(self.dic.get("test_config") or {})
        if isinstance(content.get("scales"), int):  # PaddleSeg takes floats alone
            content["scales"] = float(content["scales"])
        return content

    @property
    def projection(self) -> Any:
        """The section of SPNet and SegDeViSE, if the config has one."""
        return self.section("projection")

    @property
    def leaks(self) -> str | None:
        """The way of labels of unseen classes into training, where the config lets them."""
        classifier = self.section("classifier")
        if classifier is None or classifier.mode != "legacy":
            return None
        return ("`classifier.mode: legacy` lays features out by the real labels of the training "
                "images with unseen classes, so that these scores are not zero-shot")

    @property
    def transductive(self) -> bool:
        """True if images of unseen classes take part without their labels."""
        return self.section("self_training") is not None

    @property
    def remark(self) -> str:
        """The remark beside the scores of such a config; mostly empty."""
        return ", ".join(["LEAKS labels of unseen classes"] * bool(self.leaks)
                         + ["transductive"] * self.transductive)

    @property
    def save_dir(self) -> str:
        stem = os.path.splitext(os.path.basename(self.path))[0]
        return self.settings.save_dir or os.path.join("output", stem)


def parse_opts(items: Iterable[str]) -> dict[str, Any]:
    """Dotted key to value of ``key=value`` texts, as ``--opts`` takes them.

    A value is a Python literal, true, false, null, or text. Keys are in the order to be applied: of
    one that is given twice the last place counts, which may be after that of its section.

    Raises:
        UserError: one is not ``key=value``, or longer than any.
    """
    words = {"true": True, "false": False, "null": None}
    opts: dict[str, Any] = {}
    for item in items:
        key, _, text = item.partition("=")
        if item.count("=") != 1:
            raise UserError(f"--opts {item}: write key=value, such as zero_shot.policy=ignore")
        if len(item) > limits.LONGEST_OVERRIDE or key.count(".") >= limits.DEEPEST_YAML:
            raise UserError(f"--opts {item[:40]}...: no key or value has {len(item)} letters; put "
                            f"long lists into a file")
        opts.pop(key, None)
        try:
            opts[key] = (words[text.lower()] if text.lower() in words
                         else ast.literal_eval(text))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            opts[key] = text
    return opts


def _unshared(value: Any, place: str = "a key") -> Any:
    """Return a deep copy without shared parts: a YAML anchor makes one object of many places.

    A tuple, which ``--opts`` can give, becomes the list that YAML can hold.

    Raises:
        UserError: a whole number has more digits than any that means something, and than Python
            prints; the message names ``place``.
    """
    if isinstance(value, dict):
        return {key: _unshared(item, place) for key, item in value.items()}
    if isinstance(value, int) and abs(value) >= 10**limits.MOST_DIGITS:
        raise UserError(f"`{place}` holds a whole number of {value.bit_length()} bits; write one "
                        f"of at most {limits.MOST_DIGITS} digits")
    return ([_unshared(item, place) for item in value] if isinstance(value, (list, tuple))
            else value)


def set_key(dic: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a dotted key, making the sections on its way that are missing or empty.

    A number is a place in a list, as in ``generator.loss.types.1.gamma``.

    Raises:
        UserError: the way leads through what is neither pairs nor a list, or past a list's end.
    """
    content: Any = dic
    above, names = "", dotted.split(".")
    for depth, name in enumerate(names, 1):
        key: Any = name
        if isinstance(content, list) and name.isdecimal() and len(name) < 10 \
                and int(name) < len(content):
            key = int(name)
        elif not isinstance(content, dict):
            raise UserError(f"`{dotted}: {value}` cannot be set, for `{above}` holds {content!r}, "
                            f"not `key: value` pairs")
        if depth == len(names):
            content[key] = value
        elif isinstance(content, dict) and content.get(key) is None:
            content[key] = {}
        content, above = content[key], name


def read_settings(dic: dict[str, Any], place: str) -> Settings:
    """Check the content of a config and give it types.

    Args:
        dic: the content.
        place: the file, for messages.

    Raises:
        UserError: a missing, misspelt or ill-typed key or value, or parts that do not go together.
    """
    check_components(dic, place)
    settings = _typed_settings(dic, place)
    try:
        for dataset in ("train_dataset", "val_dataset"):
            content = getattr(settings, dataset)
            try_transforms(content.transforms, f"{dataset}.transforms", content.img_channels)
        try_transforms(settings.zero_shot.features.transforms or [],
                       "zero_shot.features.transforms", settings.train_dataset.img_channels)
        try_losses(settings.loss, "loss")
        for item in (settings, *settings.complete_sections()):
            item.check(settings)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    return settings


def _typed_settings(dic: dict[str, Any], place: str) -> Settings:
    dic = _unshared(dic)  # PaddleSeg adds to the content as it builds
    settings = _typed(Settings, {key: value for key, value in dic.items() if key not in SECTIONS},
                      "", place)
    given = {name for name in SECTIONS if dic.get(name) is not None}
    replaced = {other for name in given for other in SECTIONS[name].replaces}
    needed = {name for name, kind in SECTIONS.items() if kind.required} - replaced
    for name in (name for name in SECTIONS if name in given | needed):
        if name not in dic:
            raise missing(name, place)
        settings.add(_typed(SECTIONS[name], dic[name], name, place, settings,
                            whole=name not in replaced))
    return settings


def _typed(kind: type[AnySection], content: Any, name: str, place: str,
           top: Settings | None = None, whole: bool = True) -> AnySection:
    """The section ``name``; what a stage shares with the ``top`` level is filled in."""
    if isinstance(content, dict) and issubclass(kind, StageSection):
        content = {**{key: getattr(top, key) for key in StageSection.model_fields}, **content}
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        mistake = user_error(error, kind, name, place, whole)
        if mistake:
            raise mistake from None
    return kind.model_construct(**content)


def _unwrap_zero_shot_datasets(dic: dict[str, Any]) -> None:
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
