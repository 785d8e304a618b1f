"""Every method against what is known of it: a closed form, a toy with a known answer, or a limit in which it is ERM."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.classifiers import training as module
from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.classifiers.methods.colour_jitter import YIQ, ColourJitter, jitter_matrices
from skdcgn_pipeline.classifiers.methods.contract import Material, Method, share_of
from skdcgn_pipeline.classifiers.methods.counterfactuals import (
    MixedCounterfactuals,
    StudentsCounterfactuals,
    TeacherCounterfactuals,
)
from skdcgn_pipeline.classifiers.methods.dfr import DFR
from skdcgn_pipeline.classifiers.methods.erm import ERM, Unbiased
from skdcgn_pipeline.classifiers.methods.group_dro import GroupDRO, _WorstGroups
from skdcgn_pipeline.classifiers.methods.irm import IRM, _Penalised, environments_of, scale_gradient
from skdcgn_pipeline.classifiers.methods.jtt import JTT, upweighted_rows
from skdcgn_pipeline.classifiers.methods.lff import LfF, _Failures, generalised_cross_entropy
from skdcgn_pipeline.classifiers.methods.mixup import CutMix, Mixup, draw_rectangle, mix_labels, soft_loss
from skdcgn_pipeline.classifiers.methods.pairs import CounterfactualPairs, difference_of_pairs
from skdcgn_pipeline.classifiers.methods.registry import METHODS, methods_of
from skdcgn_pipeline.classifiers.methods.reweighting import Reweighting
from skdcgn_pipeline.classifiers.training import ClassifierRecipe, ClassifierTask, Lesson, initial_classifier
from skdcgn_pipeline.counterfactuals.composing import CounterfactualPool
from skdcgn_pipeline.images.batches import draw_balanced
from skdcgn_pipeline.images.image_set import ImagesInMemory, Split
from skdcgn_pipeline.mechanisms import MechanismImages
from skdcgn_pipeline.parameters import ClassifierFit, ClassifierNetwork, Composition, Compute
from skdcgn_pipeline.runtime.errors import SettingError
from trained import assert_continues_to_the_same_bytes

CPU = Compute(device="cpu")
NUM_IMAGES, NUM_CLASSES, BATCH = 120, 3, 16
FIT = ClassifierFit(num_images=8 * BATCH, batch_size=BATCH, learning_rate=1e-3)


def make_split(name: str, conflicting: float, seed: int = 0) -> Split:
    """Return images whose brightness follows their class in all but a share of them, and their groups."""
    generator = np.random.default_rng(seed)
    labels = torch.arange(NUM_IMAGES) % NUM_CLASSES
    conflict = torch.from_numpy(generator.random(NUM_IMAGES) < conflicting)
    shown = torch.where(conflict, (labels + 1) % NUM_CLASSES, labels)
    noise = torch.from_numpy(generator.integers(0, 20, (NUM_IMAGES, 3, 32, 32)))
    images = (shown.view(-1, 1, 1, 1) * 100 + noise).to(torch.uint8)
    groups = 2 * labels + conflict
    return Split(name, "train", ImagesInMemory(images), labels, {"group": groups})


def make_pool(seed: int) -> CounterfactualPool:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((12, 1, 32, 32), (12, 3, 32, 32), (12, 3, 32, 32))
    images = MechanismImages(*(torch.randint(0, 256, s, generator=generator).to(torch.uint8) for s in shapes))
    return CounterfactualPool(images, torch.arange(12) % NUM_CLASSES, NUM_CLASSES)


def make_material(conflicting: float = 0.2, **changes: Any) -> Material:
    split, unbiased = make_split("train", conflicting), make_split("randomised", 2 / 3, seed=1)
    teacher, students = make_pool(0), make_pool(1)
    options: dict[str, Any] = {
        "originals": lambda: split,
        "unbiased": lambda: unbiased,
        "pools": {"teacher": lambda: teacher, "students": lambda: students},
        "composition": Composition(),
        "untrained": lambda seed: initial_classifier(ClassifierNetwork(), NUM_CLASSES, seed),
        "trained": lambda fit: initial_classifier(ClassifierNetwork(), NUM_CLASSES, 5).eval(),
        "fit": FIT,
        "compute": CPU,
        "seed": 0,
        "num_classes": NUM_CLASSES,
    }
    return Material(**options | changes)


def loss_of(lesson: Lesson, logits: Tensor, labels: Tensor) -> Tensor:
    return lesson.losses(logits, labels)["loss"]


def assert_same_lesson(lesson: Lesson, other: Lesson) -> None:
    """Check that two lessons draw the same images and have the same loss and gradient."""
    for step in range(3):
        (images, labels), (expected, expected_labels) = (each.draw_batch(step, BATCH) for each in (lesson, other))
        assert torch.equal(images, expected)
        logits = torch.randn(BATCH, NUM_CLASSES, generator=torch.Generator().manual_seed(step)).requires_grad_()
        losses = [loss_of(lesson, logits, labels), loss_of(other, logits, expected_labels)]
        gradients = [torch.autograd.grad(loss, logits)[0] for loss in losses]
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*gradients)


def trained_by(method: Method, material: Material, **changes: Any) -> DigitClassifier:
    """Train a network by a method, as the recipe does."""
    fit = method.budget(material.fit.model_copy(update=changes))
    network: Any = initial_classifier(ClassifierNetwork(), NUM_CLASSES, material.seed)
    task = ClassifierTask(network, [method.lesson(replace(material, fit=fit))], fit, material.seed, CPU)
    for step in range(fit.num_steps):
        task.update(step, task.batch(step), noted=False)
    return network


# --- what all have in common ---------------------------------------------------------------------


def test_methods_have_their_own_names_and_say_whose_they_are():
    assert [method.name for method in METHODS.values()] == list(METHODS)
    assert len({method.title for method in METHODS.values()}) == len(METHODS) == 15
    assert all(method.__doc__ and method.paper for method in METHODS.values())
    assert methods_of(["all"]) == [*METHODS.values()]
    assert methods_of(["jtt", "erm", "jtt"]) == [ERM, JTT]
    starred = {name for name, method in METHODS.items() if method.needs_groups}
    assert starred == {"irm", "group_dro", "dfr", "reweighting"}


def test_unknown_methods_and_hyperparameters_are_refused():
    with pytest.raises(SettingError, match=r"ablation\.alternatives\.methods: expected one of .*, got 'groupdro'"):
        methods_of(["erm", "groupdro"])
    with pytest.raises(SettingError, match=r"hyperparameters\.group_dro: expected step_size, got 'eta'"):
        GroupDRO.candidates([{"eta": 1.0}])
    with pytest.raises(SettingError, match=r"hyperparameters\.erm: expected no hyperparameter at all, got 'eta'"):
        ERM.candidates([{"eta": 1.0}])


@pytest.mark.parametrize("method", METHODS.values(), ids=[*METHODS])
def test_candidates_are_those_of_the_grid_and_each_has_an_identity(method):
    candidates = method.candidates()
    identities = [candidate.identity() for candidate in candidates]
    assert len(candidates) == len(method.grid)
    assert all(identities.count(each) == 1 for each in identities)
    assert all(each["name"] == method.name for each in identities)


@pytest.mark.parametrize("method", METHODS.values(), ids=[*METHODS])
def test_a_step_draws_the_same_whatever_was_drawn_before(method):
    lesson, again = (method().lesson(make_material()) for _ in range(2))
    lesson.draw_batch(0, BATCH)
    images, labels = lesson.draw_batch(3, BATCH)
    expected, expected_labels = again.draw_batch(3, BATCH)
    assert torch.equal(images, expected)
    assert torch.equal(labels, expected_labels)
    assert images.shape == (BATCH, 3, 32, 32)
    assert images.abs().max() <= 1
    assert not torch.equal(images, lesson.draw_batch(4, BATCH)[0])


@pytest.mark.parametrize("method", METHODS.values(), ids=[*METHODS])
def test_a_method_looks_at_nothing_but_what_it_says(method):
    def refuse(*_: Any) -> Any:
        raise AssertionError("looked at")

    material = make_material()
    hidden: dict[str, Any] = {name: refuse for name in ("originals", "unbiased") if name not in method.uses}
    pools = {name: pool if name in method.uses else refuse for name, pool in material.pools.items()}
    method().lesson(replace(material, pools=pools, **hidden)).draw_batch(0, BATCH)
    if not method.needs_groups and "originals" in method.uses:
        without = replace(material.originals(), attributes={})
        method().lesson(replace(material, originals=lambda: without)).draw_batch(0, BATCH)


@pytest.mark.parametrize("method", METHODS.values(), ids=[*METHODS])
def test_a_killed_training_continues_to_the_same_bytes(method, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOG_EVERY_STEPS", 1)
    fit = FIT.model_copy(update={"num_images": 12 * BATCH, "checkpoint_every_steps": 100})

    def build(folder: Any) -> Any:
        chosen = method()
        material = make_material(fit=fit)
        options = ({"method": chosen.identity()}, lambda: [chosen.lesson(material)], chosen.budget(fit), 0, CPU)
        return build_in(folder, ClassifierRecipe(*options, NUM_CLASSES))

    assert_continues_to_the_same_bytes(build, tmp_path)


def test_methods_that_train_twice_share_the_budget():
    fit = ClassifierFit(num_images=1000, batch_size=10)
    assert JTT(first=0.2).budget(fit).num_images == 800
    assert DFR(first=0.7).budget(fit).num_images == 300
    assert share_of(fit, 1e-9).num_images == 10
    asked: list[int] = []

    def trained(first: ClassifierFit) -> nn.Module:
        asked.append(first.num_images)
        return initial_classifier(ClassifierNetwork(), NUM_CLASSES, 5).eval()

    material = make_material(fit=fit, trained=trained)
    JTT(first=0.2).lesson(material)
    DFR(first=0.7).lesson(material).attach(initial_classifier(ClassifierNetwork(), NUM_CLASSES, 0))
    assert asked == [200, 700]


# --- originals as they are, in other colours, mixed ----------------------------------------------


def test_erm_and_the_ceiling_differ_by_their_images_alone():
    material = make_material()
    as_originals = replace(material, originals=material.unbiased)
    assert_same_lesson(Unbiased().lesson(material), ERM().lesson(as_originals))


def test_jitter_of_no_strength_is_erm():
    drawn, expected = (m.lesson(make_material()).draw_batch(0, BATCH) for m in (ColourJitter(0.0, 0.0), ERM()))
    torch.testing.assert_close(drawn[0], expected[0], atol=1e-5, rtol=0)
    assert torch.equal(drawn[1], expected[1])


def test_grey_images_have_the_luminance_of_the_originals():
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    grey = ColourJitter(0.0, 1.0).jitter(images, torch.Generator().manual_seed(0))
    luminance = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(grey, luminance.expand(-1, 3, -1, -1), atol=2e-3, rtol=0)


def test_half_a_turn_of_the_hue_gives_the_opposite_colour():
    one = torch.ones(1)
    (half,) = jitter_matrices(one, one, 0.5 * one)
    expected = torch.linalg.inv(YIQ) @ torch.diag(torch.tensor([1.0, -1, -1])) @ YIQ
    torch.testing.assert_close(half, expected, atol=1e-5, rtol=0)
    third = jitter_matrices(one, one, one / 3)[0]
    torch.testing.assert_close(torch.linalg.matrix_power(third, 3), torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(jitter_matrices(2 * one, one, 0 * one)[0], 2 * torch.eye(3), atol=1e-5, rtol=0)


def test_jitter_changes_four_in_five_and_makes_as_many_grey_as_asked():
    images = torch.rand(2000, 3, 1, 1, generator=torch.Generator().manual_seed(0)) * 0.4 - 0.2
    jittered = ColourJitter(0.3, 0.3).jitter(images, torch.Generator().manual_seed(1))
    grey = (jittered.amax((1, 2, 3)) - jittered.amin((1, 2, 3))) < 1e-3
    same = (jittered - images).abs().amax((1, 2, 3)) < 1e-4
    assert grey.float().mean() == pytest.approx(0.3, abs=0.04)
    assert same.float().mean() == pytest.approx(0.2 * 0.7, abs=0.04)


def test_mixup_of_alpha_zero_is_erm():
    assert_same_lesson(Mixup(alpha=0.0).lesson(make_material()), ERM().lesson(make_material()))


def test_mixup_has_the_loss_of_both_classes():
    logits = torch.randn(4, NUM_CLASSES, generator=torch.Generator().manual_seed(0))
    labels, partners = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 0, 3, 2])
    mixed = soft_loss(logits, mix_labels(labels, partners, 0.7, NUM_CLASSES))["loss"]
    expected = 0.7 * F.cross_entropy(logits, labels) + 0.3 * F.cross_entropy(logits, labels[partners])
    torch.testing.assert_close(mixed, expected)


def test_mixup_mixes_images_as_it_mixes_labels():
    material = make_material()
    images, targets = Mixup(alpha=1.0).lesson(material).draw_batch(0, BATCH)
    originals, labels = ERM().lesson(material).draw_batch(0, BATCH)
    kept = float(targets.gather(1, labels[:, None]).min())  # where the partner is of another class
    assert 0.5 <= kept < 1
    partners = ((images - kept * originals) / (1 - kept))[:, :, None] - originals.transpose(0, 1)[None]
    assert partners.abs().amax((1, 3, 4)).amin(1).max() < 1e-3  # what is left is an image of the batch
    torch.testing.assert_close(targets.sum(1), torch.ones(BATCH))


def test_cutmix_that_never_happens_is_erm():
    assert_same_lesson(CutMix(probability=0.0).lesson(make_material()), ERM().lesson(make_material()))


def test_cutmix_labels_are_shares_of_pixels():
    split = make_split("train", 0.0)
    plain = replace(split, rows=ImagesInMemory(torch.ones(NUM_IMAGES, 3, 32, 32) * split.labels.view(-1, 1, 1, 1)))
    flat = replace(plain, rows=ImagesInMemory((plain.images * 100).to(torch.uint8)))
    images, targets = CutMix(probability=1.0).lesson(make_material(originals=lambda: flat)).draw_batch(1, BATCH)
    values = torch.tensor([0, 100, 200]) / 127.5 - 1
    shares = torch.stack([(images[:, 0] - value).abs().lt(1e-2).float().mean((1, 2)) for value in values], 1)
    assert ((shares > 0).sum(1) == 2).any()
    torch.testing.assert_close(targets, shares)


def test_a_rectangle_covers_what_is_not_kept():
    generator = np.random.default_rng(0)
    rows, columns = zip(*(draw_rectangle(64, 64, 0.75, generator) for _ in range(200)), strict=True)
    heights = [each.stop - each.start for each in (*rows, *columns)]
    assert max(heights) == 32  # half of either side, where the border does not cut it off
    assert all(each.start >= 0 and each.stop <= 64 for each in (*rows, *columns))


# --- environments and groups ---------------------------------------------------------------------


def test_the_scales_gradient_is_that_of_autograd():
    logits = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30) % 5
    scale = torch.ones((), requires_grad=True)
    (expected,) = torch.autograd.grad(F.cross_entropy(scale * logits, labels), scale)
    torch.testing.assert_close(scale_gradient(logits, labels), expected)


def test_environments_have_one_and_two_thirds_of_the_conflicts_as_in_the_paper():
    conflicting = torch.zeros(1000, dtype=torch.bool)
    conflicting[torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:300]] = True
    environments = environments_of(conflicting)
    assert torch.bincount(environments[conflicting]).tolist() == [100, 200]
    assert torch.bincount(environments[~conflicting]).tolist() == [350, 350]


@pytest.mark.parametrize("warm_up", [0.0, 1.0])
def test_irm_without_a_penalty_is_erm(warm_up):
    assert_same_lesson(IRM(0.0, warm_up).lesson(make_material()), ERM().lesson(make_material()))


def test_irms_penalty_comes_after_the_warm_up_and_is_divided_out():
    logits = torch.randn(8, NUM_CLASSES, generator=torch.Generator().manual_seed(0))
    labels = torch.stack([torch.arange(8) % NUM_CLASSES, torch.arange(8) % 2], 1)
    loss = _Penalised(penalty=50.0, num_warm_up=1)
    early, late = (loss(logits, labels)["loss"] for _ in range(2))
    risk = F.cross_entropy(logits, labels[:, 0])
    penalty = torch.zeros(())
    for environment in range(2):
        rows = (labels[:, 1] == environment).nonzero()[:, 0]
        first, second = (scale_gradient(logits[part], labels[part, 0]) for part in (rows[::2], rows[1::2]))
        penalty += first * second / 2
    torch.testing.assert_close(early, risk + penalty)
    torch.testing.assert_close(late, (risk + 50 * penalty) / 50)


def test_irm_turns_from_the_feature_whose_meaning_changes():
    """Two features predict a class, the spurious one better but otherwise in each environment (IRM, section 4.1)."""
    generator = torch.Generator().manual_seed(0)
    number = 4000
    labels = torch.randint(2, (number,), generator=generator)
    environments = torch.arange(number) % 2
    agrees = torch.where(environments == 0, 0.95, 0.8)
    signs = [
        (torch.rand(number, generator=generator) < share).float() * 2 - 1 for share in (torch.tensor(0.75), agrees)
    ]
    features = torch.stack([sign * (2 * labels - 1) for sign in signs], 1)
    weights = {}
    for penalty in (0.0, 1000.0):
        loss, weight = _Penalised(penalty, 0), torch.full((2,), 0.1, requires_grad=True)
        optimiser = torch.optim.Adam([weight], 0.02)
        for _ in range(600):
            scores = features @ weight
            optimiser.zero_grad()
            loss(torch.stack([-scores, scores], 1), torch.stack([labels, environments], 1))["loss"].backward()
            optimiser.step()
        weights[penalty] = weight.detach().abs()
    assert weights[0.0][1] > weights[0.0][0]  # ERM follows the spurious feature
    assert weights[1000.0][1] < 0.3 * weights[1000.0][0]


def test_group_dro_with_one_group_is_erm():
    logits = torch.randn(BATCH, NUM_CLASSES, generator=torch.Generator().manual_seed(0))
    labels = torch.stack([torch.arange(BATCH) % NUM_CLASSES, torch.zeros(BATCH, dtype=torch.long)], 1)
    loss = _WorstGroups(1, 0.1)
    for _ in range(3):
        torch.testing.assert_close(loss(logits, labels)["loss"], F.cross_entropy(logits, labels[:, 0]))


def test_group_dros_weights_grow_with_the_losses_of_groups():
    logits = torch.tensor([[3.0, 0], [0, 3], [0, 0], [0, 0]])
    labels = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    losses = torch.tensor([math.log(1 + math.exp(-3)), math.log(2), 0.0])  # no image of the third
    loss, weights = _WorstGroups(3, 0.5), torch.full((3,), 1 / 3)
    for _ in range(2):
        weights = weights * (0.5 * losses).exp()
        weights /= weights.sum()
        torch.testing.assert_close(loss(logits, labels)["loss"], (weights * losses).sum())
        torch.testing.assert_close(loss.weights, weights)


def test_group_dros_weights_stay_finite_where_a_loss_is_great():
    loss = _WorstGroups(2, 0.1)
    loss(torch.tensor([[0.0, 1e6], [0, 1]]), torch.tensor([[0, 0], [1, 1]]))
    torch.testing.assert_close(loss.weights, torch.tensor([1.0, 0.0]))
    assert math.isfinite(loss(torch.tensor([[0.0, 1], [0, 1]]), torch.tensor([[0, 0], [1, 1]]))["loss"])


def test_group_dro_finds_the_minimax_where_erm_follows_the_majority():
    """One score for nine images of the first class and one of the second: equal losses are the best worst case."""
    groups = torch.tensor([0] * 9 + [1])
    labels, loss = torch.stack([groups, groups], 1), _WorstGroups(2, 0.05)
    score = torch.tensor(2.0, requires_grad=True)
    optimiser = torch.optim.SGD([score], 0.05)
    tail = []
    for step in range(6000):
        logits = torch.stack([score, -score]).expand(10, 2)
        optimiser.zero_grad()
        loss(logits, labels)["loss"].backward()
        optimiser.step()
        tail += [score.item()] if step >= 3000 else []
    assert np.mean(tail) == pytest.approx(0, abs=0.05)
    assert math.log(9) / 2 > 1  # where plain training ends


def test_balanced_batches_draw_every_group_alike():
    groups = torch.tensor([0] * 90 + [3] * 9 + [7])
    images = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    drawn, labels = draw_balanced(images, groups, groups, 0, "test")(0, 30_000)
    assert (torch.bincount(labels)[[0, 3, 7]] / 30_000).tolist() == pytest.approx([1 / 3] * 3, abs=0.01)
    numbers = ((drawn[:, 0, 0, 0] + 1) * 127.5).round().long()
    assert torch.equal(groups[numbers], labels)
    assert len(numbers.unique()) == 100


def test_reweighting_has_the_loss_of_the_mean_group():
    material = make_material(conflicting=0.1)
    images, labels, groups = material.images_and_groups()
    logits = torch.randn(NUM_IMAGES, NUM_CLASSES, generator=torch.Generator().manual_seed(0))
    losses = F.cross_entropy(logits, labels, reduction="none")
    expected = torch.stack([losses[groups == group].mean() for group in groups.unique()]).mean()
    drawn, drawn_labels = Reweighting().lesson(material).draw_batch(0, 20_000)
    keys = {tuple(row): number for number, row in enumerate(images.flatten(1)[:, :64].tolist())}
    pixels = ((drawn.flatten(1)[:, :64] + 1) * 127.5).round().long().tolist()
    rows = torch.tensor([keys[tuple(row)] for row in pixels])
    assert torch.equal(labels[rows], drawn_labels)
    assert loss_of(Reweighting().lesson(material), logits[rows], drawn_labels).item() == pytest.approx(
        expected.item(), rel=0.02
    )


# --- twice trained, two networks, the last layer -------------------------------------------------


def test_jtt_of_upweight_one_is_erm():
    assert_same_lesson(JTT(upweight=1.0).lesson(make_material()), ERM().lesson(make_material()))


def test_jtts_epochs_have_errors_as_often_as_asked():
    wrong = torch.tensor([False, True, False, True])
    assert torch.bincount(upweighted_rows(wrong, 20)).tolist() == [1, 20, 1, 20]
    material = make_material()
    split = material.originals()
    first: Any = material.trained(FIT)
    errors = first(split.images.float() / 127.5 - 1).argmax(1) != split.labels
    assert 0 < errors.sum() < NUM_IMAGES
    epoch = NUM_IMAGES + 4 * int(errors.sum())
    drawn = JTT(upweight=5.0).lesson(material).draw_batch(0, epoch)[0]
    is_error = (drawn[:, None] - (split.images[errors].float() / 127.5 - 1)[None]).abs().amax((2, 3, 4)) < 1e-5
    assert is_error.sum(0).tolist() == [5] * int(errors.sum())


def test_generalised_cross_entropy_has_the_papers_gradient_and_limits():
    labels = torch.tensor([0, 1, 2, 0])
    logits = torch.randn(4, NUM_CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(generalised_cross_entropy(logits, labels, 0.7).sum(), logits)
    (plain,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), logits)
    probability = logits.softmax(1).gather(1, labels[:, None])
    torch.testing.assert_close(gradient, probability**0.7 * plain)
    torch.testing.assert_close(
        generalised_cross_entropy(logits, labels, 1e-9), F.cross_entropy(logits, labels, reduction="none"),
        atol=1e-5, rtol=0,
    )  # fmt: skip
    torch.testing.assert_close(generalised_cross_entropy(logits, labels, 1.0), 1 - probability[:, 0])


def test_lff_weighs_what_the_biased_network_finds_hard():
    labels = torch.tensor([0, 1])
    wanted, biased = torch.tensor([[0.0, 0], [0, 0]]), torch.tensor([[8.0, 0], [8, 0]])
    wanted.requires_grad_()
    biased.requires_grad_()
    losses = F.cross_entropy(biased, labels, reduction="none").detach()
    weights = losses / (losses + math.log(2))
    assert weights[0] < 0.01 < 0.9 < weights[1]
    loss = _Failures(nn.Identity(), 0.7)((wanted, biased), labels)["loss"]
    expected = generalised_cross_entropy(biased, labels, 0.7).mean() + (weights * math.log(2)).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    plain = torch.autograd.grad(F.cross_entropy(wanted, labels, reduction="none"), wanted, weights / 2)[0]
    torch.testing.assert_close(wanted.grad, plain)
    own = torch.autograd.grad(generalised_cross_entropy(biased, labels, 0.7).mean(), biased)[0]
    torch.testing.assert_close(biased.grad, own)  # which knows nothing of the weights


def test_lff_of_two_equal_networks_is_erm_for_the_one_that_is_wanted():
    lesson = LfF().lesson(make_material())
    logits = torch.randn(BATCH, NUM_CLASSES, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = lesson.draw_batch(0, BATCH)[1]
    (gradient,) = torch.autograd.grad(loss_of(lesson, (logits, logits.detach()), labels), logits)
    (plain,) = torch.autograd.grad(F.cross_entropy(logits, labels), logits)
    torch.testing.assert_close(gradient, plain / 2)  # both find every image as hard as each other


def test_lff_trains_both_networks_and_keeps_the_second_in_checkpoints():
    material = make_material()
    lesson = LfF().lesson(material)
    network = initial_classifier(ClassifierNetwork(), NUM_CLASSES, 0)
    task = ClassifierTask(network, [lesson], FIT, 0, CPU)
    before = [each.head.weight.clone() for each in (network, lesson.state.biased)]
    task.update(0, task.batch(0), noted=False)
    after = [each.head.weight for each in (network, lesson.state.biased)]
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert task.objects["state_0"] is lesson.state
    assert task.result is network


class MeanColours(nn.Module):
    """Features that can be looked at: the mean of each channel, five times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, NUM_CLASSES)

    def features(self, images: Tensor) -> Tensor:
        return 5 * images.mean((2, 3))


