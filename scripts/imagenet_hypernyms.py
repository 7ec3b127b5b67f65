"""Write what is above the classes of ImageNet-1k in WordNet: assets/imagenet1k/hypernyms.txt.

    python scripts/imagenet_hypernyms.py WordNet-3.0/dict/data.noun

The file of WordNet 3.0 is in its release and, for one, in the npm package WNdb 3.0.1. The words of
every class are compared with those in labels.txt. The outcome has a line for each class and each
synset above one, from the root down: its id, the ids of the synsets right above it, with commas
between them ("-" for the root), and its words, which are left out for the classes.
"""

import argparse
import os
import sys
from typing import NamedTuple

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from paddle_csrl.errors import UserError  # noqa: E402
from paddle_csrl.utils import write_text  # noqa: E402
from paddle_csrl.utils.io import asset  # noqa: E402

OUT = asset("imagenet1k", "hypernyms.txt")


class Synset(NamedTuple):
    """Words for one thing, and the ids of the synsets right above it."""

    words: str
    above: list[str]


def main(argv: list[str] | None = None) -> int:
    """Return the number of synsets written."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", metavar="FILE", help="data.noun of WordNet 3.0")
    args = parser.parse_args(argv)
    with open(args.database, encoding="ascii") as file:
        synsets = dict(read_synset(line) for line in file if not line.startswith(" "))
    with open(asset("imagenet1k", "labels.txt"), encoding="utf-8") as file:
        labels = dict(line.rstrip("\n").split(" ", 1) for line in file)
    for synset_id, words in labels.items():
        if synset_id not in synsets or synsets[synset_id].words != words:
            raise UserError(f"{args.database} does not have {synset_id} as {words}; give that of "
                            f"WordNet 3.0")
    found = from_the_root(synsets, list(labels))
    write_text(OUT, "".join(
        f"{synset_id} {','.join(synsets[synset_id].above) or '-'}"
        f"{'' if synset_id in labels else ' ' + synsets[synset_id].words}\n"
        for synset_id in found))
    print(f"{len(found)} synsets, {len(labels)} of them classes: {OUT}")
    return len(found)


def read_synset(line: str) -> tuple[str, Synset]:
    """Read a line of data.noun, whose form is that of WordNet's manual page wndb(5WN)."""
    fields = line.partition(" | ")[0].split()
    num_words = int(fields[3], 16)
    words, pointers = fields[4:4 + 2 * num_words:2], fields[5 + 2 * num_words:]
    above = [f"n{target}" for symbol, target in zip(pointers[::4], pointers[1::4])
             if symbol in ("@", "@i")]
    return f"n{fields[0]}", Synset(", ".join(words).replace("_", " "), above)


def from_the_root(synsets: dict[str, Synset], wanted: list[str]) -> list[str]:
    """Return the ids ``wanted`` and all above them, none before one that is above it."""
    found: dict[str, None] = {}

    def add(synset_id: str) -> None:
        for other in synsets[synset_id].above:
            add(other)
        found.setdefault(synset_id)

    for synset_id in wanted:
        add(synset_id)
    return list(found)


if __name__ == "__main__":
    main()
