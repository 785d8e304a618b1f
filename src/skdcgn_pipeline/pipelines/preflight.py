"""What is checked before any work: device, disk, assets, folders of images, teacher and what is drawn from it."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from skdcgn_pipeline.artifacts.store import check_writable
from skdcgn_pipeline.classifiers.feature_network import read_given_network
from skdcgn_pipeline.classifiers.training import initial_classifier
from skdcgn_pipeline.export.programs import check_libraries
from skdcgn_pipeline.images.recipes import check_images
from skdcgn_pipeline.metrics.features import inception_path
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.parameters import BIASED_SOURCES, DIGIT_NETWORK, Distill, Parameters, choose_classes
from skdcgn_pipeline.runtime.compute import choose_device
from skdcgn_pipeline.runtime.errors import SettingError, check_choice
from skdcgn_pipeline.samples.drawing import count_shards
from skdcgn_pipeline.samples.encoding import check_encodable
from skdcgn_pipeline.students.baseline import check_baseline
from skdcgn_pipeline.students.distillation import check_distillation
from skdcgn_pipeline.students.released import released_students
from skdcgn_pipeline.studies.registry import check_possible, expand_cells
from skdcgn_pipeline.teachers.teacher import open_identified_teacher
from skdcgn_pipeline.training.parallel import launched_processes
from skdcgn_pipeline.vocabulary import BASELINE, MECHANISMS

MINIMUM_FREE_BYTES = 200 * 2**20
CLASSIFYING_NODES = {"train_classifiers", "plan_ablation", "export_classifier", "write_explorer"}
COLOURED_NODES = {"fit_teacher", "release_students", "adopt_released_students"}
DIGIT_NETWORK_NODES = {"export_classifier", "write_explorer"}
SAMPLE_NODES = {"open_teacher", "draw_teacher_samples", "draw_heldout_samples"}


def students_of(parameters: Parameters) -> dict[str, Distill]:
    """Return how the student of each mechanism is distilled."""
    return {mechanism: getattr(parameters, mechanism).distill for mechanism in MECHANISMS}


def check_sample(parameters: Parameters, num_classes: int, node_names: Set[str]) -> None:
    """Refuse classes that the teacher does not know, and shards that there are not.

    Raises:
        SettingError: Naming the setting.
    """
    sample = parameters.sample
    check_encodable(sample)
    classes = choose_classes("sample.classes", sample.classes, num_classes, parameters.class_lists)
    parameters.compose.resolved(num_classes, parameters.class_lists)
    parameters.compose.interpolation.ends(num_classes)
    if sample.shard_range is None:
        return
    per_class = num_classes if classes is None else len(classes)
    num_shards = count_shards(sample.num_images_per_class, per_class, sample.rows_per_shard)
    if sample.shard_range[1] > num_shards:
        remedy = "Give ranges that cover these, such as halves of them."
        got = list(sample.shard_range)
        raise SettingError("sample.shard_range", f"a range within the {num_shards} shards there are", got, remedy)
    if others := sorted(node_names - SAMPLE_NODES):
        remedy = "Draw ranges by --pipelines sample; run the stages that follow without sample.shard_range."
        raise SettingError("sample.shard_range", "the sample stage alone", f"also '{others[0]}'", remedy)


def check_surroundings(parameters: Parameters, data_root: Path, node_names: Set[str]) -> None:
    """Refuse a run that could not finish.

    Args:
        parameters: All settings.
        data_root: Where everything is written.
        node_names: Names of the nodes that will run; only what they need is checked.

    Raises:
        SettingError: Naming what is missing and what to do.
    """
    choose_device(parameters.compute.device)
    # What makes space must not need it.
    check_writable(data_root, 0 if "prune_data" in node_names else MINIMUM_FREE_BYTES)
    if "export_students" in node_names:
        check_libraries()
        check_choice("export.students", parameters.export.students, ["run", *released_students()])
    num_classes = None
    if "prepare_biased_images" in node_names:
        images, prepare = parameters.images, parameters.prepare
        num_classes = check_images(images, prepare, parameters.variant, parameters.assets, parameters.seed)
    measuring = any(name.endswith(("compare_students", "measure_generation")) for name in node_names)
    if measuring and parameters.report.generation_metrics.network == "inception":
        inception_path(parameters.assets)
    if "fit_feature_network" in node_names and parameters.prepare.given_features is not None:
        read_given_network(parameters.prepare.given_features)
    network = parameters.classify.network
    if node_names & CLASSIFYING_NODES and num_classes is not None:
        # Builds the architecture and reads its weights, the cheapest way to find out whether they fit.
        initial_classifier(network, num_classes, parameters.seed)
    if node_names & COLOURED_NODES and not parameters.images.are_coloured:
        raise SettingError(
            "images.source",
            f"one of {', '.join(BIASED_SOURCES)} for what is made of digits in colour",
            f"'{parameters.images.source}' with {', '.join(sorted(node_names & COLOURED_NODES))}",
            "Choose another stage.",
        )
    if node_names & DIGIT_NETWORK_NODES and network.architecture != DIGIT_NETWORK:
        raise SettingError(
            "classify.network.architecture",
            f"'{DIGIT_NETWORK}', the one that is taken away",
            repr(network.architecture),
            "Choose another stage.",
        )
    if "open_teacher" in node_names:
        teacher = open_identified_teacher(parameters.teacher, parameters.variant, parameters.assets)
        generator = teacher.generator
        check_sample(parameters, generator.num_classes, node_names)
        for mechanism, distill in students_of(parameters).items():
            if f"{mechanism}.distil_student" in node_names:
                size, num_processes = GeneratorSize.of(generator), launched_processes()
                check_distillation(mechanism, size, distill, parameters.compute, parameters.assets, num_processes)
        if f"{BASELINE}.fit_baseline" in node_names:
            has_digits = parameters.prepare.given_features is None
            check_baseline(parameters.baseline, teacher, parameters.teacher, parameters.assets, has_digits)
        if node_names & CLASSIFYING_NODES and num_classes not in (None, generator.num_classes):
            raise SettingError(
                "teacher",
                f"the {num_classes} classes of the images",
                f"{generator.num_classes} classes",
                "Give images of the teacher's classes, or another teacher.",
            )
        if "plan_ablation" in node_names:
            cells = expand_cells(parameters.ablation, students_of(parameters))
            check_possible(cells, teacher.generator, network.by_mechanism)
