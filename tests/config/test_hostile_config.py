"""Configs and overrides that announce a memory full, or numbers that cannot be printed."""

import os
import time

import pytest

from helpers.tiny_runs import config_path
from paddle_csrl import limits
from paddle_csrl.config import ZeroShotConfig, load_yaml
from paddle_csrl.deploy.exported import DeployInfo
from paddle_csrl.errors import UserError, user_message

NINE = ",".join(["{}"] * 9)


def laughs(first, line):
    """Twelve lines, each of nine aliases of the one before: 9 ** 11 values."""
    return first + "".join(f"a{level}: &a{level} {line.replace('{}', f'*a{level - 1}')}\n"
                           for level in range(1, 12))


HOSTILE = {
    "aliases": (laughs("a0: &a0 [x]\n", f"[{NINE}]"), "more than 100000 values"),
    "merged aliases": (laughs("a0: &a0 {k: 1}\n", f"{{<<: [{NINE}]}}"), "more than 100000 values"),
    "its own list": ("a: &a [*a]\n", "the alias stands within"),
    "its own pairs": ("a: &a {b: {c: *a}}\n", "the alias stands within"),
    "brackets": ("a: " + "[" * 10**5, "nested deeper than 50"),
    "braces": ("a: " + "{a: " * 10**4, "nested deeper than 50"),
    "dashes": ("- " * 10**4, "nested deeper than 50"),
    "indents": ("".join(" " * level + "a:\n" for level in range(200)), "nested deeper than 50"),
    "digits": ("iters: " + "9" * 5000, "a number of 5000 digits"),
    "hexadecimal digits": ("iters: 0x" + "f" * 10**5, "a number of 100002 digits"),
    "sixties": ("iters: 1" + ":1" * 10**4, "a number of 20001 digits"),
    "no date": ("a: 2001-99-99", "month must be in 1..12"),
    "no number": ("a: !!int ''", "not well-formed YAML"),
    "size": ("a: [" + "x," * 10**6 + "]", "bytes, which no config has"),
}


@pytest.mark.parametrize("content, match", HOSTILE.values(), ids=HOSTILE)
def test_yaml(tmp_path, content, match):
    path = tmp_path / "x.yml"
    path.write_text(content)
    before = time.monotonic()
    for read in (load_yaml, DeployInfo.read):
        with pytest.raises(UserError, match=match) as caught:
            read(str(path))
        assert str(path) in str(caught.value) and len(user_message(caught.value)) < 1000
    assert time.monotonic() - before < 10


def test_aliases_as_people_use_them(tmp_path):
    path = tmp_path / "x.yml"
    path.write_text("a: &a {b: [1, 2]}\nc: *a\nd: {<<: *a, e: 3}\nf: &f x\ng: [*f, *f]\n")
    inner = {"b": [1, 2]}
    assert load_yaml(str(path)) == {"a": inner, "c": inner, "d": {**inner, "e": 3}, "f": "x",
                                    "g": ["x", "x"]}


def test_bases_that_name_each_other_nine_fold(tmp_path):
    for level in range(6):
        (tmp_path / f"{level}.yml").write_text(f"_base_: [{','.join([f'{level + 1}.yml'] * 9)}]\n")
    (tmp_path / "6.yml").write_text("a: 1\n")
    with pytest.raises(UserError, match="0.yml is made of more than 100 files"):
        load_yaml(str(tmp_path / "0.yml"))


@pytest.mark.parametrize("override, match", [
    ("iters=" + "9" * 5000, "iters: 999"), ("iters=0x" + "f" * 5000, "`iters` holds a whole number"
                                                                    " of 20000 bits"),
    ("lr_scheduler.learning_rate=1e999999", "inf` must be a finite number"),
    ("iters=" + "[" * 90000, r"iters: \[\[\["), ("iters=" + "-" * 90000 + "1", "iters: ---"),
    ("iters=" + "[" * 150 + "]" * 150, r"iters: \[\[\["),
    ("iters=" + "9" * 10**6, "no key or value has 1000006 letters"),
    ("a." * 40000 + "b=1", "no key or value has"), ("a." * 49 + "b=1", "unknown key `a`"),
    ("generator.loss.types." + "9" * 5000 + ".gamma=1", "generator.loss.types.999")])
def test_overrides(override, match):
    with pytest.raises(UserError, match=match) as caught:
        ZeroShotConfig(config_path("csrl_shapes"), [override])
    message = user_message(caught.value)
    assert "\n" not in message and len(message) < 2100


def test_a_long_message_keeps_its_ends():
    message = user_message(UserError(f"x.yml: {'9' * 10**6} is no number; write one"))
    assert message.startswith("x.yml: 999") and message.endswith("999 is no number; write one")
    assert len(message) < 2100


def test_every_config_of_the_project_is_far_below_the_limits():
    folder = os.path.dirname(config_path("csrl_shapes"))
    sizes = [os.path.getsize(os.path.join(parent, name))
             for parent, _, names in os.walk(folder) for name in names]
    assert len(sizes) > 20 and max(sizes) < limits.MOST_YAML_BYTES / 10
