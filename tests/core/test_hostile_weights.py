"""No command runs what a file of weights says: one line that names it, and status 2."""

import glob
import os
import pathlib
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from paddleseg.utils import utils

from helpers.tiny_runs import ROOT, files
from paddle_csrl.cli import add_class, demo, export, predict, run, train, tune, val, visualize
from paddle_csrl.doctor.config import check_weights
from paddle_csrl.errors import UserError
from paddle_csrl.utils.record import checksum


class Malicious:
    """Pickles into a call that makes a file."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


@pytest.fixture
def attack(finished, tmp_path):
    """A copy of a run, and ``spoil(path)``: the true weights with a call beside them."""
    own = finished("custom").copy(tmp_path / "run").without_checksums()  # which tell no attacks
    for record in glob.glob(own.path("*", "iter_*", "checkpoint.json")):
        os.remove(record)  # with the checksums of a checkpoint
    mark = tmp_path / "mark"
    image = own.builder().val_dataset.file_list[0][0]

    def spoil(path):
        content, before = {"a": np.ones(3)}, None
        if os.path.exists(path):
            before = checksum(str(path))
            with open(path, "rb") as file:
                content = pickle.load(file)
        content.setdefault("StructuredToParameterName@@", {})["zz"] = Malicious(mark)
        with open(path, "wb") as file:
            pickle.dump(content, file, protocol=4)
        if before:  # an attacker mends the record of the model that was made from it, too
            record = pathlib.Path(own.path("classifier", "stage.json"))
            record.write_text(record.read_text().replace(before, checksum(str(path))))
        mark.unlink(missing_ok=True)
        return str(path)

    return SimpleNamespace(run=own, mark=mark, spoil=spoil, image=image, tmp=tmp_path)


def refusal(capsys, attack, main, argv):
    """The line that ``main(argv)`` ends with; nothing was run and nothing written."""
    before = files(attack.tmp)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run(lambda: main([str(item) for item in argv]))
    *warned, said = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert said.startswith("error: ") and "Traceback" not in str(warned), (warned, said)
    assert "is refused and nothing in it was run: it holds io.open, which no weights need" in said
    assert not attack.mark.exists()
    assert files(attack.tmp) == before
    return said


FILES = {"segmentor": ("segmentor", "model.pdparams"), "final": ("model.pdparams",),
         "generator": ("generator", "model.pdparams"),
         "checkpoint": ("segmentor", "iter_2", "model.pdparams"),
         "optimizer": ("segmentor", "iter_2", "model.pdopt"),
         "generator's optimizer": ("generator", "iter_4", "model.pdopt")}
#: Command lines on a run's folder, each with the file of the run that is spoilt.
COMMANDS = {
    "train --resume_model": ("checkpoint", train.main, lambda at: at.run.recipe.argv(
        save_dir=at.run.folder, stage="segmentor", resume_model=at.run.path("segmentor/iter_2"))),
    "train --resume_model, optimizer": ("optimizer", train.main, lambda at: at.run.recipe.argv(
        save_dir=at.run.folder, stage="segmentor", resume_model=at.run.path("segmentor/iter_2"))),
    "train --resume_model of stage 3": (
        "generator's optimizer", train.main, lambda at: at.run.recipe.argv(
            "generator.iters=6", save_dir=at.run.folder, stage="generator",
            resume_model=at.run.path("generator/iter_4"))),
    "train, stage 1": ("segmentor", train.main, lambda at: at.run.recipe.argv(
        save_dir=at.run.folder)),
    "val": ("final", val.main, lambda at: at.run.recipe.argv(
        model_path=at.run.path("model.pdparams"))),
    "predict": ("final", predict.main, lambda at: [
        "--run", at.run.folder, "--device", "cpu", "--image_path", at.image, "--save_dir",
        at.tmp / "predicted"]),
    "export": ("final", export.main, lambda at: [
        "--run", at.run.folder, "--save_dir", at.tmp / "exported"]),
    "export as safetensors": ("final", export.main, lambda at: [
        "--run", at.run.folder, "--format", "safetensors", "--save_dir", at.tmp / "exported"]),
    "add_class": ("final", add_class.main, lambda at: [
        "--run", at.run.folder, "horse", "--device", "cpu", "--save_dir", at.tmp / "added"]),
    "add_class, generator": ("generator", add_class.main, lambda at: [
        "--run", at.run.folder, "horse", "--device", "cpu", "--save_dir", at.tmp / "added"]),
    "demo": ("final", demo.main, lambda at: ["--run", at.run.folder, "--port", "0"]),
    "visualize relations": ("generator", visualize.main, lambda at: [
        "relations", "--run", at.run.folder, "--device", "cpu"]),
    "visualize compare": ("final", visualize.main, lambda at: [
        "compare", "--run", at.run.folder, "--device", "cpu"]),
    "tune": ("segmentor", tune.main, lambda at: [
        "-c", at.run.recipe.config, "--device", "cpu", "--method", "csrl", "--space",
        os.path.join(ROOT, "configs", "_base_", "tune_space.yml"), "--save_dir", at.run.folder,
        "--budget", "1", "--folds", "1", "--opts", *at.run.recipe.opts]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_weights_of_a_run_are_not_run(attack, capsys, name):
    which, main, argv = COMMANDS[name]
    path = attack.spoil(attack.run.path(*FILES[which]))
    assert path in refusal(capsys, attack, main, argv(attack))


BACKBONE = "model.backbone={{'type': '%s', 'pretrained': '{}'}}"


@pytest.mark.parametrize("opt", ["segmentor_weights={}", "model.pretrained={}",
                                 BACKBONE % "ResNet18_vd", BACKBONE % "CSRLResNet101"])
def test_weights_that_a_config_names_are_not_run(attack, capsys, opt):
    path = attack.spoil(attack.tmp / "w.pdparams")
    argv = attack.run.recipe.argv(opt.format(path), save_dir=attack.tmp / "new")
    assert path in refusal(capsys, attack, train.main, argv)


@pytest.mark.parametrize("key", ["segmentor_weights", "model.pretrained"])
def test_the_doctor_reports_them(attack, key):
    path = attack.spoil(attack.tmp / "w.pdparams")
    finding, pretraining = check_weights(attack.run.open(f"{key}={path}"))
    assert finding.status == "problem"
    assert pretraining.subject == "pretraining" and path in pretraining.text  # by its name alone
    assert f"{path} is refused and nothing in it was run: it holds io.open" in finding.text
    assert not attack.mark.exists()


def test_the_doctor_as_a_program(attack, tmp_path):
    path = attack.spoil(tmp_path / "w.pdparams")
    with open(attack.run.path("config.yml"), encoding="utf-8") as file:
        config = {**yaml.safe_load(file), "segmentor_weights": path}
    (tmp_path / "c.yml").write_text(yaml.safe_dump(config))
    done = subprocess.run([sys.executable, os.path.join(ROOT, "tools", "doctor.py"), "-c",
                           str(tmp_path / "c.yml")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "w.pdparams is refused and nothing in it was run: it holds io.open" in done.stdout
    assert not attack.mark.exists()


def test_loaders_of_paddleseg_run_nothing(attack, tmp_path):
    """As its models and its trainer call them by themselves."""
    builder = attack.run.builder()
    model = builder.new_segmentor()
    path = attack.spoil(tmp_path / "w.pdparams")
    folder = attack.run.path("segmentor", "iter_2")
    attack.spoil(os.path.join(folder, "model.pdopt"))
    for load in (lambda: utils.load_pretrained_model(model, path),
                 lambda: utils.load_entire_model(model, path),
                 lambda: utils.resume(model, builder.optimizer, folder)):
        with pytest.raises(UserError, match="nothing in it was run: it holds io.open"):
            load()
    assert not attack.mark.exists()


def test_the_attack_would_have_done_harm(attack):
    """Else the tests above would prove nothing."""
    path = attack.spoil(attack.run.path("model.pdparams"))
    with open(path, "rb") as file:
        assert len(pickle.load(file)) > 10
    assert attack.mark.exists()
