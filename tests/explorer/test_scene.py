"""What the explorer shows: the same noise for all, ends that are the ends, and what classifiers read."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from skdcgn_pipeline.explorer.scene import Choice, Scene
from skdcgn_pipeline.mechanisms import compose
from skdcgn_pipeline.parameters import Composition
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.vocabulary import COMPOSITE, MECHANISMS
from tiny import TinyTeacher

COMPACT = {"architecture": "compact", "width": [4, 4, 4], "embedding_dim": 3}
CHOICE = Choice(7, 2, 0, 1)


class Says(nn.Module):
    """A classifier that says the same of every image, and remembers what it was shown."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.labels, self.number, self.image_size = ["0", "1", "2"], number, 8
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return torch.eye(3)[[self.number] * len(images)]


def tiny_students() -> StudentCGN:
    torch.manual_seed(0)
    students = StudentCGN(4, 3, 8, dict.fromkeys(MECHANISMS, COMPACT))
    with torch.no_grad():
        for parameter in students.parameters():  # class tables start as zeros, which all classes would share
            parameter.add_(0.3 * torch.randn_like(parameter))
    return students.eval().requires_grad_(False)


@pytest.fixture
def scene() -> Scene:
    return Scene(TinyTeacher(), tiny_students(), {"originals": Says(0), "students": Says(2)})


def test_teacher_and_students_draw_the_same_noise_and_classes(scene):
    views = scene.draw(CHOICE)

    noises, seen = [], []
    for generator in (scene.generators["teacher"], scene.generators["students"]):
        original = generator.render

        def render(noise, labels, original=original):
            noises.append(noise)
            seen.append(labels)
            return original(noise, labels)

        generator.render = render
    again = scene.draw(CHOICE)
    assert torch.equal(noises[0], noises[1])
    assert torch.equal(seen[0], torch.tensor([[2, 0, 1]]))
    for name, view in views.items():
        assert torch.equal(compose(view.images), compose(again[name].images))


def test_a_choice_is_the_sample_of_its_seed(scene):
    expected, _ = tiny_students().sample(1, 7, 2, 0, 1, Composition(patch_shift=False))
    torch.testing.assert_close(compose(scene.draw(CHOICE)["students"].images), expected, rtol=0, atol=1e-4)


def test_each_mechanism_follows_its_own_class(scene):
    before, after = scene.draw(CHOICE), scene.draw(Choice(7, 2, 1, 1))
    for name in before:
        assert torch.equal(before[name].images.mask, after[name].images.mask)
        assert torch.equal(before[name].images.background, after[name].images.background)
        assert not torch.equal(before[name].images.foreground, after[name].images.foreground)


def test_other_noise_is_another_image(scene):
    before, after = scene.draw(CHOICE), scene.draw(Choice(8, 2, 0, 1))
    assert not any(torch.equal(compose(before[name].images), compose(after[name].images)) for name in before)


def test_the_ends_of_an_interpolation_are_the_choices(scene):
    last = Choice(9, 0, 1, 1)
    steps = scene.interpolate(CHOICE, last, 5)

    for name, own in steps.items():
        assert len(own) == 5
        for view, choice in ((own[0], CHOICE), (own[-1], last)):
            expected = compose(scene.draw(choice)[name].images)
            torch.testing.assert_close(compose(view.images), expected, rtol=0, atol=1e-5)


def test_students_mix_classes_and_a_teacher_of_numbers_changes_them_half_way(scene):
    assert (scene.mixes_classes("teacher"), scene.mixes_classes("students")) == (False, True)
    steps = scene.interpolate(Choice(7, 0, 0, 0), Choice(7, 2, 0, 0), 5)

    # The same noise at both ends turns nevertheless; only the teacher's masks are of whole classes.
    areas = [float(view.images.mask.mean()) for view in steps["teacher"]]
    assert max(areas[:2]) < 0.7 * min(areas[2:])
    masks = [view.images.mask for view in steps["students"]]
    assert all(not torch.equal(one, other) for one, other in pairwise(masks))


def test_a_verdict_names_the_mechanisms_of_the_class_that_is_said(scene):
    opinions = scene.draw(CHOICE)["students"].opinions

    assert (opinions["students"].says, opinions["students"].verdict) == ("2", "reads the shape")
    assert (opinions["originals"].says, opinions["originals"].verdict) == ("0", "reads the texture")
    assert opinions["originals"].probabilities == {"0": 1.0, "1": 0.0, "2": 0.0}
    both = scene.draw(Choice(0, 1, 2, 2))["teacher"].opinions
    assert both["students"].verdict == "reads the texture or the background"
    assert both["originals"].verdict == "reads none of the three"
    between = scene.interpolate(Choice(0, 1, 1, 1), Choice(0, 1, 1, 2), 3)["teacher"]
    assert [view.opinions["students"].reads for view in between] == [("background",)] * 3


def test_classifiers_see_composites_in_their_own_range(scene):
    views = scene.draw(CHOICE)
    for seen, view in zip(scene.classifiers["originals"].seen, views.values(), strict=True):
        torch.testing.assert_close(seen, (compose(view.images) + 1) / 2)


def test_every_mechanism_and_the_whole_are_timed_at_every_batch_size(scene):
    rows = scene.measure(batch_sizes=(1, 3), seconds=0.001)

    assert [(row.batch_size, row.what) for row in rows] == [
        (n, what) for n in (1, 3) for what in (*MECHANISMS, COMPOSITE)
    ]
    for row in rows:
        assert row.milliseconds["students"] > 0
        # The tiny teacher cannot render one mechanism alone.
        assert (row.milliseconds["teacher"] is None) == (row.what != COMPOSITE) == (row.ratio is None)
    whole = rows[3]
    assert whole.ratio == pytest.approx(whole.milliseconds["teacher"] / whole.milliseconds["students"])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(-1, 0, 0, 0), r"noise: expected a whole number from 0 on, got -1\."),
        (Choice(None, 0, 0, 0), "noise: .* got nothing"),
        (Choice(0.5, 0, 0, 0), "noise: .* got 0.5"),
        (Choice(0, 0, 3, 0), "class of the texture: expected one of 0, 1, 2, got 3"),
        (Choice(0, None, 0, 0), "class of the shape: .* got nothing"),
    ],
)
def test_an_impossible_choice_is_refused(scene, choice, message):
    with pytest.raises(SettingError, match=message):
        scene.draw(choice)
    with pytest.raises(SettingError, match=message):
        scene.interpolate(CHOICE, choice, 3)


def test_classes_are_called_as_the_classifiers_call_them():
    classifier = Says(2)
    classifier.labels = ["cat", "dog", "owl"]
    scene = Scene(TinyTeacher(), tiny_students(), {"students": classifier}, classes=[0, 2])
    assert scene.classes == {0: "cat", 2: "owl"}
    assert scene.draw(Choice(0, 2, 0, 0))["teacher"].opinions["students"].verdict == "reads the shape"


def test_only_classes_that_students_learnt_are_offered():
    scene = Scene(TinyTeacher(), tiny_students(), {}, classes=[0, 2])
    assert scene.classes == {0: "0", 2: "2"}
    with pytest.raises(SettingError, match="expected one of 0, 2, got 1"):
        scene.draw(Choice(0, 0, 1, 0))


def test_students_of_another_teacher_are_refused():
    with pytest.raises(SettingError, match="Distil students from this teacher"):
        Scene(TinyTeacher(), StudentCGN(4, 5, 8, dict.fromkeys(MECHANISMS, COMPACT)), {})
