"""The ImageNet teacher: published names, rendering, precision, its files and what is refused."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from scipy import stats
from torch import Tensor

from imagenet_assets import make_miniature
from libraries import needs
from skdcgn_pipeline.mechanisms import CounterfactualGenerator, MechanismImages, check_images
from skdcgn_pipeline.parameters import Compute, ImageEncoding, Teacher
from skdcgn_pipeline.runtime.compute import autocast, place
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.samples.loading import StreamedPairs
from skdcgn_pipeline.samples.pixels import decode_images
from skdcgn_pipeline.teachers import imagenet_cgn
from skdcgn_pipeline.teachers.imagenet_cgn import (
    BIGGAN_MINIATURE,
    ImageNetCGN,
    draw_biggan,
    load_imagenet_cgn,
    truncate_normal,
)
from skdcgn_pipeline.teachers.teacher import check_teacher, identify_teacher, load_teacher
from skdcgn_pipeline.vocabulary import MECHANISMS
from tiny import draw_samples, tree_of

pytestmark = needs("pytorch_pretrained_biggan", extra="imagenet")
# How far pixels in bf16 are from those in fp32, at most and on average over a batch; masks in [0, 1], images
# in [-1, 1]. The miniature's 64 images came within 0.09 and 0.005 on a CPU.
BF16_MAX_DIFFERENCE, BF16_MEAN_DIFFERENCE = 0.2, 0.01
PREFIXES = ("f_shape.", "f_text.", "f_bg.")


@pytest.fixture(scope="module")
def miniature() -> ImageNetCGN:
    return make_miniature()


@pytest.fixture
def checkpoint(miniature) -> dict[str, Tensor]:
    """What the published file holds, in miniature: the network and the BigGAN of its training."""
    state = dict(miniature.state_dict())
    return {f"biggan_GT.{n.removeprefix('f_bg.')}": t for n, t in state.items() if n.startswith("f_bg.")} | state


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """The published network's state dict in one number per tensor."""
    with torch.device("meta"):
        state = ImageNetCGN().state_dict()
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in state.items()}


def request(num_images: int = 6) -> tuple[Tensor, Tensor]:
    noise = torch.randn(num_images, 4, generator=torch.Generator().manual_seed(1))
    return noise, torch.stack([(torch.arange(num_images) + shift) % 10 for shift in (0, 3, 7)], 1)


def assert_same_images(first: MechanismImages, second: MechanismImages) -> None:
    for mechanism in MECHANISMS:
        assert torch.equal(first.of(mechanism), second.of(mechanism))


# --- the network -----------------------------------------------------------------------------------


def test_names_and_shapes_are_the_published_ones(shared: Path, published):
    golden = shared / "golden"
    of_biggan = json.loads((golden / "biggan_deep_256_state_dict_shapes.json").read_text())
    expected = {f"{prefix}{name}": shape for prefix in PREFIXES for name, shape in of_biggan.items()}
    of_u2net = json.loads((golden / "u2net_state_dict_shapes.json").read_text())
    expected |= {f"u2net.{name}": shape for name, shape in of_u2net.items()}
    assert {name: list(tensor.shape) for name, tensor in published.items()} == expected


def test_the_miniature_keeps_the_interface(miniature):
    assert isinstance(miniature, CounterfactualGenerator)
    assert (miniature.noise_dim, miniature.num_classes, miniature.image_size) == (4, 10, 32)
    check_teacher(miniature)
    assert not miniature.training
    assert sum(parameter.numel() for parameter in miniature.parameters()) < 50_000


def test_images_vary_with_noise_and_their_own_class_alone(miniature):
    noise, labels = request()
    images = miniature.render(noise, labels)
    check_images(images, 6, 32)
    assert_same_images(images, miniature.render(noise, labels))
    for column, mechanism in enumerate(MECHANISMS):
        assert images.of(mechanism).std((1, 2, 3)).min() > 0.02
        assert (images.of(mechanism) - miniature.render(noise.flip(0), labels).of(mechanism)).abs().mean() > 0.01
        other = labels.clone()
        other[:, column] = (other[:, column] + 1) % 10
        changed = miniature.render(noise, other)
        for one in MECHANISMS:
            assert torch.equal(images.of(one), changed.of(one)) == (one != mechanism)


