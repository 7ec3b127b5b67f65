"""The part of the doctor that needs Paddle: does it compute, and is a config fit to be trained?

Run by `doctor.installation` in a process of its own. A line of the file of findings is written as
soon as it is known, for the process may not come to its end.
"""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from urllib.parse import urlparse

import numpy as np
import paddle

from paddle_csrl import compat
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.core import preflight
from paddle_csrl.datasets.class_names import class_names_for, read_class_names
from paddle_csrl.datasets.data_folder import data_opts
from paddle_csrl.doctor import installation
from paddle_csrl.doctor.installation import OK, PROBLEM, WARNING, Finding, check_capability, size
from paddle_csrl.embeddings import resolve_class_embeddings, takes_attributes, under_other_names
from paddle_csrl.errors import one_line, user_message
from paddle_csrl.models.named_weights import RELEASES, weights_file
from paddle_csrl.pretraining import pretraining_of, summary, weights_in
from paddle_csrl.run import Run
from paddle_csrl.utils.weights import load_state

#: The bank, its standardized copy, and what is on its way in while it is filled.
_BANKS_IN_MEMORY = 3
#: A model and the state of its optimizer, at most, in sizes of the model.
_CHECKPOINT = 3


def main(task: str) -> None:
    """Write findings as JSON lines.

    Args:
        task: JSON with ``path`` of the file, ``config`` (or null), its overrides ``opts``, the
            folder ``data`` (or null), and ``terminal``, which shows the progress (or null).
    """
    given = json.loads(task)
    if given["terminal"]:
        warnings.simplefilter("ignore")
        sys.stderr = open(given["terminal"], "w", encoding="utf-8")
    with open(given["path"], "w", encoding="utf-8") as file:
        for finding in examine(given["config"], given["opts"], given["data"]):
            print(json.dumps(finding), file=file, flush=True)


def examine(config: str, opts: Sequence[str], data: str | None = None) -> Iterator[Finding]:
    """All findings, in order."""
    yield from attempt("PaddleSeg", check_mending)
    yield from attempt("device", check_device)
    if config is None:
        return
    runs: list[Run] = []
    yield from attempt("config", lambda: [_read_config(config, opts, data, runs)])
    told = set()
    for subject, check in _CHECKS.items() if runs else ():
        for finding in attempt(subject, partial(check, runs[0])):
            known = finding.status == PROBLEM and finding.text in told
            told.add(finding.text)
            yield Finding(WARNING, subject, "not looked at, for what is said above stands in the "
                                            "way") if known else finding


