"""Students: their sizes, their interface, saving and loading."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle

import pytest
import torch

from skdcgn_pipeline.networks.interface import GeneratorSize, check_same_interface
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.threads import computing_on
from skdcgn_pipeline.students.architectures import CompactGenerator, TinyGenerator, make_student
from skdcgn_pipeline.students.layers import ConditionalNorm
from skdcgn_pipeline.students.released import released_students
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.vocabulary import COMPOSITE, MECHANISMS, channels_of

COMPACT = {"architecture": "compact", "width": [16, 24, 16], "embedding_dim": 8}
TINYGAN = {"architecture": "tinygan", "width": 2, "embedding_dim": 4}
BASIS = {"architecture": "basis", "width": [32, 31, 32], "embedding_dim": 10}
SMALL_BASIS = {"architecture": "basis", "width": [3, 5, 4], "embedding_dim": 4}
SMALL = {"architecture": "compact", "width": [4, 6, 4], "embedding_dim": 4}
CODED, CODED_BASIS = SMALL | {"bottleneck": 3}, SMALL_BASIS | {"bottleneck": 3}


def make_students(**changes) -> StudentCGN:
    options = {"noise_dim": 4, "num_classes": 3, "image_size": 8, "architectures": dict.fromkeys(MECHANISMS, SMALL)}
    torch.manual_seed(0)
    return StudentCGN(**(options | changes)).eval()


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- sizes ---------------------------------------------------------------------------------------


def test_compact_students_of_mnist_are_ten_times_smaller_than_the_teacher():
    sizes = {mechanism: count(make_student(mechanism, COMPACT, GeneratorSize(32, 10, 32))) for mechanism in MECHANISMS}
    assert max(sizes.values()) <= 22_000
    assert sum(sizes.values()) <= 66_000


def test_the_tinygan_of_the_paper_has_its_number_of_parameters():
    generator = TinyGenerator(3, GeneratorSize(128, 1000, 256), 32, 128)
    assert len(generator.blocks) == 5
    assert count(generator) == pytest.approx(6_240_000, rel=0.005)


def test_tinygan_widths_stay_for_the_first_block_and_then_halve():
    generator = TinyGenerator(3, GeneratorSize(8, 10, 256), 4, 4)
    widths = [(block.shortcut.in_channels, block.shortcut.out_channels) for block in generator.blocks]
    assert widths == [(64, 64), (64, 32), (32, 16), (16, 8), (8, 4)]
    assert generator.start == 8


# --- interface -----------------------------------------------------------------------------------


def test_a_mask_of_learnt_patterns_leaves_room_for_the_other_two():
    mask = make_student("shape", BASIS, GeneratorSize(32, 10, 32))
    flat = make_student(
        "texture", {"architecture": "compact", "width": [4, 8, 8], "embedding_dim": 10}, GeneratorSize(32, 10, 32)
    )
    assert count(mask) + 2 * count(flat) <= 66_000


def test_a_bottleneck_saves_what_the_first_layer_holds():
    size, small = GeneratorSize(32, 10, 32), COMPACT | {"bottleneck": 12}
    inputs, outputs = 32 + COMPACT["embedding_dim"], 16 * 16
    saved = count(make_student("background", COMPACT, size)) - count(make_student("background", small, size))
    assert saved == inputs * outputs - 12 * (inputs + outputs)


@pytest.mark.parametrize("architecture", [COMPACT, BASIS, TINYGAN], ids=["compact", "basis", "tinygan"])
@pytest.mark.parametrize("mechanism", [*MECHANISMS, COMPOSITE])
@pytest.mark.parametrize("image_size", [8, 32])
def test_a_student_gives_images_in_the_range_of_its_mechanism(architecture, mechanism, image_size):
    student = make_student(mechanism, architecture, GeneratorSize(4, 3, image_size)).eval()
    images = student(10 * torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
    assert images.shape == (5, channels_of(mechanism), image_size, image_size)
    assert images.min() >= (0 if mechanism == "shape" else -1)
    assert images.min() < 0 or mechanism == "shape"
    assert images.max() <= 1


@pytest.mark.parametrize(
    "architecture",
    [SMALL, SMALL_BASIS, TINYGAN, CODED, CODED_BASIS],
    ids=["compact", "basis", "tinygan", "coded compact", "coded basis"],
)
@pytest.mark.parametrize("mechanism", ["shape", "texture"])
def test_gradients_reach_every_parameter_of_a_student(architecture, mechanism):
    torch.manual_seed(0)
    student = make_student(mechanism, architecture, GeneratorSize(4, 3, 16)).train()
    for module in student.modules():
        if isinstance(module, ConditionalNorm):
            torch.nn.init.normal_(module.affine.weight, std=0.1)
    images = student(torch.randn(9, 4), torch.arange(9) % 3)
    (images * torch.randn_like(images)).sum().backward()
    unreached = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Before a batch-norm a bias cannot matter: the norm takes it away again.
    assert [name for name in unreached if not name.endswith("bias")] == []
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_students_render_all_mechanisms_without_gradients():
    students = make_students()
    images = students.render(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
    assert images.mask.shape == (5, 1, 8, 8)
    assert images.foreground.shape == images.background.shape == (5, 3, 8, 8)
    assert not images.mask.requires_grad
    assert students(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])).mask.requires_grad


def test_a_counterfactual_label_reaches_its_own_student_alone():
    students = make_students()
    noise, label = torch.randn(3, 4), torch.tensor([0, 1, 2])
    factual = students.render(noise, label)
    for mechanism in MECHANISMS:
        other = students.render(noise, dict.fromkeys(MECHANISMS, label) | {mechanism: (label + 1) % 3})
        assert [m for m in MECHANISMS if not torch.equal(factual.of(m), other.of(m))] == [mechanism]


def test_one_student_alone_is_the_same_as_all_together():
    students = make_students()
    noise, label = torch.randn(3, 4), torch.tensor([0, 1, 2])
    for mechanism in MECHANISMS:
        together = students.render(noise, label).of(mechanism)
        assert torch.equal(students.render_mechanism(mechanism, noise, label), together)


@pytest.mark.parametrize("shape", [(3, 5), (3,), (3, 4, 1)])
def test_noise_of_another_size_is_refused(shape):
    with pytest.raises(SettingError, match=r"noise: expected shape \[N, 4\]"):
        make_students().render(torch.zeros(shape), torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("labels", [[0, 1, 3], [-1, 0, 1]])
def test_unknown_classes_are_refused(labels):
    with pytest.raises(SettingError, match="labels of shape: expected classes 0 to 2"):
        make_students().render(torch.zeros(3, 4), torch.tensor(labels))


def test_another_number_of_labels_than_noise_is_refused():
    with pytest.raises(SettingError, match=r"labels of shape: expected shape \[3\], got \[2\]"):
        make_students().render(torch.zeros(3, 4), torch.tensor([0, 1]))


@pytest.mark.parametrize("attribute", ["noise_dim", "num_classes", "image_size"])
def test_students_of_another_interface_than_the_teacher_are_refused(tiny_teacher, attribute):
    assert check_same_interface(tiny_teacher, make_students()) is None
    students = make_students(**{attribute: 16})
    with pytest.raises(SettingError, match=f"'{attribute}': 16"):
        check_same_interface(tiny_teacher, students)


def test_an_unknown_architecture_is_refused_with_the_nearest_name():
    with pytest.raises(SettingError, match="Did you mean 'tinygan'"):
        make_student("shape", TINYGAN | {"architecture": "tinygun"}, GeneratorSize(4, 3, 8))
    with pytest.raises(SettingError, match="Did you mean 'background'"):
        make_student("backgroun", TINYGAN, GeneratorSize(4, 3, 8))


@pytest.mark.parametrize(("architecture", "image_size"), [(SMALL, 20), (SMALL_BASIS, 6), (TINYGAN, 24), (TINYGAN, 4)])
def test_a_size_that_an_architecture_cannot_make_is_refused(architecture, image_size):
    with pytest.raises(SettingError, match="image_size: expected"):
        make_student("shape", architecture, GeneratorSize(4, 3, image_size))


# --- conditional norm ----------------------------------------------------------------------------


def trained_norm(embedding_dim: int | None) -> tuple[ConditionalNorm, torch.Tensor]:
    torch.manual_seed(0)
    norm = ConditionalNorm(5, 3, embedding_dim)
    torch.nn.init.normal_(norm.affine.weight, std=0.3)
    norm.norm.running_mean.normal_()
    norm.norm.running_var.uniform_(0.5, 2)
    condition = torch.randn(4, embedding_dim) if embedding_dim else torch.tensor([0, 2, 1, 0])
    return norm, condition


@pytest.mark.parametrize("embedding_dim", [None, 6])
def test_the_fused_norm_of_evaluation_equals_the_unfused_one(embedding_dim):
    norm, condition = trained_norm(embedding_dim)
    images = torch.randn(4, 5, 6, 6)
    scale, shift = norm.affine(condition)[:, :, None, None].chunk(2, 1)
    norm.eval()
    torch.testing.assert_close(norm(images, condition), norm.norm(images) * (1 + scale) + shift)


@pytest.mark.parametrize("embedding_dim", [None, 6])
def test_the_norm_of_training_uses_the_statistics_of_the_batch(embedding_dim):
    norm, condition = trained_norm(embedding_dim)
    images = 3 + 2 * torch.randn(4, 5, 6, 6)
    scale, shift = norm.affine(condition)[:, :, None, None].chunk(2, 1)
    mean = images.mean((0, 2, 3), keepdim=True)
    variance = images.var((0, 2, 3), unbiased=False, keepdim=True)
    expected = (images - mean) / (variance + norm.norm.eps).sqrt() * (1 + scale) + shift
    torch.testing.assert_close(norm.train()(images, condition), expected)


def test_a_new_norm_treats_all_classes_alike():
    norm = ConditionalNorm(5, 3).eval()
    images = torch.randn(1, 5, 4, 4).expand(3, -1, -1, -1)
    normed = norm(images, torch.tensor([0, 1, 2]))
    assert torch.equal(normed[0], normed[1])
    assert torch.equal(normed[1], normed[2])


@pytest.mark.parametrize("architecture", [SMALL, SMALL_BASIS], ids=["compact", "basis"])
def test_what_frozen_students_keep_follows_their_weights(architecture):
    torch.manual_seed(0)
    student = make_student("texture", architecture, GeneratorSize(4, 3, 16)).eval().requires_grad_(False)
    trainable = copy.deepcopy(student).requires_grad_()
    noise, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    for _ in range(2):
        with torch.inference_mode():
            first, second = student(noise, labels), student(noise, labels)
        assert torch.equal(first, second)
        torch.testing.assert_close(second, trainable(noise, labels).detach())
        state = {
            name: torch.randn_like(t).abs() if t.is_floating_point() else t for name, t in student.state_dict().items()
        }
        student.load_state_dict(state)
        trainable.load_state_dict(state)
    assert torch.equal(copy.deepcopy(student)(noise, labels), student(noise, labels))


# --- samples -------------------------------------------------------------------------------------


def test_students_sample_composites_with_their_labels():
    students = make_students()
    images, labels = students.sample(5, seed=3, shape=2, texture=[0, 1, 2, 0, 1])
    assert images.shape == (5, 3, 8, 8)
    assert images.abs().max() <= 1
    assert labels.shape.tolist() == [2] * 5
    assert labels.texture.tolist() == [0, 1, 2, 0, 1]
    again, own = students.sample(5, seed=3, shape=2, texture=[0, 1, 2, 0, 1])
    assert torch.equal(again, images)
    assert torch.equal(own.background, labels.background)
    assert not torch.equal(students.sample(5, seed=4, shape=2)[0], images)


def test_released_students_sample_without_gradients():
    images, labels = StudentCGN.from_released("digits").sample(4, seed=0)
    assert images.shape == (4, 3, 32, 32)
    assert torch.isfinite(images).all()
    assert not images.requires_grad
    assert labels.background.shape == (4,)


# Of the images of `test_released_students_render_what_they_did`: the beginning of their SHA-256, mean and deviation.
RENDERED = {
    "colored_mnist": {
        "shape": ("41d1ffa8d4069d77", 0.1195486, 0.3056614),
        "texture": ("a2211c3f4d701aaf", 0.0476782, 0.6777903),
        "background": ("e426ac061519e2ba", -1.0000000, 0.0000000),
    },
    "digits": {
        "shape": ("c8b8f851b6701651", 0.3494085, 0.4442259),
        "texture": ("4f66004706076c45", -0.0420968, 0.7814060),
        "background": ("012e7e6d894c29d1", -0.0234815, 0.7760631),
    },
    "double_colored_mnist": {
        "shape": ("7ded8ace0d97c566", 0.1613307, 0.3497667),
        "texture": ("b742cfea616d338e", -0.0461160, 0.8475514),
        "background": ("c11c9708889081b8", -0.0381956, 0.8298149),
    },
    "wildlife_mnist": {
        "shape": ("c5ae193aa344d3b7", 0.1670248, 0.3579810),
        "texture": ("cde70d2fe5ea2561", -0.0889637, 0.6221213),
        "background": ("332e9c6264fdab68", -0.2507988, 0.4814033),
    },
    "wildlife_mnist_small": {
        "shape": ("b2bce7d3e18f74bc", 0.1658492, 0.3529719),
        "texture": ("cb07635b92e3dff6", -0.0878177, 0.6210440),
        "background": ("b821d2878906f55a", -0.2531526, 0.4765172),
    },
}
# Others round differently.
RENDERED_BY = ("2.15.0+cu132", "AVX2")


@pytest.mark.parametrize("name", RENDERED)
def test_released_students_render_what_they_did(name):
    assert sorted(RENDERED) == released_students()
    students = StudentCGN.from_released(name)
    noise = torch.randn(20, students.noise_dim, generator=torch.Generator().manual_seed(0))
    rendered = students.render(noise, torch.arange(20) % 10)
    same_rounding = (torch.__version__, torch.backends.cpu.get_cpu_capability()) == RENDERED_BY
    for mechanism, (digest, *moments) in RENDERED[name].items():
        images = rendered.of(mechanism).contiguous()
        assert [images.double().mean().item(), images.double().std().item()] == pytest.approx(moments, abs=2e-6)
        if same_rounding:
            assert hashlib.sha256(images.numpy().tobytes()).hexdigest().startswith(digest)


# --- saving and loading --------------------------------------------------------------------------


def test_loaded_students_render_the_same_images(tmp_path):
    students = make_students(architectures={"shape": SMALL_BASIS, "texture": TINYGAN, "background": SMALL})
    students.save_pretrained(tmp_path / "students")
    loaded = StudentCGN.from_pretrained(tmp_path / "students")
    noise, label = torch.randn(4, 4), torch.tensor([0, 1, 2, 0])
    for mechanism in MECHANISMS:
        # Another layout in memory: the same values but for rounding.
        torch.testing.assert_close(
            loaded.render(noise, label).of(mechanism), students.render(noise, label).of(mechanism)
        )
    written = sorted(path.name for path in (tmp_path / "students").iterdir())
    assert written == ["README.md", "config.json", "model.safetensors"]


def test_loaded_students_are_frozen_and_in_eval_mode(tmp_path):
    make_students().train().save_pretrained(tmp_path)
    loaded = StudentCGN.from_pretrained(str(tmp_path))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"null", b"{}"])
def test_missing_or_damaged_files_of_students_are_refused(tmp_path, name, content):
    make_students().save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingError, match="students: expected pretrained students in"):
        StudentCGN.from_pretrained(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("num_classes", 4), ("noise_dim", 5), ("image_size", 16)])
def test_weights_of_another_interface_than_the_config_are_refused(tmp_path, key, value):
    make_students().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(SettingError, match="students: expected pretrained students in"):
        StudentCGN.from_pretrained(tmp_path)


def fused_and_plain(students: StudentCGN, num_images: int):
    noise = torch.randn(num_images, students.noise_dim, generator=torch.manual_seed(0))
    labels = torch.arange(num_images) % students.num_classes
    fused = students.fused()
    return fused, vars(fused.render(noise, labels)), vars(students.render(noise, labels))


@pytest.mark.parametrize("name", released_students())
def test_fused_students_render_the_same_images_up_to_rounding(name):
    students = StudentCGN.from_released(name)
    fused, images, plain = fused_and_plain(students, 50)
    assert (fused.runtime, students.runtime) == ("kernels", "torch")
    torch.testing.assert_close(images, plain, atol=1e-3, rtol=0)
    assert [*fused.state_dict()] == [*students.state_dict()]


def with_random_norms(students: StudentCGN) -> StudentCGN:
    for module in students.modules():
        if isinstance(module, ConditionalNorm):
            torch.nn.init.normal_(module.affine.weight, 0, 0.3)
            if isinstance(module.norm, torch.nn.BatchNorm2d):
                module.norm.running_mean.normal_(0, 0.3)
                module.norm.running_var.uniform_(0.5, 2)
    return students


@pytest.mark.parametrize(
    ("architecture", "image_size", "runtime"),
    [
        (SMALL, 8, "kernels"),
        (SMALL, 24, "kernels"),
        (SMALL_BASIS, 8, "kernels"),
        (SMALL_BASIS, 12, "kernels"),
        (CODED, 8, "kernels"),
        (CODED_BASIS, 8, "kernels"),
        (COMPACT, 32, "kernels"),
        (BASIS, 32, "kernels"),
        (TINYGAN, 8, "torch"),
    ],
)
@pytest.mark.parametrize("num_images", [0, 1, 33])
def test_any_architecture_renders_the_same_by_the_fastest_runtime(architecture, image_size, runtime, num_images):
    options = {"architectures": dict.fromkeys(MECHANISMS, architecture), "image_size": image_size}
    fused, images, plain = fused_and_plain(with_random_norms(make_students(**options)), num_images)
    assert fused.runtime == runtime
    torch.testing.assert_close(images, plain, atol=1e-3, rtol=0)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_fused_images_depend_neither_on_their_batch_nor_on_the_threads(num_threads):
    fused = with_random_norms(make_students(image_size=16)).fused()
    noise, labels = torch.randn(70, 4), torch.arange(70) % 3
    with computing_on(num_threads):
        together = fused.render(noise, labels)
    single = fused.render(noise[40:41], labels[40:41])
    torch.testing.assert_close(vars(together[40:41]), vars(single), atol=1e-5, rtol=0)


def test_fused_students_follow_their_weights_and_leave_gradients_and_mixtures_to_the_network():
    students = make_students()
    fused, images, _ = fused_and_plain(students, 4)
    noise = torch.randn(4, 4, requires_grad=True)
    assert fused(noise, torch.arange(4) % 3).mask.sum().backward() is None
    assert noise.grad.abs().sum() > 0
    halves = dict.fromkeys(MECHANISMS, torch.tensor([[0.5, 0.5, 0.0]] * 4))
    mixtures = [vars(own.render_mixtures(noise.detach(), halves)) for own in (fused, students)]
    torch.testing.assert_close(*mixtures, atol=1e-3, rtol=0)
    state = {
        name: tensor + 0.5 if tensor.is_floating_point() else tensor for name, tensor in students.state_dict().items()
    }
    fused.load_state_dict(state)
    students.load_state_dict(state)
    labels = torch.arange(4) % 3
    changed = vars(fused.render(noise.detach(), labels))
    torch.testing.assert_close(changed, vars(students.render(noise.detach(), labels)), atol=1e-3, rtol=0)
    assert not torch.equal(changed["mask"], images["mask"])


def test_fused_students_are_pickled_for_workers():
    fused = make_students().fused()
    again = pickle.loads(pickle.dumps(fused))
    noise, labels = torch.randn(3, 4), torch.arange(3)
    assert again.runtime == "kernels"
    torch.testing.assert_close(vars(again.render(noise, labels)), vars(fused.render(noise, labels)), atol=0, rtol=0)


def test_compact_students_run_under_bfloat16_autocast():
    student = CompactGenerator(3, GeneratorSize(4, 3, 16), (4, 6, 4), 4).eval()
    noise, labels = torch.randn(4, 4), torch.tensor([0, 1, 2, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = student(noise, labels)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, student(noise, labels), rtol=0, atol=0.1)