def test_the_mask_is_made_of_the_premask(miniature):
    noise, labels = request()
    premask = draw_biggan(miniature.f_shape, noise, labels[:, 0], 0.5)
    assert premask.shape == (6, 3, 32, 32)
    assert -1 <= premask.min() < premask.max() <= 1
    mask = miniature.u2net(premask).clamp(1e-4, 0.9999)
    assert torch.equal(mask, miniature.render(noise, labels).mask)


def test_the_mask_stays_off_its_ends(miniature):
    steep = copy.deepcopy(miniature)
    steep.u2net.outconv.weight.mul_(1000)
    mask = steep.render(*request()).mask
    assert mask.min().item() == pytest.approx(1e-4)
    assert mask.max().item() == pytest.approx(0.9999)


def test_one_mechanism_renders_as_all_do(miniature):
    noise, labels = request()
    images = miniature.render(noise, labels)
    for column, mechanism in enumerate(MECHANISMS):
        assert torch.equal(miniature.render_mechanism(mechanism, noise, labels[:, column]), images.of(mechanism))
    sizes = [sum(p.numel() for p in miniature.network_of(m).parameters()) for m in MECHANISMS]
    assert sizes[0] == sizes[1] + sum(p.numel() for p in miniature.u2net.parameters())


def test_a_biggan_renders_as_the_packages_own(miniature):
    noise, labels = request()
    import pytorch_pretrained_biggan as biggan

    own = biggan.BigGAN(biggan.BigGANConfig(**BIGGAN_MINIATURE)).eval()
    own.load_state_dict(miniature.f_text.state_dict())
    latent = 0.5 * truncate_normal(noise)
    with torch.no_grad():
        expected = own(latent, torch.nn.functional.one_hot(labels[:, 1], 10).float(), 0.5)
    torch.testing.assert_close(miniature.render(noise, labels).foreground, expected)


def test_rendering_leaves_the_tensors_alone_and_follows_them(miniature):
    noise, labels = request()
    network = copy.deepcopy(miniature)
    images = network.render(noise, labels)
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in miniature.state_dict().items())
    network.load_state_dict(make_miniature(seed=1).state_dict())
    changed = network.render(noise, labels)
    assert_same_images(changed, make_miniature(seed=1).render(noise, labels))
    assert not torch.equal(images.foreground, changed.foreground)


def test_a_network_in_training_gets_gradients_and_its_power_iteration(miniature):
    network = copy.deepcopy(miniature).requires_grad_(True).train()
    with torch.no_grad():
        for name, tensor in network.named_buffers():
            if name.endswith("weight_u"):
                tensor.copy_(torch.nn.functional.normalize(torch.ones_like(tensor), dim=0))
    before = network.f_bg.generator.gen_z.weight_u.clone()
    images = network(*request())
    (images.mask.mean() + images.foreground.mean() + images.background.mean()).backward()
    assert network.f_bg.generator.gen_z.weight_orig.grad.abs().sum() > 0
    assert network.u2net.outconv.weight.grad.abs().sum() > 0
    assert not torch.equal(network.f_bg.generator.gen_z.weight_u, before)


def test_a_lower_truncation_brings_images_together():
    noise, labels = request(32)
    labels = torch.zeros_like(labels)
    spread = [make_miniature(truncation=t).render(noise, labels).foreground.std(0).mean() for t in (0.1, 0.5, 1.0)]
    assert spread[0] < spread[1] < spread[2]


