"""Loading a teacher: the published, the shipped, anyone's own, and everything that is refused."""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from configuration import read_folder
from skdcgn_pipeline.artifacts.store import sha256_of_file
from skdcgn_pipeline.images.assets import published_teacher_name
from skdcgn_pipeline.mechanisms import MechanismImages, MechanismLabels
from skdcgn_pipeline.networks.programs import save_onnx
from skdcgn_pipeline.parameters import Teacher, TeacherFit
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.teachers.cgn import MnistCGN
from skdcgn_pipeline.teachers.teacher import (
    SHIPPED_DIGITS_TEACHER,
    FunctionTeacher,
    check_teacher,
    identify_teacher,
    load_teacher,
    open_identified_teacher,
)
from skdcgn_pipeline.vocabulary import MECHANISMS

INTERFACE = {"noise_dim": 4, "num_classes": 3, "image_size": 8}


class PlainFunction(nn.Module):
    """Mask, foreground and background of a function of noise and three labels."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor(0.5))

    def forward(self, noise: torch.Tensor, shape: torch.Tensor, texture: torch.Tensor, background: torch.Tensor):
        mask = torch.sigmoid(noise[:, :1] + shape[:, None])[:, :, None, None] * torch.ones(1, 1, 8, 8)
        foreground = torch.tanh(self.gain * noise[:, :3] + texture[:, None])[:, :, None, None] * torch.ones(1, 1, 8, 8)
        other = torch.tanh(self.gain * noise[:, :3] - background[:, None])[:, :, None, None] * torch.ones(1, 1, 8, 8)
        return mask, foreground, other


def request(num_images: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.randn(num_images, 4, generator=torch.Generator().manual_seed(1))
    return noise, torch.stack([(torch.arange(num_images) + shift) % 3 for shift in (0, 1, 2)], 1)


def assert_renders_the_function(teacher: FunctionTeacher) -> None:
    noise, labels = request()
    images = teacher.render(noise, labels)
    expected = PlainFunction()(noise, *labels.unbind(1))
    for got, wanted in zip((images.mask, images.foreground, images.background), expected, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.fixture
def state_of_a_cgn() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return MnistCGN().state_dict()


# --- published and shipped -----------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["colored", "double_colored", "wildlife"])
def test_the_published_teacher_of_a_variant_is_found_in_the_assets(assets, variant):
    teacher = load_teacher("mnist_cgn", variant=variant, assets=assets)
    assert (teacher.noise_dim, teacher.num_classes, teacher.image_size) == (32, 10, 32)
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_published_teacher_of_another_variant_is_refused(assets):
    path = assets / published_teacher_name("wildlife")
    with pytest.raises(SettingError, match=r"a teacher of the variant 'double_colored'.*a teacher of 'wildlife'"):
        load_teacher("mnist_cgn", path, variant="double_colored")


def test_the_shipped_digits_teacher_loads_for_its_variant():
    if not SHIPPED_DIGITS_TEACHER.is_file():
        pytest.skip("needs the shipped digits teacher, which is absent")
    teacher = load_teacher("digits_cgn", variant="double_colored")
    assert (teacher.noise_dim, teacher.num_classes, teacher.image_size) == (32, 10, 32)
    with pytest.raises(SettingError, match="a teacher of the variant 'colored'"):
        load_teacher("digits_cgn", variant="colored")


def test_a_trained_teacher_carries_its_variant(tmp_path, state_of_a_cgn):
    path = tmp_path / "teacher.safetensors"
    save_file(state_of_a_cgn, path, {"variant": "colored"})
    assert load_teacher("mnist_cgn", path, variant="colored").image_size == 32
    with pytest.raises(SettingError, match="a teacher of 'colored'"):
        load_teacher("mnist_cgn", path, variant="wildlife")


def test_a_state_dict_without_batch_counters_loads(tmp_path, state_of_a_cgn):
    state = {name: t for name, t in state_of_a_cgn.items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "teacher.pth")
    teacher = load_teacher("mnist_cgn", tmp_path / "teacher.pth")
    assert torch.equal(teacher.label_emb.weight, state_of_a_cgn["label_emb.weight"])


# --- files that are refused ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_missing_file_is_named(tmp_path, suffix):
    path = tmp_path / f"absent{suffix}"
    with pytest.raises(SettingError, match=rf"teacher\.weights: expected a file, got nothing at .*absent{suffix}"):
        load_teacher("mnist_cgn", path)


def test_a_missing_published_teacher_is_named_with_the_command_that_gets_it(tmp_path):
    with pytest.raises(SettingError, match=r"cgn_mnist/cgn_colored_mnist\.pth.*skdcgn_pipeline\.images\.assets"):
        load_teacher("mnist_cgn", variant="colored", assets=tmp_path)


def test_a_teacher_without_file_and_variant_is_refused():
    with pytest.raises(SettingError, match="Give the file or a variant"):
        load_teacher("mnist_cgn")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path, state_of_a_cgn, suffix, keep):
    path = tmp_path / f"teacher{suffix}"
    if suffix == ".pth":
        torch.save(state_of_a_cgn, path)
    else:
        save_file(state_of_a_cgn, path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(SettingError, match=r"teacher\.weights: expected") as caught:
        load_teacher("mnist_cgn", path)
    assert str(path) in str(caught.value)


def test_weights_of_another_architecture_are_refused_with_the_first_difference(tmp_path, state_of_a_cgn):
    wider = state_of_a_cgn | {"f_shape.0.weight": torch.zeros(7, 42)}
    torch.save(wider, tmp_path / "teacher.pth")
    with pytest.raises(
        SettingError,
        match=r"the 57 tensors of the MNIST CGN.*1 of another shape, first \'f_shape\.0\.weight\' \(7, 42\) instead of",
    ):
        load_teacher("mnist_cgn", tmp_path / "teacher.pth")


def test_weights_tell_their_sizes(tmp_path):
    torch.save(MnistCGN(5, 3, 48, width=16).state_dict(), tmp_path / "teacher.pth")
    teacher = load_teacher("mnist_cgn", tmp_path / "teacher.pth")
    assert (teacher.noise_dim, teacher.num_classes, teacher.image_size) == (5, 3, 48)


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_a_missing_or_further_tensor_is_refused(tmp_path, state_of_a_cgn, change):
    state = dict(state_of_a_cgn)
    if change == "missing":
        del state["label_emb.weight"]
    else:
        state["label_emb.scale"] = torch.ones(1)
    torch.save(state, tmp_path / "teacher.pth")
    with pytest.raises(SettingError, match=rf"teacher\.pth with 1 {change}, first 'label_emb"):
        load_teacher("mnist_cgn", tmp_path / "teacher.pth")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.ones(2)])
def test_a_file_that_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "teacher.pth")
    with pytest.raises(SettingError, match="a state dict of tensors"):
        load_teacher("mnist_cgn", tmp_path / "teacher.pth")


class CreatesAMarker:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mknod, (str(self.marker),)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_weights_file_is_not_executed(tmp_path, suffix, writer):
    marker, path = tmp_path / "marker", tmp_path / f"teacher{suffix}"
    content = {"label_emb.weight": CreatesAMarker(marker)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(SettingError, match=r"teacher\.weights"):
        load_teacher("mnist_cgn", path)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
@pytest.mark.parametrize("content", ["program", "pickle", "no program"])
def test_a_form_that_can_run_code_is_not_opened_unless_it_is_trusted(tmp_path, exported, suffix, content):
    marker, path = tmp_path / "marker", tmp_path / f"teacher{suffix}"
    if content == "pickle":
        torch.save({"weight": CreatesAMarker(marker)}, path)
    else:
        path.write_bytes(exported[suffix].read_bytes() if content == "program" else b"PK no program")
    with pytest.raises(SettingError, match=r"expected an ONNX program \(\.onnx\), got .*teacher\.trust_program=true"):
        load_teacher("custom", path, **INTERFACE)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".onnx"])
def test_plain_tensors_are_never_a_program(tmp_path, exported, suffix):
    """A program under the name of weights."""
    path = tmp_path / "teacher.pth"
    path.write_bytes(exported[suffix].read_bytes())
    with pytest.raises(SettingError, match=r"teacher\.weights: expected"):
        load_teacher("mnist_cgn", path)


# --- anyone's own --------------------------------------------------------------------------------


@pytest.fixture
def module_of_teachers(tmp_path, monkeypatch) -> str:
    source = """
        from tiny import TinyTeacher

        class Nameless(TinyTeacher):
            noise_dim = "four"

        class Speechless:
            noise_dim, num_classes, image_size = 4, 3, 8

        class TooBright(TinyTeacher):
            def render(self, noise, labels):
                images = super().render(noise, labels)
                images.mask.mul_(2)
                return images

        NUMBER = 3

        def needs_an_argument(path):
            return TinyTeacher()
    """
    (tmp_path / "teachers_of_a_test.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "teachers_of_a_test", raising=False)
    return "teachers_of_a_test"


def test_a_factory_gives_any_object_with_the_interface(module_of_teachers, tiny_teacher):
    teacher = load_teacher("custom", factory=f"{module_of_teachers}:TinyTeacher")
    noise, labels = request()
    assert not isinstance(teacher, nn.Module)
    assert torch.equal(teacher.render(noise, labels).mask, tiny_teacher.render(noise, labels).mask)


@pytest.mark.parametrize(
    "factory",
    ["absent_module:make", "{module}:absent", "{module}", ":make", "{module}:NUMBER", "{module}:needs_an_argument"],
)
def test_a_bad_factory_is_refused(module_of_teachers, factory):
    with pytest.raises(SettingError, match=r"teacher\.factory"):
        load_teacher("custom", factory=factory.format(module=module_of_teachers))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Nameless", r"teacher\.noise_dim: expected a positive integer attribute, got 'four'"),
        ("Speechless", r"teacher\.render: expected a method"),
        ("TooBright", r"teacher mask: expected values in \[0, 1\]"),
    ],
)
def test_an_object_without_the_interface_is_refused(module_of_teachers, name, message):
    with pytest.raises(SettingError, match=message):
        load_teacher("custom", factory=f"{module_of_teachers}:{name}")


@pytest.mark.parametrize(
    "body", ["def make(:", "raise SystemExit(0)", "def make(): exit(0)", "def make(): return 1 / 0"]
)
def test_whatever_the_module_of_a_factory_does_is_told(tmp_path, monkeypatch, body):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "failing_teacher", raising=False)
    (tmp_path / "failing_teacher.py").write_text(f"{body}\n")
    with pytest.raises(SettingError, match=r"teacher\.factory: expected .*, got 'failing_teacher:make' "):
        load_teacher("custom", factory="failing_teacher:make")


def test_a_custom_teacher_without_factory_or_complete_file_is_refused(tmp_path):
    with pytest.raises(SettingError, match="'factory', or 'weights' with 'noise_dim'"):
        load_teacher("custom")
    with pytest.raises(SettingError, match="'factory', or 'weights' with 'noise_dim'"):
        load_teacher("custom", tmp_path / "teacher.pt", noise_dim=4)


def test_an_unknown_teacher_is_refused_with_the_nearest_name():
    with pytest.raises(SettingError, match="Did you mean 'mnist_cgn'"):
        load_teacher("mnist_gcn")


@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".onnx"])
def test_a_program_is_a_teacher_for_any_number_of_images(exported, suffix):
    teacher = load_teacher("custom", exported[suffix], **INTERFACE, trust_program=suffix != ".onnx")
    assert_renders_the_function(teacher)
    assert teacher.render(torch.zeros(64, 4), torch.zeros(64, dtype=torch.long)).mask.shape == (64, 1, 8, 8)


def test_a_custom_file_of_another_interface_is_refused(exported):
    with pytest.raises(SettingError, match="teacher mask: expected a tensor of shape"):
        load_teacher("custom", exported[".onnx"], **(INTERFACE | {"image_size": 16}))


@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".onnx", ".bin"])
def test_a_missing_or_damaged_custom_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"teacher{suffix}"
    with pytest.raises(SettingError, match=r"teacher\.weights: expected a file, got nothing"):
        load_teacher("custom", path, **INTERFACE)
    path.write_bytes(b"PK no program")
    with pytest.raises(SettingError, match=r"teacher\.weights: expected a program"):
        load_teacher("custom", path, **INTERFACE, trust_program=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> dict[str, Path]:
    """The plain function by the ending of the file that it is in."""
    folder, (noise, labels) = tmp_path_factory.mktemp("exported"), request()
    rows = torch.export.Dim("rows")
    program = torch.export.export(PlainFunction(), (noise, *labels.unbind(1)), dynamic_shapes=({0: rows},) * 4)
    paths = {suffix: folder / f"teacher{suffix}" for suffix in (".pt", ".pt2", ".onnx")}
    torch.jit.script(PlainFunction()).save(str(paths[".pt"]))
    torch.export.save(program, paths[".pt2"])
    save_onnx(program, ("noise", *MECHANISMS), ("m", "f", "b"), paths[".onnx"])
    return paths


def onnx_program(path: Path, domain: str = "", beside: str | None = None) -> None:
    """Write a program of one input and output; of an operator of another domain, or of weights in another file."""
    onnx = pytest.importorskip("onnx", reason="needs onnx (the export extra), which is absent")
    value, vector = onnx.helper, onnx.helper.make_tensor_value_info
    weights = onnx.numpy_helper.from_array(np.ones(4, np.float32), "w")
    if beside:
        weights.ClearField("raw_data")
        weights.data_location = onnx.TensorProto.EXTERNAL
        for key, told in {"location": beside, "offset": "0", "length": "16"}.items():
            entry = weights.external_data.add()
            entry.key, entry.value = key, told
    node = value.make_node("Add", ["x", "w"], ["y"], domain=domain)
    graph = value.make_graph([node], "graph", [vector("x", 1, [4])], [vector("y", 1, [4])], [weights])
    sets = [value.make_opsetid("", 18), *([value.make_opsetid(domain, 1)] if domain else [])]
    path.write_bytes(value.make_model(graph, opset_imports=sets, ir_version=9).SerializeToString())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"4 inputs \(noise, three labels\) and 3 outputs .* with 1 and 1"),
        ({"domain": "somebodys.own"}, "a program"),
        ({"beside": "weights.bin"}, "a program"),
        ({"beside": "{folder}/weights.bin"}, "a program"),
    ],
)
def test_an_onnx_program_is_operators_and_what_lies_in_its_file(tmp_path, monkeypatch, capfd, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.ones(4, np.float32).tobytes())
    path = tmp_path / "teacher.onnx"
    onnx_program(path, **{name: value.format(folder=tmp_path) for name, value in options.items()})
    with pytest.raises(SettingError, match=rf"teacher\.weights: expected {message}"):
        load_teacher("custom", path, **INTERFACE)
    assert not capfd.readouterr().err


def test_without_onnxruntime_the_extra_is_named(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SettingError, match=re.escape('pip install "skdcgn_pipeline[export]"')):
        load_teacher("custom", exported[".onnx"], **INTERFACE)


def test_a_function_is_a_teacher_without_gradients():
    teacher = FunctionTeacher(PlainFunction().requires_grad_(True), **INTERFACE)
    check_teacher(teacher)
    assert_renders_the_function(teacher)
    assert not teacher.render(
        torch.zeros(2, 4, requires_grad=True), torch.zeros(2, dtype=torch.long)
    ).mask.requires_grad


# --- identity ------------------------------------------------------------------------------------


def identity_of_file(name: str, weights: Path, **interface: int) -> dict[str, Any]:
    return identify_teacher(Teacher(name=name, weights=str(weights), **interface))


def identity_of_factory(factory: str) -> dict[str, Any]:
    return open_identified_teacher(Teacher(name="custom", factory=factory), None, "absent").identity


def test_the_identity_of_a_file_is_its_content_and_not_its_path(tmp_path, state_of_a_cgn):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(state_of_a_cgn, first)
    save_file(state_of_a_cgn, second)
    assert identity_of_file("mnist_cgn", first) == identity_of_file("mnist_cgn", second)
    assert identity_of_file("mnist_cgn", first)["sha256"] == sha256_of_file(first)
    state_of_a_cgn["label_emb.weight"][0, 0] += 1
    save_file(state_of_a_cgn, second)
    assert identity_of_file("mnist_cgn", first) != identity_of_file("mnist_cgn", second)


def test_the_identity_of_a_custom_file_has_its_interface(tmp_path):
    (tmp_path / "teacher.pt").write_bytes(b"program")
    first = identity_of_file("custom", tmp_path / "teacher.pt", **INTERFACE)
    assert first["image_size"] == 8
    assert first != identity_of_file("custom", tmp_path / "teacher.pt", **(INTERFACE | {"image_size": 16}))


def test_the_identity_of_a_factory_follows_its_source(module_of_teachers, tmp_path, monkeypatch):
    import importlib
    import sys

    factory = f"{module_of_teachers}:TinyTeacher"
    first = identity_of_factory(factory)
    assert first == identity_of_factory(factory)
    source = tmp_path / f"{module_of_teachers}.py"
    source.write_text(source.read_text() + "\n# another teacher\n")
    monkeypatch.delitem(sys.modules, module_of_teachers)
    importlib.invalidate_caches()
    assert identity_of_factory(factory) != first


@pytest.mark.parametrize("held", ["gain = read()", "gain = torch.nn.Parameter(torch.tensor(read()))"])
def test_the_identity_of_a_factory_follows_what_it_reads(tmp_path, monkeypatch, held):
    """The weights that a factory loads may change while its source does not."""
    (tmp_path / "reading_teacher.py").write_text(f"""
