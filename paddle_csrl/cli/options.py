"""Flags that several tools share, under PaddleSeg's names."""

import argparse
import os
import textwrap
from collections.abc import Sequence
from typing import Any

from paddle_csrl.config.schema import SECTIONS, Section, Settings, TestConfig, help_line
from paddle_csrl.datasets.data_folder import data_opts
from paddle_csrl.errors import UserError
from paddle_csrl.stages import STAGES, stage_names


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """The config and what overrides it."""
    parser.add_argument("-c", "--config", required=required, metavar="FILE",
                        help="the YAML config, such as configs/csrl_shapes.yml")
    add_opts(parser)


def add_opts(parser: argparse.ArgumentParser, of: str = "the config", such_as: str = (
        "zero_shot.unseen=\"['cow','motorbike']\" generator.iters=500")) -> None:
    """Add the flags that override the config."""
    parser.add_argument("--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                        help=f"override any key of {of}, such as {such_as}")


def add_data(parser: argparse.ArgumentParser) -> None:
    """The data set of one's own."""
    parser.add_argument("--data", metavar="DIR",
                        help="your data set in place of the config's: a folder with train.txt, "
                             "val.txt and classes.txt")


def add_run(parser: argparse.ArgumentParser) -> None:
    """The run that a tool is about."""
    parser.add_argument("--run", required=True, metavar="DIR",
                        help="folder of a finished run, such as output/demo")


def add_device(parser: argparse.ArgumentParser,
               choices: Sequence[str] = ("cpu", "gpu", "xpu", "npu", "mlu")) -> None:
    """Where to compute."""
    parser.add_argument("--device", default="gpu", choices=choices,
                        help="where to compute; falls back to cpu where there is none "
                             "(default: %(default)s)")


def add_computing(parser: argparse.ArgumentParser) -> None:
    """Add the flags on how to compute."""
    add_device(parser)
    _add_keys(parser, Settings, ("num_workers",), type=int, metavar="N")
    _add_keys(parser, Settings, ("precision",), choices=["fp32", "fp16"])
    _add_keys(parser, Settings, ("amp_level",), choices=["O1", "O2"])


def _add_keys(parser: argparse.ArgumentParser, kind: type[Section], keys: Sequence[str],
              **options: Any) -> None:
    """Add flags that override keys of the config, which say what they mean."""
    for key in keys:
        parser.add_argument(f"--{key}", help=help_line(kind, key), default=None, **options)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Flags of every tool that trains or evaluates from a config."""
    add_config(parser)
    add_data(parser)
    add_computing(parser)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Flags that name a trained model: its config and weights, or a run's folder."""
    add_config(parser, required=False)
    parser.add_argument("--model_path", metavar="FILE",
                        help="the weights, such as output/demo/model.pdparams")
    parser.add_argument("--run", metavar="DIR",
                        help="folder of a finished run, such as output/demo: stands for "
                             "-c DIR/config.yml --model_path DIR/model.pdparams, or "
                             "model.safetensors as exported")


def fill_in_run(args: argparse.Namespace) -> None:
    """Set ``config`` and ``model_path`` from ``--run``, unless they are given themselves.

    Raises:
        UserError: neither is given, or the run's folder lacks them.
    """
    for flag, *names in (("config", "config.yml"),
                         ("model_path", "model.pdparams", "model.safetensors")):
        if getattr(args, flag):
            continue
        if not args.run:
            raise UserError(f"no --{flag}; give --config FILE and --model_path FILE, or --run DIR "
                            f"for a finished run such as output/demo")
        paths = [os.path.join(args.run, name) for name in names]
        path = next(filter(os.path.isfile, paths), None)
        if path is None:
            raise UserError(f"--run {args.run}: no {names[0]} in this folder; name the folder of "
                            f"a finished run, such as output/demo")
        setattr(args, flag, path)


def add_images(parser: argparse.ArgumentParser) -> None:
    """Flags of the tools that predict images."""
    parser.add_argument("--image_path", required=True, metavar="PATH",
                        help="an image, a folder (searched with its subfolders) or a text file "
                             "with one image a line, relative to that file")
    parser.add_argument("--save_dir", default="output/result", metavar="DIR",
                        help="where the pictures go (default: %(default)s)")
    parser.add_argument("--confidence", action="store_true",
                        help="also write how sure each pixel is, grey 0 to 255 for 0 to 1")
    parser.add_argument("--custom_color", nargs="+", type=int, metavar="RGB",
                        help="colours of the first classes: three numbers from 0 to 255 each")


def add_test(parser: argparse.ArgumentParser, augment: str = "--aug_eval") -> None:
    """Flags of test-time augmentation and sliding windows, as PaddleSeg's tools.

    Args:
        augment (str): the name of the switch, which PaddleSeg's tools do not agree on.
    """
    parser.add_argument(augment, dest="aug_eval", action="store_true", default=None,
                        help=help_line(TestConfig, "aug_eval"))
    _add_keys(parser, TestConfig, ("scales",), nargs="+", type=float, metavar="S")
    _add_keys(parser, TestConfig, ("flip_horizontal", "flip_vertical", "is_slide"),
              action="store_true")
    _add_keys(parser, TestConfig, ("crop_size", "stride"), nargs=2, type=int, metavar=("W", "H"))


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Config overrides of ``add_computing``'s flags, and of ``add_test``'s if they are there."""
    given = {key: getattr(args, key) for key in ("num_workers", "precision", "amp_level")}
    return given | {f"test_config.{key}": getattr(args, key) for key in TestConfig.model_fields
                    if hasattr(args, key)}


def config_opts(args: argparse.Namespace) -> list[str]:
    """Put ``--data``, where a tool has it, and ``--opts``, which is stronger, into one list."""
    folder = getattr(args, "data", None)
    return [*(data_opts(folder) if folder is not None else ()), *args.opts]


def all_opts(args: argparse.Namespace) -> list[str]:
    """Put ``config_opts`` and the flags of ``add_computing`` into one list of overrides."""
    return [*config_opts(args), *(f"{key}={value}" for key, value in overrides(args).items()
                          if value is not None)]


def stage_overrides(args: argparse.Namespace, stage: str | None) -> dict[str, Any]:
    """Config overrides of the training flags, which mean the stage that ``--stage`` names."""
    section = f"{stage}." if stage in SECTIONS else ""
    keys = {"iters": "iters", "batch_size": "batch_size",
            "learning_rate": "lr_scheduler.learning_rate",
            "save_interval": "save_interval", "log_iters": "log_iters"}
    return {section + key: getattr(args, flag) for flag, key in keys.items()}


def add_training(parser: argparse.ArgumentParser) -> None:
    """Flags of training, as PaddleSeg's tools/train.py."""
    parser.add_argument("--stage", choices=stage_names(),
                        help="run this stage alone; finished earlier stages are needed "
                             "(default: all, skipping those already up to date)")
    parser.add_argument("--save_dir", metavar="DIR",
                        help="where everything is written (default: output/NAME of the config)")
    parser.add_argument("--iters", type=int, metavar="N",
                        help="iterations of the stage (without --stage: of stage 1)")
    parser.add_argument("--batch_size", type=int, metavar="N",
                        help="samples per iteration and device, of the stage as above")
    parser.add_argument("--learning_rate", type=float, metavar="LR",
                        help="initial learning rate of the stage as above")
    _add_keys(parser, Settings, ("seed", "log_iters", "save_interval", "keep_checkpoint_max"),
              type=int, metavar="N")
    _add_keys(parser, Settings, ("do_eval", "use_vdl"), action=argparse.BooleanOptionalAction)
    parser.add_argument("--resume_model", metavar="DIR",
                        help="checkpoint folder to go on from, such as "
                             "output/NAME/segmentor/iter_1000")
    parser.add_argument("--resume", action="store_true",
                        help="insist on going on from where a run was stopped, which happens "
                             "without the flag, too; with it iterations, batch size, optimizer "
                             "and schedule of that stage may be others")
    parser.add_argument("--restart", action="store_true",
                        help="run stages again that are up to date, and delete earlier results, "
                             "which otherwise are kept under another name if they took more than "
                             "a minute")


def stage_lines() -> str:
    """List the stages and what they do, for ``--help``."""
    return "\n".join(textwrap.fill(
        stage.help, 96, initial_indent=f"  {stage.name:<13} ", subsequent_indent=16 * " ")
        for stage in STAGES)