@pytest.mark.parametrize("l1", [0.0, 0.03])
def test_dfr_is_logistic_regression_on_balanced_features(l1):
    from sklearn.linear_model import LogisticRegression

    split = make_split("train", 0.3)
    levels = 0.2 * split.images.float().mean((2, 3)) + 40 * torch.randn(
        NUM_IMAGES, 3, generator=torch.Generator().manual_seed(0)
    )
    levels = (levels + 80).clamp(0, 255).to(torch.uint8)
    split = replace(split, rows=ImagesInMemory(levels[:, :, None, None].expand(-1, -1, 4, 4).contiguous()))
    fit = ClassifierFit(num_images=2000 * 256, batch_size=256, learning_rate=0.03, weight_decay=0.0)
    material = make_material(originals=lambda: split, trained=lambda budget: MeanColours(), fit=fit)
    network: Any = MeanColours()
    task = ClassifierTask(network, [DFR(l1=l1).lesson(material)], fit, 0, CPU)
    for step in range(fit.num_steps):
        task.update(step, task.batch(step), noted=False)
    features, (_, labels, groups) = network.features(split.images / 127.5 - 1), material.images_and_groups()
    weights = 1 / torch.bincount(groups)[groups].double()
    weights *= NUM_IMAGES / weights.sum()
    penalty = {"l1_ratio": 1.0, "C": 1 / (l1 * NUM_IMAGES), "solver": "saga"} if l1 else {"C": np.inf}
    sklearn = LogisticRegression(tol=1e-5, max_iter=50_000, **penalty)
    sklearn.fit(features.numpy(), labels.numpy(), sample_weight=weights.numpy())
    expected = torch.from_numpy(sklearn.predict_proba(features.numpy())).float()
    plain = LogisticRegression(tol=1e-8, max_iter=50_000).fit(features.numpy(), labels.numpy())
    probabilities = network.head(features).softmax(1).detach()
    torch.testing.assert_close(probabilities, expected, atol=0.02, rtol=0)
    unbalanced = torch.from_numpy(plain.predict_proba(features.numpy())).float()
    assert (probabilities - unbalanced).abs().max() > 0.05