import torch
from pathlib import Path
from typing import Any
from skdcgn_pipeline import MechanismImages
def read(): return float(Path({str(tmp_path / "gain.txt")!r}).read_text())
class Make(torch.nn.Module):
    noise_dim, num_classes, image_size = 4, 10, 8
    def __init__(self):
        super().__init__()
        self.{held}
        self.eval()
    def render(self, noise, labels):
        with torch.no_grad():
            z = (self.gain * noise[:, :1] + labels[:, None] / 10).tanh()[:, :, None, None]
        return MechanismImages((z.expand(-1, 1, 8, 8) + 1) / 2, z.expand(-1, 3, 8, 8), -z.expand(-1, 3, 8, 8))
""")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "reading_teacher", raising=False)
    identities = []
    for gain in ("1.0", "1.0", "0.9"):
        (tmp_path / "gain.txt").write_text(gain)
        identities.append(identity_of_factory("reading_teacher:Make"))
    assert identities[0] == identities[1] != identities[2]


class Wrong(torch.nn.Module):
    """A teacher whose images depend on a layer."""

    noise_dim, num_classes, image_size = 4, 10, 8

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def render(self, noise, labels):
        with torch.no_grad():
            classes = MechanismLabels.of(labels).shape
            out = torch.tanh(self.layer(noise) + classes[:, None] / 10)[:, :1, None, None]
        return MechanismImages((out.expand(-1, 1, 8, 8) + 1) / 2, out.expand(-1, 3, 8, 8), out.expand(-1, 3, 8, 8))


class OverTheBatch(torch.nn.Module):
    def forward(self, noise):
        return noise - noise.mean(0)


class Counting(torch.nn.Module):
    calls = 0

    def forward(self, noise):
        self.calls += 1
        return noise / self.calls


class Noisy(torch.nn.Module):
    def forward(self, noise):
        return noise + torch.randn_like(noise)


def test_a_teacher_in_training_mode_is_refused_unchanged():
    teacher = Wrong(torch.nn.BatchNorm1d(4))
    with pytest.raises(SettingError, match=r"eval mode.*training mode"):
        check_teacher(teacher)
    assert torch.equal(teacher.layer.running_mean, torch.zeros(4))
    check_teacher(teacher.eval())


@pytest.mark.parametrize("layer", [OverTheBatch(), Counting(), Noisy()])
def test_a_teacher_whose_images_depend_on_more_than_noise_and_labels_is_refused(layer):
    with pytest.raises(SettingError, match="depend on their noise and labels alone"):
        check_teacher(Wrong(layer).eval())


def test_trust_is_a_setting_and_no_part_of_the_identity(exported):
    told = {"name": "custom", "fit": TeacherFit(num_images=1), **INTERFACE}
    of_form = {s: Teacher(weights=str(p), trust_program=s != ".onnx", **told) for s, p in exported.items()}
    for suffix, settings in of_form.items():
        opened = open_identified_teacher(settings, "double_colored", "absent")
        assert opened.identity == identity_of_file("custom", exported[suffix], **INTERFACE)
        check_teacher(pickle.loads(pickle.dumps(opened.open_again))())  # as another process opens it
    with pytest.raises(SettingError, match="trust_program"):
        open_identified_teacher(of_form[".pt2"].model_copy(update={"trust_program": False}), "double_colored", "absent")


def test_settings_open_a_teacher_with_its_identity(module_of_teachers):
    settings = Teacher(name="custom", factory=f"{module_of_teachers}:TinyTeacher", fit=TeacherFit(num_images=1))
    opened = open_identified_teacher(settings, "double_colored", "absent")
    assert opened.generator.noise_dim == 4
    assert opened.identity["factory"] == settings.factory


def test_the_shipped_teacher_is_the_one_on_its_card():
    card = json.loads(SHIPPED_DIGITS_TEACHER.with_suffix(".json").read_text())
    assert card["sha256"] == sha256_of_file(SHIPPED_DIGITS_TEACHER)
    assert card["data"]["variant"] == "double_colored"
    assert SHIPPED_DIGITS_TEACHER.stat().st_size <= 3 * 2**20


def test_the_card_of_the_shipped_teacher_has_the_settings_of_the_teacher_stage(project):
    stage = read_folder(project / "conf" / "base")["teacher"]["fit"]
    card = json.loads(SHIPPED_DIGITS_TEACHER.with_suffix(".json").read_text())["training"]["settings"]
    assert TeacherFit(**stage).model_dump(mode="json", include=card.keys()) == card