def test_truncated_noise_has_the_quantiles_of_a_truncated_normal():
    noise = torch.linspace(-6, 6, 1001)
    expected = stats.truncnorm.ppf(stats.norm.cdf(noise.double().numpy()), -2, 2)
    truncated = truncate_normal(noise)
    torch.testing.assert_close(truncated.double(), torch.from_numpy(expected), rtol=0, atol=1e-5)
    assert torch.equal(truncated, -truncate_normal(-noise))
    assert (truncated.diff() >= 0).all()
    assert truncated.abs().max() <= 2
    drawn = truncate_normal(torch.randn(100_000, generator=torch.Generator().manual_seed(0)))
    assert drawn.std().item() == pytest.approx(stats.truncnorm.std(-2, 2), abs=0.005)


def test_bf16_stays_near_fp32(miniature):
    noise, labels = request(64)
    images = miniature.render(noise, labels)
    with autocast(Compute(device="cpu", precision="bf16"), torch.device("cpu")):
        rounded = miniature.render(noise, labels)
    for mechanism in MECHANISMS:
        assert rounded.of(mechanism).dtype == torch.float32
        difference = (rounded.of(mechanism) - images.of(mechanism)).abs()
        assert 0 < difference.mean() <= BF16_MEAN_DIFFERENCE
        assert difference.max() <= BF16_MAX_DIFFERENCE


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, which is absent")
def test_bf16_on_a_gpu_stays_near_fp32_on_the_cpu(miniature):
    noise, labels = request(64)
    images = miniature.render(noise, labels)
    device = torch.device("cuda")
    on_gpu = place(copy.deepcopy(miniature), device, torch.channels_last)
    with autocast(Compute(device="cuda", precision="bf16"), device):
        rounded = on_gpu.render(noise.to(device), labels.to(device)).to("cpu")
    for mechanism in MECHANISMS:
        difference = (rounded.of(mechanism) - images.of(mechanism)).abs()
        assert difference.mean() <= BF16_MEAN_DIFFERENCE
        assert difference.max() <= BF16_MAX_DIFFERENCE


def test_the_layout_changes_hardly_anything(miniature):
    noise, labels = request()
    contiguous = place(copy.deepcopy(miniature), "cpu", torch.contiguous_format)
    assert miniature.f_text.generator.layers[0].conv_1.weight_orig.is_contiguous(memory_format=torch.channels_last)
    for mechanism in MECHANISMS:
        first, second = (cgn.render(noise, labels).of(mechanism) for cgn in (miniature, contiguous))
        torch.testing.assert_close(first, second, rtol=0, atol=1e-4)


def test_samples_are_drawn_from_the_miniature_as_from_any_teacher(tmp_path, cpu):
    teacher = load_teacher("custom", factory="imagenet_assets:make_miniature")
    samples = draw_samples(tmp_path, teacher, {"name": "miniature"}, 2, 20, 0, cpu)
    assert (samples.noise_dim, samples.num_classes, samples.image_size) == (4, 10, 32)


def test_samples_of_some_classes_are_encoded_and_drawn_in_ranges(tmp_path, miniature, cpu):
    def draw(folder: str, **options):
        how = ImageEncoding(encoding="webp", quality=90)
        sizes = 20, 40  # per class and per shard
        return draw_samples(
            tmp_path / folder,
            miniature,
            {"name": "miniature"},
            *sizes,
            0,
            cpu,
            storing=how,
            classes=[2, 5, 9],
            **options,
        )

    whole = draw("whole")
    assert sorted(set(whole.read("labels")["labels"].tolist())) == [2, 5, 9]
    noise, labels, masks = StreamedPairs(whole, "shape").take(torch.tensor([59, 7]))
    assert labels.tolist() == [9, 5]
    rendered = miniature.render_mechanism("shape", noise, labels)
    assert (decode_images("shape", masks) - rendered).abs().mean() < 0.02
    for shard_range in ((0, 1), (1, 2)):
        draw("ranges", shard_range=shard_range)
    assert tree_of(draw("ranges").artifact.directory) == tree_of(whole.artifact.directory)


