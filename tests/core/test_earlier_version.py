"""What 0.1.0 has trained opens, predicts, takes classes and goes on."""

import glob
import os

import pytest

from helpers.tiny_runs import STAGES, Finished, times
from paddle_csrl.cli import add_class, predict
from paddle_csrl.utils import read_json, write_json


@pytest.fixture
def old(finished, tmp_path) -> Finished:
    """A run as 0.1.0 left it: other records, sections as they were given, no random state.

    The records know files by their times and places, and nothing of some inputs.
    """
    run = finished("custom").copy(tmp_path / "old")
    opened = run.open()
    given = opened.config.given
    for stage in STAGES:
        path = run.path(stage, "stage.json")
        inputs = {"paddle_csrl": "0.1.0", **read_json(path)["inputs"]}
        inputs = {key: value for key, value in inputs.items()
                  if key not in opened.stage(stage).new_inputs}
        if "data" in inputs:
            inputs["data"] = opened.builder.fingerprint_by_times("seen")
        if stage in ("generator", "classifier"):
            inputs[stage] = {key: value for key, value in given[stage].items()
                             if key not in ("seed", "save_interval", "log_iters")}
        inputs.update({"segmentor": {"save_interval": 2, "train_dataset": given["train_dataset"],
                                     "val_dataset": given["val_dataset"]},
                       "features": {"features": given["zero_shot"]["features"]}}.get(stage, {}))
        write_json(path, {"finished": True, "inputs": inputs})
    for path in glob.glob(run.path("*", "iter_*", "checkpoint.json")):
        os.remove(path)
    return run


def test_it_opens_predicts_is_scored_and_takes_classes(old, tmp_path):
    before = times(old.folder)
    old.again()
    after = times(old.folder)
    assert {name for name in before if name.endswith((".pdparams", ".npz"))} and not [
        name for name in before if name.endswith((".pdparams", ".npz"))
        and before[name] != after[name]]
    assert not old.redo() & {*STAGES, "model.pdparams"}  # the records are complete now
    assert old.val()["classes"] == read_json(old.path("metrics.json"))["classes"]
    image = old.builder().val_dataset.file_list[0][0]
    done = predict.main(["--run", old.folder, "--image_path", image, "--device", "cpu",
                         "--save_dir", str(tmp_path / "predicted")])
    assert done["predicted"] == 1 and not done["failed"]
    change = add_class.main(["--run", old.folder, "horse", "--device", "cpu"])
    assert change.unseen == ["cow", "car", "horse"]


@pytest.mark.parametrize("stage", ["segmentor", "generator", "classifier"])
def test_it_goes_on_from_a_checkpoint(old, capsys, stage):
    key = "iters" if stage == "segmentor" else f"{stage}.iters"
    old.again(f"{key}=5", stage=stage, resume_model=old.path(stage, "iter_4"))
    assert os.path.isfile(old.path(stage, "iter_5", "model.pdparams"))
    assert "holds no random state, as those of earlier versions" in capsys.readouterr().out
