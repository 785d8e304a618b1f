"""Whatever is wrong with the input, one message says what, what was expected, what came and what to do."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import textwrap
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from kedro.framework.cli.utils import find_run_command
from kedro.framework.session import KedroSession
from kedro.runner import ParallelRunner
from safetensors.torch import save_file

from pipelines.running import (
    PROJECT,
    Place,
    content_of,
    know_project,
    partial_files,
    settings_read_once,
    untouched_mlflow,
)
from ports import free_port
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.teachers.cgn import MnistCGN
from skdcgn_pipeline.teachers.teacher import SHIPPED_DIGITS_TEACHER

DiskUsage = namedtuple("DiskUsage", "total used free")


def refusal(place: Place, **options: Any) -> str:
    """Run in this process and return the message of the refusal; nothing may have been made."""
    runs = len(place.runs())
    with pytest.raises(SettingError) as caught:
        place.run(**options)
    nothing_was_made(place)
    assert len(place.runs()) == runs, "a run was logged for something that was never started"
    return str(caught.value)


def nothing_was_made(place: Place) -> None:
    stores = place.data / "stores"
    assert not stores.exists() or content_of(stores) == {}
    if place.data.is_dir():
        assert content_of(place.data) == {}


@pytest.fixture
def told(place: Place) -> Callable[..., str]:
    return lambda **options: refusal(place, **options)


@pytest.fixture
def invoke(place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Call the command line in this process."""

    def call(*arguments: str) -> Result:
        know_project()
        monkeypatch.setenv("SKDCGN_DATA", str(place.data))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", place.tracking_uri)
        monkeypatch.chdir(PROJECT)
        if not any(argument.startswith("--env") for argument in arguments):
            arguments = (*arguments, "--env", "test")
        with untouched_mlflow(), settings_read_once():
            return CliRunner().invoke(find_run_command("skdcgn_pipeline"), list(arguments))

    return call