def test_dfr_changes_the_last_layer_alone():
    material = make_material()
    first: Any = material.trained(FIT)
    network = trained_by(DFR(), material)
    assert all(
        torch.equal(one, other)
        for one, other in zip(network.trunk.state_dict().values(), first.trunk.state_dict().values(), strict=True)
    )
    assert not torch.equal(network.head.weight, first.head.weight)


def test_dfr_needs_a_network_with_features():
    lesson = DFR().lesson(make_material())
    with pytest.raises(SettingError, match=r"classify\.network\.architecture: expected a network with `features`"):
        lesson.attach(nn.Sequential(nn.Flatten(), nn.Linear(3, 3)))


# --- counterfactuals -----------------------------------------------------------------------------


def test_teacher_and_students_differ_by_their_pool_alone():
    material = make_material()
    swapped = replace(material, pools={"students": material.pools["teacher"]})
    assert_same_lesson(TeacherCounterfactuals().lesson(material), StudentsCounterfactuals().lesson(swapped))


def test_counterfactuals_mixed_with_no_originals_are_those_of_the_students():
    material = make_material()
    students = StudentsCounterfactuals().lesson(material)
    assert_same_lesson(MixedCounterfactuals(0.0).lesson(material), students)
    mixed = MixedCounterfactuals(0.25).lesson(material).draw_batch(0, BATCH)[0]
    assert torch.equal(mixed[:12], students.draw_batch(0, 12)[0])


