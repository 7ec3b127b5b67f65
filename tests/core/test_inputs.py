"""What a stage is made from, against the same command in a new folder without a cache."""

import os
import shutil

import numpy as np
import paddle
import pytest
from PIL import Image

from helpers import tiny_runs
from helpers.fabricated import read_label
from helpers.tiny_runs import STAGES, differing, digest, run_all

#: Nothing but features of seen classes in the loss, so that unseen ones leave no trace in weights.
POINTWISE = ("generator.model={'type': 'MLPGenerator', 'hidden_dim': 16, 'noise_dim': 4}",
             "generator.relation=prototypes",
             "generator.loss={'types': [{'type': 'MMDLoss'}], 'coef': [1]}")
NAMES = "zero_shot.label_names=['background', '{}', '{}', 'cow', 'car']"


def nothing(root, recipe):
    return ()


def options(*opts):
    return lambda root, recipe: opts


def weights(seed):
    """A file of weights, of a seed, in the place of whatever is there."""
    def write(root, recipe):
        paddle.seed(seed)
        with paddle.utils.unique_name.guard():
            model = recipe.builder().new_segmentor()
        paddle.save(model.state_dict(), f"{root}/w.pdparams")
        return ()

    return write


def pretrained(root, recipe):
    weights(1)(root, recipe)
    return (f"model.pretrained={root}/w.pdparams",)


def given(*opts):
    def setup(root, recipe):
        weights(1)(root, recipe)
        return (f"segmentor_weights={root}/w.pdparams", *opts)

    return setup


def swapped_in_place(split):
    """Cats and dogs change places in labels; times stay, and sizes where the new PNG is smaller."""
    def swap(root, recipe):
        for name in sorted(os.listdir(f"{root}/labels")):
            path = f"{root}/labels/{name}"
            if name.startswith(split):
                status = os.stat(path)
                Image.fromarray(np.array([0, 2, 1, *range(3, 256)], np.uint8)[
                    read_label(path)]).save(path)
                size = os.path.getsize(path)
                with open(path, "ab") as file:
                    file.write(b"\0" * (status.st_size - size))
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return ()

    return swap


def copied(root, recipe):
    copy = f"{os.path.dirname(root)}/copy"
    shutil.copytree(root, copy, copy_function=shutil.copyfile)
    return tuple(item.replace(root, copy) for item in recipe.opts if root in item)


@pytest.mark.parametrize("setup, change, redone", [
    (nothing, copied, ()),
    (nothing, swapped_in_place("train"), STAGES),
    (nothing, swapped_in_place("val"), STAGES[:1]),  # and others if it chooses another checkpoint
    (pretrained, weights(2), STAGES),
    (given(NAMES.format("cat", "dog")), options(NAMES.format("dog", "cat")), STAGES[1:]),
    (options(*POINTWISE, "generator.unseen_prototypes=hull"),
     options("generator.unseen_prototypes=free"), STAGES[3:])],
    ids=["copied data", "training labels", "validation labels", "pretrained", "label names",
         "place of generated features"])
def test_a_run_again_ends_as_a_new_one(tmp_path, setup, change, redone):
    root = str(tmp_path / "data" / "custom")
    recipe = tiny_runs.custom(str(tmp_path / "data"), str(tmp_path / "cache"))
    before = (*setup(root, recipe),)
    run = run_all(recipe, tmp_path / "run", *before)
    after = (*before, *change(root, recipe))
    done = run.redo(*after) & set(STAGES)
    assert done >= set(redone) and (redone or not done)
    new = run_all(recipe, tmp_path / "new", *after,
                  f"zero_shot.cache_dir={tmp_path / 'other_cache'}")
    assert digest(run.path("features", "bank.npz")) == digest(new.path("features", "bank.npz"))
    for stage in ("segmentor", "generator", "classifier", ""):
        assert not differing(run.weights(stage), new.weights(stage)), stage
