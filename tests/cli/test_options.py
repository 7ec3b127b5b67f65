"""Flags that several tools share."""

import pytest

from paddle_csrl.cli import train, val
from paddle_csrl.cli.options import stage_overrides
from paddle_csrl.config.schema import SECTIONS, StageSection


@pytest.mark.parametrize("stage, prefix", [
    (None, ""), ("segmentor", ""),
    *((name, f"{name}.") for name, kind in SECTIONS.items() if issubclass(kind, StageSection))])
def test_a_training_flag_means_the_section_of_its_stage(stage, prefix):
    args = train.parse_args(["-c", "c.yml", "--save_interval", "10", "--log_iters", "5"])
    overrides = stage_overrides(args, stage)
    assert overrides[f"{prefix}save_interval"] == 10 and overrides[f"{prefix}log_iters"] == 5


def test_opts_given_twice_add_up():
    args = val.parse_args(["-c", "c.yml", "--model_path", "m", "--opts", "a=1", "b=2",
                           "--aug_eval", "--opts", "c=3"])
    assert args.opts == ["a=1", "b=2", "c=3"]
    assert val.parse_args(["-c", "c.yml", "--model_path", "m"]).opts == []


def test_the_help_has_meaning_and_default_of_the_key(capsys):
    with pytest.raises(SystemExit):
        train.parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--keep_checkpoint_max N checkpoints kept per stage (default: 3)" in text
