"""What is checked before any work: device, disk, assets, folders of images, teacher and what is drawn from it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Set
from pathlib import Path

from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from skdcgn_pipeline.artifacts.store import check_writable
from skdcgn_pipeline.classifiers.feature_network import read_given_network
from skdcgn_pipeline.classifiers.training import initial_classifier
from skdcgn_pipeline.export.programs import check_libraries
from skdcgn_pipeline.images.grey import CLASS_NAMES, DIGIT_NAMES
from skdcgn_pipeline.images.grey import IMAGE_SIZE as COLOURED_SIZE
from skdcgn_pipeline.images.listing import some_of
from skdcgn_pipeline.images.recipes import check_images
from skdcgn_pipeline.metrics.features import inception_path
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.parameters import BIASED_SOURCES, MADE_BY_RUN, Parameters, choose_classes
from skdcgn_pipeline.pipelines.estimates import check_estimates
from skdcgn_pipeline.runtime.compute import choose_device
from skdcgn_pipeline.runtime.errors import SettingError, check_choice
from skdcgn_pipeline.samples.drawing import count_shards
from skdcgn_pipeline.students.baseline import check_baseline
from skdcgn_pipeline.students.distillation import check_distillation
from skdcgn_pipeline.students.released import released_students
from skdcgn_pipeline.studies.registry import check_possible, expand_cells
from skdcgn_pipeline.teachers.cutouts import blank_cutouts
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher, open_identified_teacher
from skdcgn_pipeline.teachers.training import untrained_teacher
from skdcgn_pipeline.training.parallel import launched_processes
from skdcgn_pipeline.vocabulary import CUTOUTS, MECHANISMS

MINIMUM_FREE_BYTES = 200 * 2**20
DIGIT_TEACHERS = ("digits_cgn", "mnist_cgn")
COLOURED = {"release", "results"}  # stages that are made for digits in colour
CLASSIFYING = {"accuracy", "ablation_plan", "classifier_export", "explorer"}


def check_surroundings(parameters: Parameters, data_root: Path, pipeline: Pipeline) -> None:
    """Refuse a run that could not finish; what a stage needs is asked for where the stage is to make something.

    Args:
        parameters: All settings.
        data_root: Where everything is written.
        pipeline: The nodes that will run.

    Raises:
        SettingError: Naming what is missing and what to do.
    """
    stages, made = {tag for node in pipeline.nodes for tag in node.tags}, pipeline.all_outputs()
    prepare, assets = parameters.prepare, parameters.assets
    choose_device(parameters.compute.device)
    check_writable(data_root, 0 if "prune" in stages else MINIMUM_FREE_BYTES)  # what makes space must not need it
    if "student_export" in made:
        check_libraries()
        check_choice("export.students", parameters.export.students, ["run", *released_students()])
    measuring = any(name.endswith(("comparison", "generation_metrics")) for name in made)
    if measuring and parameters.report.generation_metrics.network == "inception":
        inception_path(assets)
    if "feature_network" in made and prepare.given_features is not None:
        read_given_network(prepare.given_features)
    if "teacher" not in made:
        check_estimates(parameters, GeneratorSize(1, 1, _image_size(parameters)), made, data_root)
    num_classes = _check_images(parameters, stages, made)
    if "teacher" in made:
        teacher = _teacher_of(parameters, num_classes)
        generator, students = teacher.generator, parameters.students
        _check_sample(parameters, generator.num_classes, pipeline)
        check_estimates(parameters, GeneratorSize.of(generator), made, data_root)
        for mechanism in MECHANISMS:
            if f"{mechanism}_student" in made:
                size, num_processes = GeneratorSize.of(generator), launched_processes()
                check_distillation(mechanism, size, students[mechanism], parameters.compute, assets, num_processes)
        if "baseline_students" in made:
            has_digits = prepare.given_features is None
            check_baseline(parameters.baseline, teacher, parameters.teacher, assets, has_digits)
        if made & CLASSIFYING and num_classes not in (None, generator.num_classes):
            raise SettingError(
                "teacher",
                f"the {num_classes} classes of the images",
                f"{generator.num_classes} classes",
                "Give images of the teacher's classes, or another teacher.",
            )
        if made & CLASSIFYING:
            _check_names(parameters)
        if "ablation_plan" in made:
            cells = expand_cells(parameters.ablation, students)
            check_possible(cells, generator, parameters.classify.network.by_mechanism)


def _teacher_of(parameters: Parameters, num_classes: int | None) -> IdentifiedTeacher:
    """Return the run's teacher, or one like that which will be made of images of so many classes."""
    if parameters.teacher.name not in MADE_BY_RUN:
        return open_identified_teacher(parameters.teacher, parameters.variant, parameters.assets)
    assert num_classes is not None
    if parameters.teacher.name == CUTOUTS:
        return IdentifiedTeacher(blank_cutouts(num_classes, _image_size(parameters)), {"name": CUTOUTS})
    return untrained_teacher(num_classes, _image_size(parameters))