def message_of(result: Result) -> str:
    """Return the one error message of a refused command."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.output.count("Error: ") == 1, result.output
    assert "Traceback" not in result.output
    return result.output[result.output.index("Error: ") :]


# --- names of settings ---


MISSPELT = {
    "sede": 1,
    "sampel": {"rows_per_shard": 1},
    "sample": {"row_per_shard": 1, "rows_per_shard": 0},
    "shape": {"distill": {"weights": {"pixels": 1.0}}},
    "compose": {"composition": {"counterfactual": {"textur": True}}},
    "classify": {"zzzz": 1},
    "compute": {"device": "gpu"},
    "variant": "colord",
}


def test_all_wrong_settings_are_told_together_and_misspelt_ones_with_the_nearest(told: Callable[..., str]) -> None:
    message = told(params=MISSPELT)

    assert "got 9 problems" in message
    assert "Nothing has been run" in message
    for told_about in (
        "sede: unknown setting. Did you mean 'seed'?",
        "sampel: unknown setting. Did you mean 'sample'?",
        "sample.row_per_shard: unknown setting. Did you mean 'rows_per_shard'?",
        "sample.rows_per_shard: ",
        "shape.distill.weights.pixels: unknown setting. Did you mean 'pixel'?",
        "compose.composition.counterfactual.textur: unknown setting. Did you mean 'texture'?",
        (
            "classify.zzzz: unknown setting. Valid names: corruptions, counterfactuals, fit, network, "
            "num_counterfactuals, num_seeds, share_of_originals, trained_on, worst_class_step."
        ),
        "compute.device: ",
        "variant: expected one of colored, double_colored, wildlife, got 'colord'. Did you mean 'colored'?",
    ):
        assert f"\n  - {told_about}" in message


# --- values of settings ---


@pytest.mark.parametrize("value", [0, -3, float("nan"), float("inf"), 2.5, "many", None, [], {"a": 1}, ""])
def test_impossible_size_is_refused(told: Callable[..., str], value: object) -> None:
    message = told(
        params={
            "sample": {"num_images_per_class": value},
            "shape": {"distill": {"batch_size": value}},
            "classify": {"fit": {"num_images": value}},
        }
    )

    assert "got 3 problems." in message
    for name in ("sample.num_images_per_class", "shape.distill.batch_size", "classify.fit.num_images"):
        assert f"\n  - {name}: Input should be" in message


@pytest.mark.parametrize("value", [0.0, -1e-3, float("nan"), float("inf"), "fast"])
def test_impossible_learning_rate_is_refused(told: Callable[..., str], value: object) -> None:
    message = told(params={"texture": {"distill": {"learning_rate": value}}})

    assert "texture.distill.learning_rate: Input should be" in message
    assert f"(got {value!r})" in message


def test_unknown_choice_is_told_with_the_nearest(told: Callable[..., str]) -> None:
    message = told(
        params={
            "compute": {"device": "gpu", "precision": "b16"},
            "images": {"source": "mnits"},
            "teacher": {"name": "digit_cgn"},
            "shape": {"distill": {"student": {"architecture": "compakt"}}},
            "classify": {"counterfactuals": "storred", "corruptions": ["noise", "contrst"]},
        }
    )

    for name, choices, came, nearest in (
        ("compute.device", "auto, cpu, cuda, mps", "gpu", "cpu"),
        ("compute.precision", "fp32, bf16", "b16", "bf16"),
        ("images.source", "digits, mnist, fashion_mnist, folder, imagenet, none", "mnits", "mnist"),
        (
            *("teacher.name", "trained, cutouts, cgn, mnist_cgn, digits_cgn, imagenet_cgn, custom"),
            *("digit_cgn", "digits_cgn"),
        ),
        ("shape.distill.student.architecture", "compact, basis, tinygan", "compakt", "compact"),
        ("classify.counterfactuals", "on_the_fly, stored", "storred", "stored"),
        ("classify.corruptions.1", "noise, blur, contrast, shift", "contrst", "contrast"),
    ):
        assert f"\n  - {name}: expected one of {choices}, got '{came}'. Did you mean '{nearest}'?" in message


def grid(mechanism: str, kind: str, *strengths: float) -> dict[str, Any]:
    return {"transformations": {mechanism: [{"kind": kind, "strengths": list(strengths)}]}}


@pytest.mark.parametrize(
    ("params", "told_about"),
    [
        (grid("shape", "gausian_noise", 0.3), ["shape.0.kind: expected one of", "Did you mean 'gaussian_noise'?"]),
        (grid("shape", "rotation", -1), ["shape.0.strength: expected a number in [0, 180] (largest angle"]),
        (grid("shape", "opacity", 0.5, 1.5), ["shape.0.strength: expected a number in [0, 1]", "got 1.5"]),
        (grid("texture", "gaussian_noise", -0.1), ["texture.0.strength: expected a number in [0, 2]", "got -0.1"]),
        (
            grid("texture", "rotation", 10),
            [
                "texture.0.kind: expected a transformation that makes sense for texture",
                "gaussian_noise, blur, grey, flatten",
                "got 'rotation', which is for shape. Choose one of these, or give 'rotation' to shape",
            ],
        ),
        (grid("textures", "grey", 0.5), ["transformations.textures: unknown setting. Did you mean 'texture'?"]),
        (grid("shape", "opacity"), ["transformations.shape.0.strengths: "]),
        (
            {
                "transformations": {
                    **{name: [] for name in ("shape", "texture", "background", "combined")},
                    "without_patch_shift": False,
                }
            },
            ["ablation.transformations: the grid is empty: name at least one transformation of one mechanism"],
        ),
        ({"study": "transformation"}, ["study: expected one of all, ", "Did you mean 'transformations'?"]),
        ({"study": ["counts", "sizes"]}, ["got 'sizes'. Did you mean 'size'?"]),
        ({"study": []}, ["ablation.study: "]),
        ({"num_seeds": 0}, ["ablation.num_seeds: Input should be greater than or equal to 2", "got 0"]),
        ({"workers": 2}, ["ablation.workers: unknown setting. "]),
        ({"counts": {"per_shape": [50]}}, ["ablation.counts: 'per_shape' must not exceed", "got 50"]),
    ],
)
def test_impossible_study_is_refused(told: Callable[..., str], params: dict[str, Any], told_about: list[str]) -> None:
    message = told(params={"ablation": params}, pipeline_names=["ablation"])

    assert "Nothing has been run" in message
    for text in told_about:
        assert text in message


def test_more_cells_than_confirmed_are_refused_before_any_work(told: Callable[..., str]) -> None:
    message = told(params={"ablation": {"max_cells": 20}}, pipeline_names=["ablation"])

    assert message.startswith("ablation.max_cells: expected at most 20 cells, got 50 (x 2 seeds).")
    assert "confirm with ablation.max_cells=50" in message


def test_stage_that_a_teacher_cannot_be_trained_at_is_refused(told: Callable[..., str]) -> None:
    shape = [{"kind": "affine", "strength": 1.0}, {"kind": "binarise", "strength": 0.5}]
    composing = {"stage": "teacher", "composition": {"transformations": {"shape": shape}}}
    assert "compose: stage 'teacher' applies transformations" in told(params={"compose": composing})

    stage = {"transformations": [{"kind": "binarise", "strength": 0.5}]}
    message = told(params={"ablation": {"study": "stage", "stage": stage}}, pipeline_names=["ablation"])
    assert "ablation.stage: 'binarise' has no gradient, so no teacher can be trained through it" in message


def test_loss_without_any_term_is_refused(told: Callable[..., str]) -> None:
    weights = dict.fromkeys(("pixel", "feature", "kl", "adversarial", "binary_cross_entropy"), 0.0)

    assert "at least one weight" in told(params={"shape": {"distill": {"weights": weights}}})


# --- names of environments, pipelines, mechanisms ---


def test_unknown_environment_is_told_with_the_nearest(told: Callable[..., str]) -> None:
    message = told(env="mnits")

    assert message.startswith("--env: expected one of base, custom, folder, imagenet, local, mnist, test, got 'mnits'")
    assert "Did you mean 'mnist'?" in message


@pytest.mark.parametrize(("came", "nearest"), [("distil", "distill"), ("ablations", "ablation"), ("teachr", "teacher")])
def test_unknown_pipeline_is_told_with_the_nearest(told: Callable[..., str], came: str, nearest: str) -> None:
    message = told(pipeline_names=["prepare", came])

    assert re.match(f"--pipelines?: expected one of .*distill.*, got '{came}'", message)
    assert f"Did you mean '{nearest}'?" in message


def test_unknown_mechanism_is_told_with_the_nearest(told: Callable[..., str]) -> None:
    message = told(namespaces=["shape", "textures"])

    assert re.match("--namespaces: expected one of background, .*shape, texture, got 'textures'", message)
    assert "Did you mean 'texture'?" in message


def test_mechanism_that_a_pipeline_has_not_is_refused(told: Callable[..., str]) -> None:
    """`--pipelines sample --namespaces shape` would otherwise run everything but a student."""
    message = told(pipeline_names=["sample"], namespaces=["shape"])

    assert "shape" in message
    assert "sample" in message


def test_absent_device_is_refused(told: Callable[..., str]) -> None:
    absent = "cuda" if not torch.cuda.is_available() else "mps"

    message = told(params={"compute": {"device": absent}})

    assert message.startswith("compute.device: expected a device of this machine (cpu")
    assert f"got '{absent}'" in message
    assert "Use 'auto' or 'cpu'" in message


# --- the teacher's weights ---


class Executes:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def told_about_weights(told: Callable[..., str], path: Path, **teacher: Any) -> str:
    return told(params={"teacher": {"name": "mnist_cgn", "weights": str(path), **teacher}}, pipeline_names=["sample"])


@pytest.mark.parametrize("name", ["absent.safetensors", "absent.pth"])
def test_missing_weights_are_named(told: Callable[..., str], tmp_path: Path, name: str) -> None:
    message = told_about_weights(told, tmp_path / name)

    assert message == f"teacher.weights: expected a file, got nothing at {tmp_path / name}. Correct the path."


@pytest.mark.parametrize("kept", [0, 7, 1000, -1])
@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth"])
def test_truncated_weights_are_named(told: Callable[..., str], tmp_path: Path, name: str, kept: int) -> None:
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(MnistCGN().state_dict(), path)
    else:
        shutil.copy(SHIPPED_DIGITS_TEACHER, path)
    path.write_bytes(path.read_bytes()[:kept])

    message = told_about_weights(told, path)

    assert message.startswith("teacher.weights: expected a")
    assert str(path) in message
    assert "Download it again" in message


@pytest.mark.parametrize("name", ["notes.safetensors", "notes.pth", "folder.pth", "folder.safetensors"])
def test_what_is_no_weights_file_is_named(told: Callable[..., str], tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.stem == "folder":
        path.mkdir()
    else:
        path.write_text("these are not weights\n" * 50)

    message = told_about_weights(told, path)

    assert message.startswith("teacher.weights: expected a")
    assert str(path) in message


def test_weights_of_another_architecture_are_named(told: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "wide.safetensors"
    save_file(MnistCGN().state_dict() | {"f_shape.0.weight": torch.zeros(7, 42)}, path)

    message = told_about_weights(told, path)

    assert "tensors of the MNIST CGN" in message
    assert re.search(rf"{re.escape(str(path))} with 1 of another shape, first 'f_shape\.0\.weight'", message)
    assert "teacher.name=custom" in message


def test_weights_of_something_else_are_named(told: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "linear.pth"
    torch.save(torch.nn.Linear(2, 3).state_dict(), path)

    assert "49 missing, first 'label_emb.weight'; 2 unexpected, first 'weight'" in told_about_weights(told, path)


def test_file_of_something_that_is_no_state_is_named(told: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "list.pth"
    torch.save([torch.zeros(2)], path)

    assert "expected a state dict of tensors, got list" in told_about_weights(told, path)


@pytest.mark.parametrize("given", [True, False])
def test_teacher_of_another_variant_is_refused(told: Callable[..., str], given: bool) -> None:
    teacher = {"name": "mnist_cgn", "weights": str(SHIPPED_DIGITS_TEACHER)} if given else {"name": "digits_cgn"}

    message = told(params={"teacher": teacher, "variant": "colored"}, pipeline_names=["sample"])

    assert "expected a teacher of the variant 'colored'" in message
    assert "a teacher of 'double_colored'" in message
    assert "variant=double_colored" in message


@pytest.mark.parametrize("name", ["code.pth", "code.pt", "code.safetensors"])
@pytest.mark.parametrize("form", ["torch", "pickle", "in a state"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4 in the checkpoint:UserWarning")  # said before it refuses
def test_code_in_weights_is_never_executed(told: Callable[..., str], tmp_path: Path, name: str, form: str) -> None:
    path, marker = tmp_path / name, tmp_path / "executed"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Executes(marker)))
    else:
        torch.save(Executes(marker) if form == "torch" else MnistCGN().state_dict() | {"x": Executes(marker)}, path)

    message = told_about_weights(told, path)

    assert not marker.exists(), "code of a weights file was executed"
    assert message.startswith("teacher.weights: expected a")
    assert str(path) in message


CUSTOM = {"name": "custom", "noise_dim": 4, "num_classes": 10, "image_size": 32}


@pytest.mark.parametrize("name", ["code.pt", "code.pt2", "notes.pt", "notes.pt2", "absent.pt", "absent.pt2"])
def test_what_is_no_exported_program_is_named(told: Callable[..., str], tmp_path: Path, name: str) -> None:
    path, marker = tmp_path / name, tmp_path / "executed"
    if path.stem == "code":
        torch.save(Executes(marker), path)
    elif path.stem == "notes":
        path.write_text("this is no program\n" * 50)

    message = told(params={"teacher": CUSTOM | {"weights": str(path)}}, pipeline_names=["sample"])

    assert not marker.exists(), "code of a weights file was executed"
    assert message.startswith("teacher.weights: expected")
    assert str(path) in message


# --- teachers of the user's own ---

MODULE = """
    import torch
    from skdcgn_pipeline.mechanisms import MechanismImages

    class Teacher:
        noise_dim, num_classes, image_size = 4, 10, 32

        def render(self, noise, labels):
            n = len(noise)
            shade = (noise[:, 0].tanh() / 2)[:, None, None, None].expand(n, 3, 32, 32)
            colour = (labels / 10)[:, None, None, None].expand(n, 3, 32, 32)
            return MechanismImages(torch.ones(n, 1, 32, 32) / 2, shade, colour)

    class WrongShape(Teacher):
        def render(self, noise, labels):
            images = super().render(noise, labels)
            return MechanismImages(images.mask, images.foreground[:, :, :28, :28], images.background)

    class WrongChannels(Teacher):
        def render(self, noise, labels):
            images = super().render(noise, labels)
            return MechanismImages(images.foreground, images.foreground, images.background)

    class WrongRange(Teacher):
        def render(self, noise, labels):
            images = super().render(noise, labels)
            return MechanismImages(images.mask * 255, images.foreground, images.background)

    class NotANumber(Teacher):
        def render(self, noise, labels):
            images = super().render(noise, labels)
            return MechanismImages(images.mask, images.foreground, images.background * float("nan"))

    class Bytes(Teacher):
        def render(self, noise, labels):
            images = super().render(noise, labels)
            return MechanismImages(images.mask, images.foreground.byte(), images.background)

    class Bare(Teacher):
        def render(self, noise, labels):
            return super().render(noise, labels).mask

    class Deaf(Teacher):
        def render(self, noise, labels):
            return super().render(torch.zeros_like(noise), labels)

    class Blind(Teacher):
        def render(self, noise, labels):
            return super().render(noise, torch.zeros_like(labels))

    class OffByOne(Teacher):
        def render(self, noise, labels):
            return super().render(noise, torch.arange(9)[labels])

    class NoSize(Teacher):
        image_size = None

    class NoRender:
        noise_dim, num_classes, image_size = 4, 10, 32

