"""One folder for ``--data``: the settings of the long form, and folders that do not do."""

import os
import shutil

import pytest

from helpers import tiny_runs
from helpers.fabricated import make_dataset
from paddle_csrl.cli import compare, options, train
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.datasets.data_folder import data_opts
from paddle_csrl.errors import UserError

CUSTOM = tiny_runs.config_path("csrl_custom")
# No class of these is unseen in any config.
NAMES = ("background", "cat", "dog", "tree", "car")


@pytest.fixture
def folder(tmp_path):
    return make_dataset(str(tmp_path), NAMES, num_train=2, num_val=1)


def long_form(folder):
    return ["zero_shot.class_names=" + f"{folder}/classes.txt",
            f"train_dataset.dataset_root={folder}", f"train_dataset.train_path={folder}/train.txt",
            "train_dataset.num_classes=5", f"val_dataset.dataset_root={folder}",
            f"val_dataset.val_path={folder}/val.txt", "val_dataset.num_classes=5"]


def loaded(*arguments, config=CUSTOM):
    args = train.parse_args(["-c", config, *arguments])
    return ZeroShotConfig(config, opts=options.config_opts(args)).dic


@pytest.mark.parametrize("end", ["", "/", "/../custom"])
def test_it_says_what_the_long_form_says(folder, end):
    unseen = ["--opts", "zero_shot.unseen=tree,car"]
    assert loaded("--data", folder + end, *unseen) == loaded(*unseen, *long_form(folder))


@pytest.mark.parametrize("before", [True, False])
def test_opts_are_stronger(folder, before):
    data, opts = ["--data", folder], ["--opts", f"train_dataset.train_path={folder}/val.txt"]
    found = loaded(*opts, *data) if before else loaded(*data, *opts)
    assert found["train_dataset"]["train_path"] == f"{folder}/val.txt"
    assert found["val_dataset"]["val_path"] == f"{folder}/val.txt"


@pytest.mark.parametrize("name", ["2012", "my photos", "it's", "None", "照片"])
def test_a_folder_of_any_name(folder, monkeypatch, name):
    monkeypatch.chdir(os.path.dirname(folder))
    os.rename(folder, name)
    found = loaded("--data", name)
    assert found["val_dataset"]["dataset_root"] == name
    assert found["zero_shot"]["class_names"] == os.path.join(name, "classes.txt")


def test_it_takes_the_place_of_another_kind_of_data_set(folder):
    found = loaded("--data", folder, "--opts", "zero_shot.unseen=car",
                   config=tiny_runs.config_path("csrl_voc_unseen2"))
    for split in ("train", "val"):
        assert (found[f"{split}_dataset"]["type"], found[f"{split}_dataset"]["mode"]) == (
            "Dataset", split)
    assert found["model"]["num_classes"] == 5


def test_a_comparison_takes_it_for_all_its_cells(folder):
    path = os.path.join(tiny_runs.ROOT, "configs", "compare_custom.yml")
    args = compare.parse_args(["-c", path, "--data", folder])
    plan = compare.Plan.read(args.config, options.all_opts(args))
    for cell in plan.cells(stage1_seeds=[0], seeds=[0]):
        assert plan.cell_config(cell).dic["val_dataset"]["val_path"] == f"{folder}/val.txt"


@pytest.mark.parametrize("tool, name", [(train, "csrl_shapes"), (compare, "compare_shapes")])
def test_a_config_of_the_embedded_data_has_keys_that_a_folder_does_not(folder, tool, name):
    told = (r"^\S*csrl_shapes.yml: `train_dataset.num_train` is of AttributeShapes, and the data "
            r"set is of `type: Dataset`; .* with --data, take .* configs/compare_custom.yml$")
    path = os.path.join(tiny_runs.ROOT, "configs", f"{name}.yml")
    with pytest.raises(UserError, match=told):
        tool.main(["-c", path, "--data", folder, "--device", "cpu"])


def take_out(name):
    return lambda folder: os.remove(os.path.join(folder, name))


@pytest.mark.parametrize("spoil, says", [
    (shutil.rmtree, "there is no such folder"), (take_out("train.txt"), "no train.txt in it"),
    (take_out("classes.txt"), "no classes.txt in it")], ids=["none", "list", "classes"])
def test_a_folder_that_lacks_something_is_told_with_what_it_has_to_hold(folder, spoil, says):
    spoil(folder)
    with pytest.raises(UserError, match=f"^--data {folder}: {says}; it has to hold train.txt"):
        train.main(["-c", CUSTOM, "--data", folder])


def test_names_that_are_none_and_a_path_that_opts_cannot_hold(folder):
    with open(os.path.join(folder, "classes.txt"), "a", encoding="utf-8") as file:
        file.write("Cat\n")
    with pytest.raises(UserError, match="classes.txt, line 6: Cat already stands in line 2"):
        data_opts(folder)
    os.rename(folder, f"{folder}=x")
    with pytest.raises(UserError, match="--data .*=x: .* rename the folder"):
        data_opts(f"{folder}=x")