def _check_names(parameters: Parameters) -> None:
    """Refuse a published or shipped teacher, which paints digits, for images of something else."""
    teacher, images = parameters.teacher, parameters.images
    names = CLASS_NAMES.get(images.source) if images.are_coloured else None
    if teacher.name in DIGIT_TEACHERS and teacher.weights is None and names not in (None, DIGIT_NAMES):
        raise SettingError(
            "teacher.name",
            f"a teacher of {some_of(names)}",
            f"'{teacher.name}', which paints digits",
            "Take teacher.name=trained, or name the weights of one that was trained on such images.",
        )


def _image_size(parameters: Parameters) -> int:
    """Return the height and width of the images of a run."""
    return COLOURED_SIZE if parameters.images.are_coloured else parameters.images.image_size


def absent_inputs(pipeline: Pipeline, catalog: CatalogProtocol, versions: Iterable[str] = ()) -> list[str]:
    """Return what a pipeline reads that nobody has made and that its nodes can do without.

    Args:
        pipeline: The nodes that will run.
        catalog: Where they read.
        versions: Names of datasets whose version is given.

    Raises:
        SettingError: If there is no such version, or a node needs what nobody has made.
    """
    for name in versions:
        if not catalog.exists(name):
            remedy = "Versions are the folders that hold the dataset, such as 2026-01-31T12.00.00.000Z."
            raise SettingError("--load-versions", f"a version of {name} that is there", "another one", remedy)
    absent = [name for name in sorted(pipeline.inputs()) if not catalog.exists(name)]
    for node in pipeline.nodes:
        if missing := [name for name in needed_by(node) if name in absent]:
            expected, remedy = "what an earlier run has kept", f"`kedro run --to-nodes {node.name}` makes it first."
            raise SettingError(f"{missing[0]}, which {node.name} reads", expected, "nothing", remedy)
    return absent


def needed_by(node: Node) -> list[str]:
    """Return the inputs of a node that may not be None, as its function says, in its order."""
    bound = inspect.signature(node.func, follow_wrapped=False).bind(*node.inputs)
    return [
        name
        for argument, names in bound.arguments.items()
        for name in (names if isinstance(names, tuple) else (names,))
        if "None" not in str(bound.signature.parameters[argument].annotation)
    ]


def _check_images(parameters: Parameters, stages: Set[str], made: Set[str]) -> int | None:
    """Refuse images, and classifiers that do not suit them; returns the number of their classes, if there are any."""
    images, network, num_classes = parameters.images, parameters.classify.network, None
    if "biased_images" in made or ("teacher" in made and parameters.teacher.name in MADE_BY_RUN):
        cut_out = "teacher" in made and parameters.teacher.name == CUTOUTS
        cut_out |= "accuracy" in made and CUTOUTS in parameters.classify.trained_on
        source = images, parameters.prepare, parameters.variant, parameters.assets, parameters.seed
        num_classes = check_images(*source, needs_masks=cut_out)
    if num_classes is not None and made & CLASSIFYING:
        # Builds the architecture and reads its weights, the cheapest way to find out whether they fit.
        initial_classifier(network, num_classes, parameters.seed)
    if stages & COLOURED and not images.are_coloured:
        raise SettingError(
            "images.source",
            f"one of {', '.join(BIASED_SOURCES)} for what is made of digits in colour",
            f"'{images.source}' with {', '.join(sorted(stages & COLOURED))}",
            "Choose another stage.",
        )
    return num_classes


def _check_sample(parameters: Parameters, num_classes: int, pipeline: Pipeline) -> None:
    """Refuse classes that the teacher does not know, and shards that there are not."""
    sample = parameters.sample
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
    if others := sorted(node.name for node in pipeline.nodes if "sample" not in node.tags):
        remedy = "Draw ranges by --pipelines sample; run the stages that follow without sample.shard_range."
        raise SettingError("sample.shard_range", "the sample stage alone", f"also '{others[0]}'", remedy)