"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable module of teachers."""
    (tmp_path / "modules").mkdir()
    name = f"teachers_{os.getpid()}_{tmp_path.name}"
    (tmp_path / "modules" / f"{name}.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    return name


@pytest.mark.parametrize(
    ("function", "told_about"),
    [
        ("WrongShape", r"teacher foreground: expected a tensor of shape \(2, 3, 32, 32\), got \(2, 3, 28, 28\)\."),
        ("WrongChannels", r"teacher mask: expected a tensor of shape \(2, 1, 32, 32\), got \(2, 3, 32, 32\)\."),
        ("WrongRange", r"teacher mask: expected values in \[0, 1\], got values in \[128, 128\]\."),
        ("NotANumber", r"teacher background: expected finite values, got NaN or infinity\."),
        ("Bytes", r"teacher foreground: expected floating point values, got torch.uint8\."),
        ("Bare", r"teacher mask: expected a tensor of shape \(2, 1, 32, 32\), got NoneType\."),
        ("Deaf", r"teacher\.render: expected images that follow their noise, got the same mask, foreground and"),
        ("Blind", r"teacher\.render: expected images that follow their labels, got the same mask, foreground and"),
        ("OffByOne", r"teacher\.render: expected images of the classes 0 to 9, got IndexError for class 9: "),
        ("NoSize", r"teacher\.image_size: expected a positive integer attribute, got None\."),
        ("NoRender", r"teacher\.render: expected a method render\(noise, labels\), got NoRender\."),
        ("Absent", r"teacher\.factory: expected an importable module:function, got '.*:Absent'"),
    ],
)
def test_teacher_that_breaks_its_interface_is_refused(
    told: Callable[..., str], factories: str, function: str, told_about: str
) -> None:
    teacher = {"name": "custom", "factory": f"{factories}:{function}"}

    assert re.match(told_about, told(params={"teacher": teacher}, pipeline_names=["sample"]))


def test_teacher_that_cannot_be_trained_on_is_refused_for_the_study_that_does(
    told: Callable[..., str], factories: str
) -> None:
    teacher = {"name": "custom", "factory": f"{factories}:Teacher"}

    message = told(params={"teacher": teacher, "images": {"source": "digits"}}, pipeline_names=["ablation"])

    assert message.startswith("ablation.study: expected studies that the teacher can serve, got 'stage' with a Teacher")
    assert "Leave out 'stage'" in message


def test_teacher_that_keeps_the_interface_is_taken(place: Place, factories: str) -> None:
    place.run(params={"teacher": {"name": "custom", "factory": f"{factories}:Teacher"}}, pipeline_names=["sample"])

    assert len(list(place.store("sample").glob("*/shards.json"))) == 2


@pytest.mark.parametrize(
    ("teacher", "told_about"),
    [
        ({"name": "custom", "factory": "no_such_module:make"}, "teacher.factory: expected an importable"),
        ({"name": "custom", "factory": "no_colon"}, "teacher.factory: must look like module:function, got 'no_colon'"),
        ({"name": "custom"}, "name 'custom' needs either 'factory' (module:function) or 'weights' (a file)"),
        ({"name": "custom", "weights": "x.pt2"}, "a custom file needs 'noise_dim', 'num_classes' and 'image_size'"),
        ({"name": "digits_cgn", "factory": "a:b"}, "'factory' belongs to name 'custom', got name 'digits_cgn'"),
    ],
)
def test_incomplete_custom_teacher_is_refused(
    told: Callable[..., str], teacher: dict[str, Any], told_about: str
) -> None:
    assert told_about in told(params={"teacher": teacher}, pipeline_names=["sample"])


# --- assets ---


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"env": "mnist", "pipeline_names": ["prepare"]}, "mnist/MNIST/raw/"),
        ({"env": "mnist", "pipeline_names": ["sample"]}, "cgn_mnist/cgn_double_colored_mnist.pth"),
        ({"env": "mnist"}, "mnist/MNIST/raw/"),
        ({"params": {"variant": "wildlife"}, "pipeline_names": ["prepare"]}, "textures/"),
    ],
)
def test_absent_assets_are_named_with_how_to_get_them(
    told: Callable[..., str], tmp_path: Path, options: dict[str, Any], missing: str
) -> None:
    folder = tmp_path / "no-assets"
    folder.mkdir()

    message = told(assets=folder, **options)

    assert f"expected the file {folder}/{missing}" in message
    assert "SKDCGN_ASSETS" in message
    assert f"python -m skdcgn_pipeline.images.assets {folder}" in message
    assert list(folder.iterdir()) == []


