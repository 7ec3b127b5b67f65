"""Make the word vectors that come with the package.

    python scripts/make_class_vectors.py --embeddings glove.6B.100d.txt --out glove100.npz

Takes the most frequent words of a word-vector file, sorted by frequency, and those of every
built-in class name, and stores them as float16 in the order of that file. Values are rounded to
multiples of 1/64, whose last bits are zeros and compress well. The words of the built-in class
names and of common colours, patterns, shapes and things, which came with the package first, keep
their float16: results do not change. The same input gives the same bytes.
"""

import argparse
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from paddle_csrl.datasets.class_names import CLASS_NAMES
from paddle_csrl.embeddings import read_vectors
from paddle_csrl.embeddings.resolve import ALIASES, find_words
from paddle_csrl.utils.arrays import save_arrays

CAMVID = """sky building pole road pavement tree sign fence car pedestrian bicyclist""".split()
COLORS = """red orange yellow green blue purple pink brown white black gray grey cyan magenta
    turquoise violet navy teal gold silver lime maroon olive beige""".split()
PATTERNS = """striped stripes dotted dots checkered checked plain solid spotted spots zigzag wavy
    grid plaid brick speckled ringed patterned floral diagonal curved textured smooth""".split()
SHAPES = """circle square triangle star ring cross diamond hexagon heart moon disc ellipse oval
    rectangle pentagon crescent arrow flower leaf cone cube cylinder spiral""".split()
# What people segment besides: animals, land use, food, vehicles, clothes, bodies, materials.
EVERYDAY = """animal insect fish lion tiger wolf fox monkey rabbit mouse rat pig goat duck
    chicken goose deer eagle owl snake turtle frog butterfly bee spider whale dolphin shark
    kangaroo camel donkey barn forest farmland agriculture urban residential industrial
    commercial barren desert wetland shrub bush meadow orchard garden lawn park beach coast
    island cliff glacier volcano cave roof chimney balcony facade arch stadium playground
    airport harbor harbour dock dam canal tunnel highway curb lane parking rail roundabout
    intersection crop weed soil wheat rice corn soybean cotton grape strawberry lemon peach pear
    tomato potato onion garlic pepper cucumber cabbage lettuce mushroom bread cheese egg meat
    soup noodles pasta salad coffee tea milk juice wine beer helicopter drone rocket satellite
    tractor trailer van ambulance taxi scooter motorcycle tricycle wheel tire engine helmet hat
    cap glove gloves scarf shirt pants jeans dress skirt coat jacket shoe shoes boot boots sock
    glasses watch necklace hair face hand arm leg head eye nose mouth ear skin bone tooth brain
    heart liver kidney lung spleen stomach colon bladder tumor lesion vessel nerve cell nucleus
    tissue crack rust scratch dent hole stain pipe wire cable panel screw bolt nut hammer saw
    drill brush broom bucket ladder rope chain metal steel iron copper plastic rubber leather
    ceramic fabric wool silk gravel mud asphalt smoke fire flame cloud fog rain ice lamp candle
    lantern speaker camera phone printer battery piano guitar violin drum doll puppet robot
    statue monument temple church castle mosque bridge gate pillar ruins rubble billboard banner
    mailbox kiosk""".split()


#: Words that ship whatever they mean, and the step of their values.
MOST_FREQUENT = 40_000
STEP = 1 / 64


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--embeddings", required=True, help="word-vector file to take words from")
    parser.add_argument("--out", required=True, help=".npz file to write")
    args = parser.parse_args(argv)

    names = sorted({name for group in CLASS_NAMES.values() for name in group}
                   | {*CAMVID, *COLORS, *PATTERNS, *SHAPES, *EVERYDAY, *ALIASES.values()})
    exact = {word for resolution in find_words(names, args.embeddings)[0]
             for word in resolution.words}
    kept = {word: row.vector for word, row in read_vectors(args.embeddings, lambda _: True).items()
            if row.rank < MOST_FREQUENT or word in exact}
    vectors = np.stack([vector if word in exact else np.round(vector / STEP) * STEP
                        for word, vector in kept.items()]).astype(np.float16)
    save_arrays(args.out, {"names": np.array(list(kept)), "vectors": vectors}, compressed=True)
    print(f"{len(kept)} words, {len(exact)} of them for {len(names)} names, "
          f"{os.path.getsize(args.out) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