def attempt(subject: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Return what ``check`` finds; what it raises is a problem."""
    try:
        return check()
    except Exception as error:
        message = user_message(error)
        if message:
            return [Finding(PROBLEM, subject, message)]
        message = f"{type(error).__name__}: {one_line(error)[:300]}"
        return [Finding(PROBLEM, subject, message, "nothing was expected to fail like this; "
                        "tools/train.py shows where it comes from")]


def check_mending() -> list[Finding]:
    """Check that the faults of PaddleSeg with this Paddle are mended."""
    left = [fault.name for fault in compat.FAULTS if fault.is_present()]
    if left:
        return [Finding(PROBLEM, "PaddleSeg", f"cannot be mended: {', '.join(left)}",
                        "pip install paddleseg==2.8.0")]
    return [Finding(OK, "PaddleSeg", f"{len(compat.mended)} faults with this Paddle mended"
                    if compat.mended else "has no fault with this Paddle")]


def check_device() -> list[Finding]:
    """Tell where Paddle computes, and check that it computes what NumPy does."""
    gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if gpus:
        paddle.set_device("gpu")
        names = [paddle.device.cuda.get_device_name(index) for index in range(gpus)]
        unfit = [finding for index, name in enumerate(names) for finding in check_capability(
            name, paddle.device.cuda.get_device_capability(index))]
        if unfit:  # the first computation there would end with an error
            return unfit
        found = Finding(OK, "device", f"{gpus} GPU{'s' * (gpus > 1)}: {', '.join(names)}")
    elif paddle.is_compiled_with_cuda():
        found = Finding(WARNING, "device", "Paddle is a build for GPUs and sees none",
                        "look at the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES; --device gpu "
                        "falls back to the CPU")
    else:
        found = Finding(OK, "device", "CPU, for which this Paddle is built")
    return [found, _check_products()]


def _check_products() -> Finding:
    a, b = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 1, 1, 64, 64)), "float32")
    product, filtered = paddle.matmul(a, b).numpy(), paddle.nn.functional.conv2d(a, b).item()
    x, y = a.numpy(), b.numpy()
    # TensorFloat-32 keeps ten bits of the factors.
    if np.allclose(product, x @ y, atol=0.1) and abs(filtered - (x * y).sum()) < 1.0:
        return Finding(OK, "computing", "matrix product and convolution are right")
    return Finding(PROBLEM, "computing", "a matrix product or a convolution is wrong",
                   "install Paddle in a build for this device")


def _read_config(path: str, opts: Sequence[str], data: str | None, runs: list[Run]) -> Finding:
    """Tell the stages of a config, whose run goes into ``runs`` if it can be read."""
    of_data = [] if data is None else data_opts(data)
    # As if from the beginning: what is finished may have been made by another installation.
    runs.append(Run(ZeroShotConfig(path, opts=[*of_data, *opts]), restart=True))
    return Finding(OK, "config", f"{path}, stages {', '.join(runs[0].stages)}")


def check_data(run: Run) -> list[Finding]:
    """Folders, lists and labels, read as training reads them."""
    builder, classes = run.builder, run.classes
    train, val = builder.train_dataset.audit(), builder.val_dataset.audit()
    findings = [
        Finding(OK, "data", f"train: {train['images_used']} images, {train['images_dropped']} left "
                            f"out by policy {train['policy']}; val: {val['images_used']} images"),
        Finding(OK, "classes", f"{len(classes)}, unseen: {', '.join(classes.unseen_names)}")]
    doubts = dict.fromkeys((*builder.train_dataset.label_doubts(),
                            *builder.val_dataset.label_doubts()))
    findings += [Finding(WARNING, "data", *warning)
                 for warning in (*((doubt,) for doubt in doubts), *preflight.data_warnings(builder),
                                 *preflight.transform_warnings(run.config))]
    return findings


def check_words(run: Run) -> list[Finding]:
    """Check that every class has an embedding of its own, and tell by which word."""
    section = run.config.settings.zero_shot.embeddings
    if takes_attributes(section.path):
        vectors = run.builder.embeddings
        whence = "attributes of the data set" + " and word vectors" * (
            section.path != "attributes")
        return [Finding(OK, "embeddings", f"{whence}, {vectors.shape[1]} each")]
    names = _class_names(run)
    vectors, how = resolve_class_embeddings(names, section.path, section.normalize, section.words)
    other = under_other_names(names, how)
    text = (f"{vectors.shape[1]} dimensions; all {len(names)} classes found"
            + (f", {len(other)} under another name: {'; '.join(other)}" if other else ""))
    findings = [Finding(OK, "embeddings", text)]
    _, first = np.unique(vectors, axis=0, return_index=True)
    twins = [names[c] for c in sorted(set(range(len(names))) - set(first.tolist()))]
    if twins:
        findings.append(Finding(WARNING, "embeddings", f"the vector of {', '.join(twins)} is also "
                                                       f"that of another class",
                                "name another word under zero_shot.embeddings.words"))
    return findings


def _class_names(run: Run) -> list[str]:
    """The names of the classes, also where the data are not there yet."""
    given = run.config.settings.zero_shot.class_names
    if given:
        return read_class_names(given)
    try:
        return list(run.classes.names)
    except Exception:  # told by the check of the data
        return class_names_for(run.config.val_dataset_cfg["type"])


def check_weights(run: Run) -> list[Finding]:
    """The weights that the config names, whether they fit its images, and what they knew."""
    return [*(finding for key, path in weights_in(run.config).items()
              for finding in attempt("weights", partial(_check_file, key, path))),
            *(Finding(WARNING, "weights", *warning)
              for warning in preflight.backbone_warnings(run.config)),
            *attempt("pretraining", partial(_check_pretraining, run))]


def _check_pretraining(run: Run) -> list[Finding]:
    """Labels that the weights were trained with, and the unseen classes that these named."""
    pretraining = pretraining_of(run.config, run.classes.unseen_names)
    pretraining.require_allowed(run.config)
    return [Finding(WARNING, "pretraining", *warning)
            for warning in pretraining.warnings()] or [
        Finding(OK, "pretraining", f"labels: {summary(pretraining.describe())}")]


def _check_file(key: str, path: str) -> list[Finding]:
    content = ("downloaded when trained" if urlparse(path).netloc
               else f"{len(load_state(weights_file(path) if path in RELEASES else path))} tensors")
    return [Finding(OK, "weights", f"{key}: {path}, {content}")]


def check_training(run: Run) -> list[Finding]:
    """Model, losses and sections: what training looks at before it starts."""
    if _downloads(run.config):
        return [Finding(OK, "training", "not tried, for its weights are yet to be downloaded")]
    preflight.examine(run, run.stages)
    return [Finding(OK, "training", "model, losses and all sections can be built"),
            *(Finding(WARNING, "training", *warning)
              for warning in preflight.schedule_warnings(run))]


def _downloads(config: ZeroShotConfig) -> bool:
    return any(urlparse(path).netloc for path in weights_in(config).values())


def check_room(run: Run) -> list[Finding]:
    """Disk for the run and memory for its bank, both at most."""
    place, free = installation.free_disk(run.save_dir)
    if not os.access(place, os.W_OK):
        return [Finding(PROBLEM, "disk", f"{place} cannot be written to",
                        "choose another folder with --opts save_dir=DIR")]
    if _downloads(run.config):
        return [Finding(OK, "disk", f"{size(free)} free for {run.save_dir}")]
    needs = _needs(run)
    total = sum(needs.values())
    text = (f"{size(free)} free for {run.save_dir}, which takes up to {size(total)} ("
            + ", ".join(f"{name} {size(number)}" for name, number in needs.items()) + ")")
    enough = free > total
    findings = [Finding(OK if enough else PROBLEM, "disk", text, "" if enough else (
        "free some, choose another folder with --opts save_dir=DIR, or lower keep_checkpoint_max "
        "and zero_shot.features.samples_per_class"))]
    features = run.config.settings.zero_shot.features
    taken = _BANKS_IN_MEMORY * needs.get("feature bank", 0) * 4 // np.dtype(features.dtype).itemsize
    memory = installation.available_memory()
    if memory is not None and taken > memory:
        findings.append(Finding(WARNING, "memory", f"{size(memory)} free, and stages 2 and 3 take "
                                                   f"up to {size(taken)}",
                                "lower zero_shot.features.samples_per_class"))
    return findings


def _needs(run: Run) -> dict[str, int]:
    """Bytes that the run's folder takes, at most."""
    settings = run.config.settings
    model = run.builder.new_segmentor(pretrained=False)
    weights = sum(tensor.size * 4 for tensor in model.state_dict().values())
    needs = {"checkpoints": _CHECKPOINT * weights * settings.keep_checkpoint_max,
             "models": 3 * weights}
    if "features" in run.stages:
        features = settings.zero_shot.features
        _, layer = run.builder.classification_layer(model)
        rows = len(run.classes.seen_ids) * features.samples_per_class
        needs["feature bank"] = rows * layer.weight.shape[1] * np.dtype(features.dtype).itemsize
    return needs


_CHECKS: dict[str, Callable[[Run], list[Finding]]] = {
    "data": check_data, "embeddings": check_words, "weights": check_weights,
    "training": check_training, "disk": check_room}