# --- where results go ---


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_output_directory_that_is_a_file_is_refused(place: Place, below: str) -> None:
    file = place.data.parent / "a-file"
    file.write_text("kept")
    wrong = Place(file / below, place.tracking_uri)

    with pytest.raises(SettingError, match=r"output directory: .*a file in place of a folder at .*a-file") as caught:
        wrong.run(pipeline_names=["sample"])

    assert "choose another data root" in str(caught.value)
    assert file.read_text() == "kept"


def test_read_only_output_directory_is_refused(
    told: Callable[..., str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes = Path.write_bytes

    def refuse(path: Path, content: bytes) -> int:
        if path.is_relative_to(place.data):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", refuse)

    message = told(pipeline_names=["sample"])

    assert message.startswith("output directory: expected a writable directory with free space")
    assert re.search("read-only|permission", message, re.IGNORECASE)
    assert str(place.data) in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_output_directory_without_permission_is_refused(place: Place) -> None:
    place.data.mkdir(parents=True)
    place.data.chmod(0o500)

    with pytest.raises(SettingError, match="output directory: expected a writable directory"):
        place.run(pipeline_names=["sample"])


def test_full_disk_is_refused_before_any_work(
    told: Callable[..., str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: DiskUsage(2**40, 2**40 - 2**20, 2**20))

    message = told()

    assert re.match(r"output directory: expected \d+ MiB free in .*, got 1 MiB\. Free some space", message)
    assert str(place.data) in message


@pytest.mark.parametrize(
    ("params", "told_about"),
    [
        ({"sample": {"num_images_per_class": 10**11}}, "sample.num_images_per_class: .* disk, .* at least [0-9,]+ GiB"),
        ({"compose": {"num_images": 10**12}}, "compose.num_images: .* disk"),
        ({"prepare": {"copies": 10**9}}, "prepare.copies: .* disk"),
        ({"shape": {"distill": {"batch_size": 10**12}}}, "shape.distill.batch_size: .* memory"),
        ({"texture": {"distill": {"discriminator_width": 10**6}}}, "texture.distill.discriminator_width: .* memory"),
        ({"teacher": {"fit": {"discriminator_width": 10**8}}}, "teacher.fit.discriminator_width: .* memory"),
        ({"shape": {"distill": {"student": {"width": [10**9, 10**9, 8]}}}}, "shape.distill.student: .* memory"),
        ({"baseline": {"students": {"shape": {"width": [10**6, 10**6, 8]}}}}, "baseline.students.shape: .* memory"),
        ({"classify": {"num_seeds": 10**9}}, "classify.num_seeds: expected at most 100,000 trainings .*3,000,000,000"),
        ({"seed": True}, "seed: Input should be a number or a word, got True"),
        ({"classify": {"num_seeds": True}}, "classify.num_seeds: Input should be a number"),
        ({"shape": {"distill": {"weights": {"pixel": True}}}}, "weights.pixel: Input should be a number"),
        ({"shape": {"distill": {"betas": [True, 0.9]}}}, "betas: Input should be a number"),
        ({"prepare": 5}, "prepare: Input should be a valid dictionary"),
        ({"sample": {"classes": "0-99999999999"}}, "sample.classes: expected classes up to 1,000,000"),
        ({"teacher": {"noise_dim": 3}}, "'noise_dim' belongs to a 'custom' file; this teacher has its own, got 3"),
        ({"export": {"classifier": 99}}, "export.classifier: expected one below classify.num_seeds.*got 99 of 2"),
        ({"classify": {"trained_on": ["teacher", "teacher"]}}, "'trained_on' names each training set once"),
        ({"classify": {"corruptions": ["blur", "blur"]}}, "'corruptions' names each corruption once"),
    ],
)
def test_number_that_cannot_be_meant_is_refused(
    told: Callable[..., str], params: dict[str, Any], told_about: str
) -> None:
    assert re.search(told_about, told(params=params))


@pytest.mark.parametrize(
    ("options", "told_about"),
    [
        ({"node_names": ["compare_student"]}, "--nodes: .*Did you mean 'distill.compare_students'"),
        ({"from_nodes": ["open_teachr"]}, "--from-nodes: .*Did you mean 'sample.open_teacher'"),
        ({"to_nodes": ["write_reprot"]}, "--to-nodes: .*Did you mean 'report.write_report'"),
        ({"from_inputs": ["studnts"]}, "--from-inputs: .*Did you mean 'students'"),
        ({"to_outputs": ["repor"]}, "--to-outputs: .*Did you mean 'report'"),
        ({"tags": ["distil"]}, "--tags: .*Did you mean 'distill'"),
        ({"load_versions": {"studens": "2026-01-31T12.00.00.000Z"}}, "--load-versions: .*Did you mean 'students'"),
        (
            {"load_versions": {"students": "2026-01-31T12.00.00.000Z"}},
            "--load-versions: expected a version of",
        ),
        (
            {"node_names": ["distill.compare_students"]},
            "teacher, which distill.compare_students reads: .*--to-nodes distill.compare_students",
        ),
        (
            {"node_names": ["compose.draw_student_samples"]},
            "students, which compose.draw_student_samples reads: .*got nothing",
        ),
        ({"tags": ["report"], "node_names": ["distill.show_losses"]}, "kedro run: .*no nodes after applying all"),
    ],
)
def test_part_of_a_run_that_is_not_there_is_refused(
    told: Callable[..., str], options: dict[str, Any], told_about: str
) -> None:
    assert re.search(told_about, told(**options))


def test_a_runner_of_several_processes_is_refused(told: Callable[..., str]) -> None:
    runner = ParallelRunner()
    try:
        assert "--runner: expected SequentialRunner or ThreadRunner" in told(runner=runner)
    finally:
        runner._manager.shutdown()


@pytest.mark.parametrize(("rank", "count"), [("one", "2"), ("0", "many"), ("2", "2"), ("-1", "2")])
def test_processes_that_nobody_counted_are_refused(
    told: Callable[..., str], monkeypatch: pytest.MonkeyPatch, rank: str, count: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)

    assert f"got '{rank}' and '{count}'" in told(namespaces=["shape"])


def test_kedros_own_session_runs_the_pipelines_that_the_settings_ask_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    know_project()
    monkeypatch.setenv("SKDCGN_DATA", str(place.data))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.tracking_uri)
    params = {"ablation": {"plan": True}}
    with (
        untouched_mlflow(),
        KedroSession.create(PROJECT, env="test", runtime_params=params, save_on_close=False) as session,
    ):
        assert [*session.run(pipeline_names=["ablation"])] == ["ablation_plan"]
    stores = place.data / "stores"
    assert not stores.exists() or content_of(stores) == {}


def test_disk_that_fills_up_keeps_what_is_finished(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, calls = os.fsync, []

    def fill(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("skdcgn_pipeline.artifacts.store.os.fsync", fill)
        with pytest.raises(Exception, match=r"full disk|No space left") as caught:
            place.run(params={"sample": {"rows_per_shard": 20}}, pipeline_names=["sample"])
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, SettingError):
        error = error.__cause__
    assert "what was finished is kept and will be reused" in str(error)
    kept = {p.name: p.stat().st_mtime_ns for p in partial_files(place.store("sample"), "shard-*.parquet")}
    assert kept
    assert not list(place.data.rglob("*.tmp"))

    place.run(params={"sample": {"rows_per_shard": 20}}, pipeline_names=["sample"])

    assert len(list(place.store("sample").glob("*/shards.json"))) == 2


# --- the tracking server ---


def test_server_that_does_not_answer_is_refused_before_any_work(place: Place) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    offline = Place(place.data, uri)

    with pytest.raises(SettingError) as caught:
        offline.run(pipeline_names=["sample"])

    assert str(caught.value).startswith(f"MLFLOW_TRACKING_URI: expected a tracking server that answers, got {uri}")
    nothing_was_made(place)


# --- on the command line ---


@pytest.mark.parametrize(
    ("arguments", "told_about"),
    [
        (["--params", "sample.row_per_shard=1"], "sample.row_per_shard: unknown setting. Did you mean"),
        (["--params", "sede=1"], "sede: unknown setting. Did you mean 'seed'?"),
        (["--params", "sample.rows_per_shard=nan"], "sample.rows_per_shard: Input should be"),
        (["--params", "sample.rows_per_shard=many"], "sample.rows_per_shard: Input should be a valid integer"),
        (["--params", "shape.distill.learning_rate=nan"], "shape.distill.learning_rate: Input should be"),
        (["--params", "variant=colord"], "Did you mean 'colored'?"),
        (["--params", "compute.device=gpu"], "Did you mean 'cpu'?"),
        (["--env", "tset"], "Did you mean 'test'?"),
        (["--pipelines", "distil"], "Did you mean 'distill'?"),
        (["--pipelines", "prepare,distil"], "Did you mean 'distill'?"),
        (["--pipeline", "distil"], "Did you mean 'distill'?"),
        (["--namespaces", "shap"], "Did you mean 'shape'?"),
        (["--pipelines", "ablation", "--params", "ablation.study=transformation"], "Did you mean 'transformations'?"),
        (["--pipelines", "ablation", "--params", "ablation.max_cells=41"], "expected at most 41 cells, got 50"),
        (["--params", "teacher.weights=nowhere.safetensors", "--pipelines", "sample"], "got nothing at nowhere"),
    ],
)
def test_command_line_tells_one_message(
    invoke: Callable[..., Result], place: Place, arguments: list[str], told_about: str
) -> None:
    message = message_of(invoke(*arguments))

    assert told_about in message
    nothing_was_made(place)


@pytest.mark.slow
def test_refused_command_ends_with_one_message(place: Place) -> None:
    status, output = place.command("--params", "sede=1,sample.rows_per_shard=0")

    assert status == 1
    assert output.count("Error: ") == 1
    assert "Traceback" not in output
    message = output[output.index("Error: ") :]
    for text in ("got 2 problems", "'seed'", "sample.rows_per_shard"):
        assert text in message
    nothing_was_made(place)


@pytest.mark.slow
def test_command_without_its_server_ends_with_one_message(place: Place) -> None:
    uri = f"http://127.0.0.1:{free_port()}"

    status, output = Place(place.data, uri).command("--pipelines", "sample")

    assert status == 1
    assert output.count("Error: ") == 1
    assert "Traceback" not in output
    assert f"MLFLOW_TRACKING_URI: expected a tracking server that answers, got {uri}" in output
    nothing_was_made(place)