# --- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_checkpoint_of_published_names_loads_and_renders(tmp_path, miniature, checkpoint, prefix, kind):
    state = {f"{prefix}{name}": tensor for name, tensor in checkpoint.items()}
    path = tmp_path / ("cgn.safetensors" if kind == "safetensors" else "cgn.pth")
    if kind == "safetensors":
        save_file({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    teacher = load_teacher("imagenet_cgn", path)
    assert isinstance(teacher, ImageNetCGN)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not hasattr(teacher, "biggan_GT")
    assert_same_images(teacher.render(*request()), miniature.render(*request()))
    path.write_bytes(b"overwritten")
    assert_same_images(teacher.render(*request()), miniature.render(*request()))


def test_a_checkpoint_without_the_unused_biggan_loads(tmp_path, miniature):
    torch.save(miniature.state_dict(), tmp_path / "cgn.pth")
    assert_same_images(
        load_teacher("imagenet_cgn", tmp_path / "cgn.pth").render(*request()), miniature.render(*request())
    )


def test_the_truncation_is_that_asked_for(tmp_path, checkpoint):
    torch.save(checkpoint, tmp_path / "cgn.pth")
    teacher = load_teacher("imagenet_cgn", tmp_path / "cgn.pth", truncation=0.9)
    assert_same_images(teacher.render(*request()), make_miniature(truncation=0.9).render(*request()))


@pytest.fixture
def separate(tmp_path, miniature) -> dict[str, Path]:
    """A file for each network of the miniature, the BigGANs' with the package's own names."""
    networks = {"shape": miniature.f_shape, "texture": miniature.f_text, "background": miniature.f_bg}
    files = {}
    for name, network in (networks | {"u2net": miniature.u2net}).items():
        files[name] = tmp_path / f"{name}.bin"
        torch.save(network.state_dict(), files[name])
    return files


def test_separate_files_load(separate, miniature):
    teacher = load_teacher("imagenet_cgn", separate)
    assert_same_images(teacher.render(*request()), miniature.render(*request()))


def test_one_biggan_serves_all_mechanisms(separate, miniature):
    teacher = load_teacher("imagenet_cgn", {"biggan": separate["texture"], "u2net": separate["u2net"]})
    noise, labels = request()
    expected = miniature.render(noise, labels).foreground
    assert torch.equal(teacher.render(noise, labels).foreground, expected)
    assert torch.equal(teacher.render(noise, labels[:, 1]).background, expected)
    assert torch.equal(draw_biggan(teacher.f_shape, noise, labels[:, 1], 0.5), expected)
    teacher.f_bg.embeddings.weight.zero_()
    assert torch.equal(teacher.render(noise, labels).foreground, expected)


def test_the_identity_follows_every_file_and_the_truncation(tmp_path, separate):
    def identity(weights: Any, **truncation: float) -> dict[str, Any]:
        return identify_teacher(Teacher(name="imagenet_cgn", weights=weights, **truncation))

    separate = {name: str(path) for name, path in separate.items()}
    first = identity(separate)
    json.dumps(first)
    assert first == identity(separate, truncation=0.5)
    assert first != identity(separate, truncation=0.6)
    assert first != identity(separate | {"shape": separate["texture"]})
    one = identity(separate["u2net"])
    assert one["sha256"] == {"": first["sha256"]["u2net."]}


# --- what is refused -------------------------------------------------------------------------------


def test_a_partial_checkpoint_is_refused_with_the_first_keys(tmp_path, checkpoint):
    state = {name: tensor for name, tensor in checkpoint.items() if not name.startswith("f_bg.generator.layers.1.")}
    state["module.f_sky.weight"] = state["f_sky.bias"] = torch.zeros(1)
    torch.save(state, tmp_path / "cgn.pth")
    missing = r"48 missing, first 'f_bg\.generator\.layers\.1\.\S+'"
    unexpected = r"2 unexpected, first 'f_sky\.weight'"
    with pytest.raises(SettingError, match=rf"expected the \d+ tensors.*cgn\.pth with {missing}; {unexpected}"):
        load_teacher("imagenet_cgn", tmp_path / "cgn.pth")


def test_a_tensor_of_another_shape_is_refused(tmp_path, checkpoint):
    checkpoint["u2net.outconv.weight"] = torch.zeros(1, 7, 1, 1)
    torch.save(checkpoint, tmp_path / "cgn.pth")
    other = r"1 of another shape, first 'u2net\.outconv\.weight' \(1, 7, 1, 1\) instead of \(1, 3, 1, 1\)"
    with pytest.raises(SettingError, match=other):
        load_teacher("imagenet_cgn", tmp_path / "cgn.pth")


def test_a_checkpoint_of_another_network_is_compared_with_the_published_one(tmp_path):
    torch.save({"f_text1.0.weight": torch.zeros(2)}, tmp_path / "mnist.pth")
    with pytest.raises(SettingError, match=r"2604 missing, first 'f_shape\.\S+'; 1 unexpected, first 'f_text1\.0\.we"):
        load_teacher("imagenet_cgn", tmp_path / "mnist.pth")


def test_a_wrong_separate_file_is_named(separate):
    with pytest.raises(SettingError, match=r"texture\.bin with \d+ missing, first 'stage1\.\S+'; \d+ unexpected"):
        load_teacher("imagenet_cgn", separate | {"u2net": separate["texture"]})


@pytest.mark.parametrize("names", [(), ("u2net",), ("shape", "u2net"), ("biggan",), ("biggan", "u2net", "texture")])
def test_an_incomplete_set_of_files_is_refused(names):
    with pytest.raises(
        SettingError, match=r"one file, or the files 'biggan' \(or 'shape', 'texture' and 'background'\)"
    ):
        load_teacher("imagenet_cgn", dict.fromkeys(names, "absent.pth"))


def test_an_imagenet_teacher_without_files_is_refused():
    with pytest.raises(SettingError, match=r"teacher\.weights: expected one file, .* got none"):
        load_teacher("imagenet_cgn")
    with pytest.raises(SettingError, match=r"expected a file, got nothing at absent\.pth"):
        load_teacher("imagenet_cgn", "absent.pth")


def test_several_files_for_another_teacher_are_refused(separate):
    with pytest.raises(SettingError, match="expected one file, got"):
        load_teacher("mnist_cgn", separate)


def test_a_truncated_file_is_refused(tmp_path, checkpoint):
    path = tmp_path / "cgn.pth"
    torch.save(checkpoint, path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(SettingError, match=r"teacher\.weights: expected a"):
        load_imagenet_cgn(path)


@pytest.mark.parametrize("truncation", [0, -0.5, 1.01, float("nan"), "0.5"])
def test_a_truncation_out_of_range_is_refused(truncation):
    with pytest.raises(SettingError, match=r"teacher\.truncation: expected a number in \(0, 1\], got"):
        make_miniature(truncation=truncation)


@pytest.mark.parametrize("label", [-1, 10])
def test_a_class_out_of_range_is_refused(miniature, label):
    noise, labels = request()
    labels[2, 1] = label
    with pytest.raises(SettingError, match="labels of texture: expected classes 0 to 9"):
        miniature.render(noise, labels)
    with pytest.raises(SettingError, match="expected classes 0 to 9"):
        miniature.render_mechanism("texture", noise, labels[:, 1])


def test_noise_of_another_length_is_refused(miniature):
    with pytest.raises(SettingError, match=r"noise: expected shape \[N, 4\], got \[2, 5\]"):
        miniature.render(torch.zeros(2, 5), torch.zeros(2, dtype=torch.long))


def test_without_the_package_the_module_imports_and_names_the_command_that_gets_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_pretrained_biggan", None)
    spec = importlib.util.spec_from_file_location("imagenet_cgn_anew", imagenet_cgn.__file__)
    anew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anew)
    with pytest.raises(SettingError, match=r"pytorch-pretrained-biggan.*pip install \"skdcgn_pipeline\[imagenet\]\""):
        anew.make_random("miniature")
