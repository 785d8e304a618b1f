"""Settings are refused all at once, each with its name and what is possible."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from configuration import merge, read_folder
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.parameters import (
    Ablation,
    Baseline,
    Composition,
    Parameters,
    Sample,
    StudyName,
    TeacherFit,
    check_parameters,
    choose_classes,
)
from skdcgn_pipeline.parameters.ablation import STUDIES
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.students.architectures import make_student
from skdcgn_pipeline.vocabulary import MECHANISMS

ENVIRONMENTS = ("base", "mnist", "test")


@pytest.fixture
def raw(project: Path) -> dict[str, Any]:
    return read_folder(project / "conf" / "base")


def change(raw: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Set the setting with a dotted name."""
    changed = copy.deepcopy(raw)
    *path, last = name.split(".")
    inside = changed
    for part in path:
        inside = inside[int(part)] if isinstance(inside, list) else inside[part]
    inside[last] = value
    return changed


def leaves(raw: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and value of every setting that is a number."""
    for key, value in raw.items():
        if key.startswith("_"):
            continue
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", value


def may_be_null(name: str) -> bool:
    """Tell whether the type of a setting holds null."""
    annotation: Any = Parameters
    for part in name.split("."):
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return False  # inside a mapping
        annotation = annotation.model_fields[part].annotation
    return type(None) in get_args(annotation)


def message_of(raw: dict[str, Any]) -> str:
    with pytest.raises(SettingError) as caught:
        check_parameters(raw)
    return str(caught.value)


# --- what is accepted ----------------------------------------------------------------------------


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_settings_of_every_environment_are_accepted(project, raw, environment):
    if environment != "base":
        merge(raw, read_folder(project / "conf" / environment))
    parameters = check_parameters(raw)
    assert isinstance(parameters, Parameters)
    assert parameters.images.source == ("mnist" if environment == "mnist" else "digits")
    assert parameters.texture.distill.num_steps == raw["texture"]["distill"]["num_steps"]


def test_the_settings_of_a_folder_need_nothing_but_its_place(project, raw):
    merge(raw, read_folder(project / "conf" / "folder"))
    raw["variant"] = "folder"
    assert "images: 'folder' names the images of the source 'folder'" in message_of(raw)
    raw["images"]["folder"] = "photos"
    assert check_parameters(raw).teacher.name == "trained"
    raw["images"]["source"] = "digits"
    assert "got source 'digits' with folder 'photos'" in message_of(raw)


def test_a_custom_teacher_is_measured_on_no_images_but_those_that_are_named(project, raw):
    raw["teacher"] = {"name": "custom", "factory": "shapes.polygons:make"}
    parameters = check_parameters(raw)
    assert (parameters.images.source, parameters.run_name) == ("none", "polygons")
    raw["images"]["source"] = "digits"
    assert check_parameters(raw).images.source == "digits"


def test_the_settings_of_a_custom_teacher_need_nothing_but_its_factory(project, raw):
    merge(raw, read_folder(project / "conf" / "custom"))
    raw["variant"] = "custom"
    assert "needs either 'factory'" in message_of(raw)
    raw["teacher"]["factory"] = "polygons:make"
    assert check_parameters(raw).images.source == "none"
    raw["teacher"] = {"name": "trained"}
    assert "teacher.name 'trained' is made of images, got none" in message_of(raw)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "digits"),
        ({"name": "shoes"}, "shoes"),
        ({"images": {"source": "mnist"}, "variant": "wildlife"}, "wildlife_mnist"),
        ({"images": {"source": "folder", "folder": "some/my images (2)"}, "variant": "folder"}, "my_images_2"),
    ],
)
def test_runs_are_called_by_their_name_or_their_images(raw, changes, name):
    assert check_parameters(raw | changes).run_name == name


def test_images_are_not_cut_larger_than_they_are_brought_to(raw):
    raw |= {"images": {"source": "folder", "folder": "some/images", "resize": 32}, "variant": "folder"}
    assert "'resize' must be at least 'image_size' (64), got 32" in message_of(raw)


@pytest.mark.parametrize("given", [{"image_size": 32}, {"resize": 80}, {"skip_unreadable": True}])
def test_what_is_of_folders_is_refused_for_other_images(raw, given):
    raw["images"] |= given
    assert f"'{next(iter(given))}' is of folders of images, not of the source 'digits'" in message_of(raw)


@pytest.fixture
def raw_of_imagenet(project, raw):
    merge(raw, read_folder(project / "conf" / "imagenet"))
    return raw | {"variant": "imagenet"}


def test_the_settings_of_imagenet_are_accepted(raw_of_imagenet):
    parameters = check_parameters(raw_of_imagenet)
    assert parameters.images.source == "imagenet"
    assert parameters.teacher.name == "imagenet_cgn"
    assert not parameters.compose.composition.patch_shift
    for mechanism in ("shape", "texture", "background"):
        assert getattr(parameters, mechanism).distill.student.architecture == "tinygan"
        assert parameters.baseline.students[mechanism] == getattr(parameters, mechanism).distill.student
    # The published CGN's, which are the defaults.
    for name in ("weights", "learning_rates", "mask_bounds"):
        assert getattr(parameters.baseline, name) == Baseline.model_fields[name].default
    assert 256 % parameters.baseline.patch_size == 0


@pytest.mark.parametrize(("variant", "source"), [("imagenet", "digits"), ("colored", "imagenet")])
def test_a_bias_belongs_to_digits(raw, variant, source):
    folders = {"train": "a", "validation": "b"} if source == "imagenet" else {}
    raw["variant"], raw["images"] = variant, {"source": source, "folders": folders}
    wanted = "one of colored, double_colored, wildlife" if source == "digits" else "any word but the bias protocols"
    assert f"variant: expected {wanted}" in message_of(raw)
    assert f"got '{variant}'" in message_of(raw)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"images": {"source": "imagenet"}}, "'folders' names those of the source 'imagenet'"),
        ({"images": {"source": "imagenet", "folders": {"train": "a"}}}, "'folders' needs 'train' and 'validation'"),
        ({"images": {"source": "digits", "folders": {"train": "a"}}}, "got 'digits'"),
        ({"images": {"source": "imagenet", "folders": {"a/b": "a"}}}, "images.folders.a/b"),
        ({"classify": {"trained_on": ["students", "students"]}}, "'trained_on' names each training set once"),
        ({"classify": {"trained_on": ["student"]}}, "Did you mean 'students'?"),
        ({"classify": {"network": {"heads": "mechanisms"}}}, "'digit_cnn' starts from nothing and has one head"),
    ],
)
def test_images_and_classifiers_that_do_not_fit_are_refused(raw, changes, told):
    for section, settings in changes.items():
        raw[section] = (raw[section] | settings) if section == "classify" else settings
    assert told in message_of(raw)


def test_the_published_recipe_of_digits_and_the_small_students_are_the_base(raw):
    student = check_parameters(raw).shape.distill.student
    assert (student.architecture, student.width, student.embedding_dim) == ("compact", (16, 24, 16), 8)


def test_keys_with_an_underscore_only_hold_anchors(raw):
    assert check_parameters(raw | {"_anchor": {"anything": 1}}) == check_parameters(raw)


def test_settings_cannot_be_changed_after_they_are_checked(raw):
    with pytest.raises(ValueError, match="frozen"):
        check_parameters(raw).seed = 1


def test_a_training_has_at_least_one_step():
    assert TeacherFit(num_images=1, batch_size=16).num_steps == 1
    assert TeacherFit(num_images=47, batch_size=16).num_steps == 2


# --- unknown names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("sed", "seed"),
        ("compute.devise", "device"),
        ("prepare.feature_network.batchsize", "batch_size"),
        ("texture.distill.num_step", "num_steps"),
        ("shape.distill.student.widht", "width"),
        ("shape.distill.weights.pixels", "pixel"),
        ("teacher.fit.init_gian", "init_gain"),
        ("compose.composition.counterfactual.textures", "texture"),
        ("ablation.transformations.shapes", "shape"),
        ("ablation.transformations.shape.0.strenght", "strengths"),
        ("ablation.countss", "counts"),
        ("ablation.counts.per_shapes", "per_shape"),
    ],
)
def test_an_unknown_setting_at_any_depth_is_refused_with_the_nearest_name(raw, name, nearest):
    message = message_of(change(raw, name, 1))
    assert f"{name}: unknown setting. Did you mean '{nearest}'?" in message


def test_an_unknown_setting_like_no_other_is_refused_with_all_names(raw):
    message = message_of(change(raw, "compute.xyz", 1))
    assert "compute.xyz: unknown setting. Valid names: device, precision, sampling_precision." in message


def test_a_missing_setting_is_named(raw):
    del raw["sample"]["num_images_per_class"]
    assert "sample.num_images_per_class: missing, a value is needed" in message_of(raw)


# --- impossible values ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "many", None, [1], {"a": 1}])
def test_an_impossible_number_is_refused_for_every_setting(raw, value):
    accepted = []
    possible = [name for name, _ in leaves(raw) if value is None and may_be_null(name)]
    for name, _ in leaves(raw):
        try:
            check_parameters(change(raw, name, value))
        except SettingError as error:
            assert f"- {name}" in str(error) or f"- {name.rpartition('.')[0]}" in str(error)  # noqa: PT017
        else:
            accepted.append(name)
    assert accepted == possible


@pytest.mark.parametrize("value", [0, 2.5])
@pytest.mark.parametrize(
    "name",
    [
        "sample.num_images_per_class",
        "sample.rows_per_shard",
        "compose.num_images",
        "classify.fit.batch_size",
        "shape.distill.num_steps",
        "background.distill.student.width",
        "teacher.fit.num_images",
        "prepare.copies",
        "report.num_examples",
        "benchmark.num_threads",
        "benchmark.num_counterfactuals",
    ],
)
def test_a_size_is_a_whole_number_above_zero(raw, name, value):
    assert name in message_of(change(raw, name, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prepare.validation_fraction", 1),
        ("benchmark.batch_sizes", []),
        ("benchmark.batch_sizes", [16, 0]),
        ("benchmark.batch_sizes", [16, 32, 16]),
        ("benchmark.num_distillation_steps", 1),
        ("benchmark.num_threads", 5000),
        ("benchmark.only", "everything"),
        ("teacher.fit.batch_size", 15),
        ("teacher.fit.mask_bounds", [0.5, 0.1]),
        ("teacher.fit.mask_bounds", [0.5]),
        ("teacher.fit.style_weights", [1, 1, 1]),
        ("texture.distill.betas", [0.5, 1.0]),
        ("shape.distill.pixel_decay", 1.5),
        ("shape.distill.ema_decay", 1),
        ("classify.num_seeds", 0),
        ("report.num_examples", 41),
        ("classify.fit.label_smoothing", 1),
    ],
)
def test_a_value_beyond_its_range_is_refused(raw, name, value):
    assert name in message_of(change(raw, name, value))


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [
        ("variant", "double_coloured", "double_colored"),
        ("compute.device", "gpu", "cpu"),
        ("compute.precision", "fp23", "fp32"),
        ("teacher.name", "mnist_gcn", "mnist_cgn"),
        ("images.source", "digit", "digits"),
        ("classify.counterfactuals", "store", "stored"),
        ("ablation.source", "student", "students"),
        ("shape.distill.student.architecture", "tinygun", "tinygan"),
        ("teacher.fit.style_network", "vgg", "vgg16"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_nearest_name(raw, name, value, nearest):
    message = message_of(change(raw, name, value))
    assert f"{name}: expected one of" in message
    assert f"got '{value}'. Did you mean '{nearest}'?" in message


def test_a_student_without_any_loss_is_refused(raw):
    nothing = dict.fromkeys(raw["shape"]["distill"]["weights"], 0.0)
    assert "shape.distill: at least one weight" in message_of(change(raw, "shape.distill.weights", nothing))


@pytest.mark.parametrize("mechanism", ["texture", "background"])
def test_a_loss_that_only_masks_have_is_no_loss_for_other_mechanisms(raw, mechanism):
    name = f"{mechanism}.distill.weights"
    only_cross_entropy = dict.fromkeys(raw["shape"]["distill"]["weights"], 0.0) | {"binary_cross_entropy": 1.0}
    assert f"{mechanism}" in message_of(change(raw, name, only_cross_entropy))


# --- teachers and transformations ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "custom"}, "needs either 'factory'"),
        ({"name": "custom", "factory": "a:b", "weights": "c.pt"}, "needs either 'factory'"),
        ({"name": "custom", "factory": "a.b"}, "must look like module:function, got 'a.b'"),
        ({"name": "custom", "weights": "c.pt"}, "a custom file needs 'noise_dim'"),
        ({"factory": "a:b"}, "'factory' belongs to name 'custom'"),
    ],
)
def test_an_incomplete_teacher_is_refused(raw, changes, reason):
    raw["teacher"] |= changes
    assert reason in message_of(raw)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "custom", "factory": "a.b:c"},
        {"name": "custom", "weights": "c.pt", "noise_dim": 4, "num_classes": 3, "image_size": 8},
        {"name": "mnist_cgn", "weights": "c.pth"},
    ],
)
def test_a_complete_teacher_is_accepted(raw, changes):
    raw["teacher"] |= changes
    assert check_parameters(raw).teacher.name == changes["name"]


@pytest.mark.parametrize(
    ("mechanism", "transformation", "reason"),
    [
        ("shape", {"kind": "rotaton", "strengths": [1]}, "shape.0.kind: expected one of"),
        ("shape", {"kind": "rotaton", "strengths": [1]}, "Did you mean 'rotation'?"),
        (
            "texture",
            {"kind": "opacity", "strengths": [0.5]},
            "texture.0.kind: expected a transformation that makes sense for texture (",
        ),
        ("shape", {"kind": "opacity", "strengths": [0.5, 1.5]}, "shape.0.strength: expected a number in [0, 1]"),
        ("background", {"kind": "gaussian_noise", "strengths": [-0.1]}, "background.0.strength: expected a number"),
        ("shape", {"kind": "opacity", "strengths": []}, "strengths: "),
        ("shape", {"strengths": [0.5]}, "kind: missing"),
    ],
)
def test_a_transformation_that_cannot_be_applied_is_refused(raw, mechanism, transformation, reason):
    message = message_of(change(raw, f"ablation.transformations.{mechanism}", [transformation]))
    assert "ablation.transformations" in message
    assert reason in message


def test_transformations_are_told_as_kind_and_strength(raw):
    transformations = raw["compose"]["composition"]["transformations"]
    transformations["shape"] = [{"kind": "opacity", "strength": 0.5}, {"kind": "binarise"}]
    composition = check_parameters(raw).compose.composition
    assert composition.transformations.of("shape") == [("opacity", 0.5), ("binarise", 1.0)]


@pytest.mark.parametrize(
    ("patch_shift", "texture", "background"),
    [(True, True, True), (False, False, False), ("texture", True, False), ("background", False, True)],
)
def test_the_patch_shift_is_of_one_mechanism_or_both(raw, patch_shift, texture, background):
    changed = change(raw, "compose.composition.patch_shift", patch_shift)
    composition = check_parameters(changed).compose.composition
    assert [composition.shifts(m) for m in MECHANISMS] == [False, texture, background]


# --- the composition study ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "studies"),
    [("all", STUDIES), ("stage", ("stage",)), (["stage", "counts"], ("stage", "counts"))],
)
def test_studies_are_asked_for_all_by_one_name_or_as_a_list(raw, value, studies):
    assert check_parameters(change(raw, "ablation.study", value)).ablation.study == studies


@pytest.mark.parametrize("value", ["transformation", ["counts", "transformation"]])
def test_an_unknown_study_is_refused_with_the_nearest_name(raw, value):
    message = message_of(change(raw, "ablation.study", value))
    assert "study: expected one of all, transformations, mechanisms," in message
    assert "got 'transformation'. Did you mean 'transformations'?" in message


@pytest.mark.parametrize("value", [[], 3, None])
def test_no_study_is_refused(raw, value):
    assert "ablation.study" in message_of(change(raw, "ablation.study", value))


def test_the_names_of_the_studies_are_the_same_everywhere():
    assert Ablation.model_fields["study"].default == STUDIES == get_args(StudyName)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_seeds", 0),
        ("num_seeds", 1),
        ("max_cells", 0),
        ("source", "own"),
        ("counts", {"per_shape": [0]}),
        ("counts", {"per_shape": []}),
        ("counts", {"dataset_sizes": []}),
        ("mixing", {"originals_shares": [1.5]}),
        ("mixing", {"originals_shares": []}),
        ("losses", {"terms": ["pixels"]}),
        ("losses", {"terms": []}),
        ("losses", {"kl_temperatures": [0]}),
        ("size", {"students": []}),
        ("stage", {"transformations": [], "num_images": 10}),
        ("stage", {"transformations": [{"kind": "grey"}], "num_images": 10}),
        ("stage", {"transformations": [{"kind": "binarise", "strength": 0.5}], "num_images": 10}),
    ],
)
def test_an_impossible_grid_is_refused(raw, name, value):
    assert f"ablation.{name}" in message_of(change(raw, f"ablation.{name}", value))


def test_more_counterfactuals_of_each_shape_than_images_are_refused(raw):
    message = message_of(change(raw, "ablation.counts", {"per_shape": [5, 20], "dataset_sizes": [1000, 19]}))
    assert "ablation.counts: 'per_shape' must not exceed the smallest of 'dataset_sizes'" in message
    assert "got 20 counterfactuals of each shape in 19 images" in message
    counts = check_parameters(
        change(raw, "ablation.counts", {"per_shape": [20], "dataset_sizes": [20]})
    ).ablation.counts
    assert (counts.per_shape, counts.dataset_sizes) == ((20,), (20,))


def test_a_grid_of_no_transformation_is_refused(raw):
    message = message_of(change(raw, "ablation.transformations", {"without_patch_shift": False}))
    assert "ablation.transformations: the grid is empty: name at least one transformation" in message
    only_shift = check_parameters(change(raw, "ablation.transformations", {"without_patch_shift": True}))
    assert only_shift.ablation.transformations.shape == ()


@pytest.mark.parametrize(
    ("combined", "reason"),
    [
        ([[{"kind": "opacity", "strength": 0.5}]], "at least 2 items"),
        (
            [[{"kind": "opacity", "strength": 0.5}, {"kind": "grey"}]],
            "combined.0.kind: expected a transformation that makes sense for shape",
        ),
    ],
)
def test_combinations_are_several_transformations_of_the_shape(raw, combined, reason):
    message = message_of(change(raw, "ablation.transformations.combined", combined))
    assert "ablation.transformations" in message
    assert reason in message


def test_a_teacher_cannot_be_trained_with_what_keeps_its_gradient(raw):
    masks = [{"kind": "opacity", "strength": 0.5}, {"kind": "binarise", "strength": 0.5}]
    raw = change(raw, "compose.composition.transformations.shape", masks)
    assert check_parameters(raw).compose.stage == "compose"
    message = message_of(change(raw, "compose.stage", "teacher"))
    assert "compose: stage 'teacher'" in message
    assert "'binarise' would keep the gradient" in message


def test_transformations_are_applied_at_their_stage_alone(raw):
    masks = [{"kind": "opacity", "strength": 0.5}]
    raw = change(raw, "compose.composition.transformations.shape", masks)
    composing = check_parameters(raw).compose
    assert composing.composing.transformations.of("shape") == [("opacity", 0.5)]
    assert composing.in_teacher_training.of("shape") == []
    training = check_parameters(change(raw, "compose.stage", "teacher")).compose
    assert training.composing.transformations.of("shape") == []
    assert training.in_teacher_training.of("shape") == [("opacity", 0.5)]


# --- all at once ---------------------------------------------------------------------------------


def test_all_errors_are_listed_in_one_message(raw):
    wrong = {
        "seed": -1,
        "variant": "wild",
        "compute.device": "gpu",
        "sample.rows_per_shard": 0,
        "texture.distill.learning_rate": float("nan"),
        "teacher.fit.batch_size": "many",
        "compose.numimages": 3,
    }
    for name, value in wrong.items():
        raw = change(raw, name, value)
    message = message_of(raw)
    for name in wrong:
        assert f"\n  - {name}:" in message
    assert "7 problems" in message
    assert "Nothing has been run" in message


def test_one_error_is_one_problem(raw):
    assert "got 1 problem." in message_of(raw | {"seed": -1})


# --- architectures, precisions, training sets ----------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "width", "wanted"),
    [
        ("tinygan", [4, 8, 4], "one number"),
        ("compact", 24, "three numbers"),
        ("basis", 24, "three numbers"),
        ("basis", [4, 8], "three numbers"),
    ],
)
def test_a_width_of_another_architecture_is_refused(raw, architecture, width, wanted):
    changed = change(raw, "shape.distill.student", {"architecture": architecture, "width": width, "embedding_dim": 8})
    assert f"'width' must be {wanted}" in message_of(changed)


@pytest.mark.parametrize(
    ("variant", "name", "budget"),
    [
        ("colored", "mine", 66_000),
        ("double_colored", "none", 66_000),
        ("wildlife", "none", 66_000),
        ("wildlife", "wildlife_mnist_small", 33_000),
    ],
)
def test_mnist_has_a_trio_within_the_budget_for_every_variant(project, raw, variant, name, budget):
    merge(raw, read_folder(project / "conf" / "mnist", variant=variant, name=name))
    parameters = check_parameters(raw)
    students = {mechanism: getattr(parameters, mechanism).distill.student.arguments() for mechanism in MECHANISMS}
    networks = [make_student(mechanism, student, GeneratorSize(32, 10, 32)) for mechanism, student in students.items()]
    assert sum(parameter.numel() for network in networks for parameter in network.parameters()) <= budget
    kinds = [transformation.kind for transformation in parameters.compose.composition.transformations.shape]
    assert (
        kinds
        == {
            "colored": ["affine"],
            "double_colored": ["affine", "binarise", "fade"],
            "wildlife": ["affine", "binarise"],
        }[variant]
    )
    composed = parameters.compose.composition.transformations
    flat = [("flatten", 1.0)] if variant == "double_colored" else []
    assert composed.of("texture") == composed.of("background") == flat


def test_samples_have_a_precision_of_their_own(raw):
    compute = check_parameters(change(raw, "compute.precision", "bf16")).compute
    assert compute.for_sampling().precision == "fp32"
    assert compute.precision == "bf16"


@pytest.mark.parametrize("value", [[], ["student"], "students"])
def test_unknown_training_sets_are_refused(raw, value):
    assert "classify.trained_on" in message_of(change(raw, "classify.trained_on", value))


# --- classes, encodings, ranges ---


def make_sample(**changes: Any) -> Sample:
    return Sample(num_images_per_class=1, num_heldout_per_class=1, **changes)


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        (None, None),
        (4, (4,)),
        ([5, 3, 3], (3, 5)),
        ("2-4", (2, 3, 4)),
        ({"first": 2, "last": 4}, (2, 3, 4)),
        ("best", (1, 6)),
        ("0-9", None),
    ],
)
def test_classes_are_chosen_in_several_ways(given, chosen):
    classes = make_sample(classes=given).classes
    assert choose_classes("sample.classes", classes, 10, {"best": [6, 1]}) == chosen


@pytest.mark.parametrize("given", [[], [-1], [1.5], "4-2", {"first": 1}, {"from": 1, "last": 2}, [True]])
def test_choices_that_are_no_classes_are_refused(given):
    with pytest.raises(ValidationError):
        make_sample(classes=given)


@pytest.mark.parametrize(
    "changes",
    [
        {"encoding": "gif"},
        {"encoding": "png", "quality": 90},
        {"quality": 90},
        {"encoding": "jpeg", "quality": 101},
        {"encoding": "jpeg", "quality": 0},
        {"encoding_threads": 0},
        {"shard_range": [3, 3]},
        {"shard_range": [-1, 3]},
        {"shard_range": [1]},
    ],
)
def test_impossible_ways_to_store_samples_are_refused(changes):
    with pytest.raises(ValidationError):
        make_sample(**changes)


def test_a_composition_without_a_choice_of_classes_keeps_its_identity():
    assert set(Composition().identity()) == {"counterfactual", "transformations", "patch_shift"}
    chosen = Composition(classes={"shape": 3}).identity()
    assert chosen["classes"] == {"shape": [3], "texture": None, "background": None}
    assert Composition.model_validate(chosen) == Composition(classes={"shape": 3})


@pytest.mark.parametrize(("mechanism", "origin"), [("shape", "factual"), ("texture", "same")])
def test_classes_belong_to_mechanisms_that_draw_one(mechanism, origin):
    told = rf"classes\.{mechanism} belongs to counterfactual\.{mechanism} 'class', got '{origin}'"
    with pytest.raises(ValidationError, match=told):
        Composition(counterfactual={mechanism: origin}, classes={mechanism: [1, 2]})


@pytest.mark.parametrize(
    ("mechanism", "value", "told"),
    [
        ("shape", "same", "expected one of class, factual, got 'same'"),
        ("background", "own", "expected one of class, factual, same, got 'own'"),
        ("background", False, "expected one of class, factual, same, got False"),
    ],
)
def test_what_a_mechanism_takes_its_class_from_is_one_of_three_words(raw, mechanism, value, told):
    message = message_of(change(raw, f"compose.composition.counterfactual.{mechanism}", value))
    assert f"compose.composition.counterfactual.{mechanism}: {told}" in message


def test_names_of_classes_are_resolved():
    composition = Composition(classes={"shape": "best", "texture": "0-9"})
    resolved = composition.resolved(10, {"best": [2, 1]}, "compose.composition")
    assert resolved.classes.model_dump() == {"shape": (1, 2), "texture": None, "background": None}
    with pytest.raises(SettingError, match=r"compose\.composition\.classes\.shape: expected classes 0 to 9, got 12"):
        composition.resolved(10, {"best": [12]}, "compose.composition")


@pytest.mark.parametrize("alias", ["latest", "v3", "", "a b"])
def test_an_alias_that_mlflow_keeps_for_itself_is_refused(raw, alias):
    assert "export.alias: needs letters" in message_of(change(raw, "export.alias", alias))


def test_settings_without_an_export_are_complete(raw):
    del raw["export"]
    assert check_parameters(raw).export.students == "run"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"teacher": {"name": "mnist_cgn", "weights": "x" * 300 + ".pth"}},
            "teacher.weights: .*at most 255 bytes, got .*304",
        ),
        ({"teacher": {"name": "imagenet_cgn", "weights": {"shape": "é" * 128}}}, "teacher.weights.*got one of 256"),
        ({"images": {"source": "folder", "folder": "a\0b"}}, "images.folder: Input should be a path, got a NUL"),
        ({"assets": "a/" * 2100}, "assets: Input should be a path of at most 4,095 bytes, got 4,200"),
        ({"name": "n" * 256}, "name: Input should be a path"),
    ],
)
def test_what_no_file_can_be_called_is_refused_by_its_setting(raw, settings, told):
    with pytest.raises(SettingError, match=told):
        check_parameters(copy.deepcopy(raw) | settings)