def test_pairs_share_the_mask_and_nothing_else():
    material = make_material()
    pool = make_pool(1)
    pool.images.foreground.fill_(0)  # black shapes on white: what is left is the mask
    pool.images.background.fill_(255)
    plain = replace(material, pools={"students": lambda: pool})
    shapes, labels = CounterfactualPairs().lesson(plain).draw_batch(0, BATCH)
    torch.testing.assert_close(shapes[::2], shapes[1::2])
    assert torch.equal(labels[::2, 0], labels[1::2, 0])
    assert len(shapes.flatten(1).unique(dim=0)) > 4
    images = CounterfactualPairs().lesson(material).draw_batch(0, BATCH)[0]
    assert ((images[::2] - images[1::2]).abs().mean((1, 2, 3)) > 0.05).all()


def test_the_loss_of_pairs_is_cross_entropy_and_their_squared_difference():
    logits, labels = torch.tensor([[1.0, 0], [0, 1], [2, 2], [2, 2], [5, 0]]), torch.tensor([0, 0, 1, 1, 0])
    without, penalised = (CounterfactualPairs(weight).lesson(make_material()) for weight in (0.0, 3.0))
    plain = F.cross_entropy(logits, labels)
    torch.testing.assert_close(loss_of(without, logits, labels), plain)
    # Of two pairs one differs, by 1 in both logits.
    torch.testing.assert_close(loss_of(penalised, logits, labels), plain + 3.0 * 0.5)
    assert difference_of_pairs(logits[:1]) == 0  # one alone
