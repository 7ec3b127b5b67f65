"""Look at an installation, and at a config, and say what to mend.

Versions, CPU and GPU, memory, and whether Paddle computes what it should. With -c also the config:
its data and labels, the words of its classes, weights files, and whether disk and memory do for
its feature bank and checkpoints. Labels are read as training reads them; what was read is kept in
the cache for it. Nothing else is written and nothing downloaded, but AttributeShapes, the embedded
data set, is drawn.

Every line is ok, a warning, or a problem, the latter two with what to do. A package that is missing
or broken, Paddle included, is a line as well.

exit status: 0, or 1 if there is a problem; warnings do not count

examples:
  python tools/doctor.py
  python tools/doctor.py -c configs/csrl_voc_unseen4.yml
  python tools/doctor.py -c configs/csrl_custom.yml --data DIR
"""

import argparse
import collections
import json
from typing import Any

from paddle_csrl.cli import make_parser
from paddle_csrl.doctor.installation import PROBLEM, WARNING, examine
from paddle_csrl.errors import UserError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    # The flags of cli.options are not to be had without Paddle.
    parser = make_parser(__name__, __doc__)
    parser.add_argument("-c", "--config", metavar="FILE",
                        help="a YAML config to look at, such as configs/csrl_shapes.yml")
    parser.add_argument("--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                        help="override any key of the config, as for tools/train.py")
    parser.add_argument("--data", metavar="DIR",
                        help="your data set in place of the config's, as for tools/train.py")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Return ``findings`` (list of ``Finding``) and ``failed``, how many of them are problems."""
    args = parse_args(argv)
    if (args.opts or args.data) and not args.config:
        raise UserError("--opts and --data override keys of a config; name it with -c/--config")
    findings = []
    for finding in examine(args.config, args.opts, args.data):
        findings.append(finding)
        if not args.json:
            print(finding, flush=True)
    numbers = collections.Counter(finding.status for finding in findings)
    if args.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2,
                         ensure_ascii=False))
    else:
        print(f"problems: {numbers[PROBLEM]}, warnings: {numbers[WARNING]}")
    return {"findings": findings, "failed": numbers[PROBLEM]}
