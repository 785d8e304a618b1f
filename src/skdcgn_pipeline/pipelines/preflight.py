"""What is checked before any work: device, disk, assets, folders of images, teacher and what is drawn from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from pathlib import Path

from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from skdcgn_pipeline.artifacts.store import check_writable
from skdcgn_pipeline.classifiers.feature_network import read_given_network
from skdcgn_pipeline.classifiers.training import initial_classifier
from skdcgn_pipeline.images.grey import CLASS_NAMES, DIGIT_NAMES
from skdcgn_pipeline.images.listing import some_of
from skdcgn_pipeline.images.recipes import check_images, image_size_of
from skdcgn_pipeline.mechanisms import CounterfactualGenerator
from skdcgn_pipeline.metrics.features import inception_path
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.networks.programs import check_libraries
from skdcgn_pipeline.parameters import BIASED_SOURCES, MADE_BY_RUN, Parameters, choose_classes
from skdcgn_pipeline.pipelines.binding import needed_by
from skdcgn_pipeline.pipelines.estimates import check_estimates, check_number
from skdcgn_pipeline.runtime.compute import choose_device
from skdcgn_pipeline.runtime.errors import SettingError, check_choice
from skdcgn_pipeline.runtime.extensions import resolve
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
CLASSIFYING = {"accuracy", "ablation_plan", "counterfactual_quality", "classifier_export", "explorer"}


def check_surroundings(parameters: Parameters, data_root: Path, pipeline: Pipeline) -> None:
    """Refuse a run that could not finish; what a stage needs is asked for where the stage is to make something.

    Args:
        data_root: Where everything is written.
        pipeline: The nodes that will run.

    Raises:
        SettingError: Naming what is missing and what to do.
    """
    stages, made = {tag for node in pipeline.nodes for tag in node.tags}, pipeline.all_outputs()
    prepare, assets = parameters.prepare, parameters.assets
    for setting, name, arguments in parameters.extensions():
        resolve(setting, name, *arguments)
    choose_device(parameters.compute.device)
    check_writable(data_root, 0 if "prune" in stages else MINIMUM_FREE_BYTES)  # what makes space must not need it
    if "student_export" in made:
        check_libraries()
        check_choice("export.students", parameters.export.students, ["run", *released_students()])
    if "ablation_plan" in made:
        cells = expand_cells(parameters.ablation, parameters.students)
        check_number("ablation.num_seeds", parameters.ablation.num_seeds, len(cells))
    measuring = any(name.endswith(("comparison", "generation_metrics")) for name in made)
    if measuring and parameters.report.generation_metrics.network == "inception":
        inception_path(assets)
    if "feature_network" in made and prepare.given_features is not None:
        read_given_network(prepare.given_features)
    if "teacher" not in made:
        check_estimates(parameters, GeneratorSize(1, 1, image_size_of(parameters.images)), made, data_root)
    class_names = _check_images(parameters, stages, made)
    if "teacher" in made:
        teacher = _teacher_of(parameters, len(class_names))
        generator, students = teacher.generator, parameters.students
        _check_sample(parameters, generator.num_classes, pipeline)
        check_estimates(parameters, GeneratorSize.of(generator), made, data_root)
        for mechanism in MECHANISMS:
            if f"{mechanism}_student" in made:
                size, num_processes = GeneratorSize.of(generator), launched_processes()
                check_distillation(mechanism, size, students[mechanism], parameters.compute, assets, num_processes)
        if "baseline_students" in made:
            has_digits = prepare.given_features is None and bool(class_names)
            check_baseline(parameters.baseline, teacher, parameters.teacher, assets, has_digits)
        _check_what_is_painted(parameters, generator, class_names, made)
        if made & CLASSIFYING:
            _check_names(parameters)
        if "ablation_plan" in made:
            check_possible(cells, generator, parameters.classify.network.by_mechanism, parameters.images.are_coloured)


def _check_what_is_painted(
    parameters: Parameters, generator: CounterfactualGenerator, class_names: Sequence[str], made: Set[str]
) -> None:
    """Refuse images of other classes or another size than the teacher's, where one is measured by the other."""
    trains_features = "feature_network" in made and parameters.prepare.given_features is None
    if not class_names or not (trains_features or made & CLASSIFYING):
        return
    size, painted = image_size_of(parameters.images), generator.image_size
    if parameters.classify.network.augments and not trains_features:
        size = painted  # counterfactuals are cropped to the images' size
    names = tuple(getattr(generator, "class_names", None) or class_names)
    if (len(class_names), size) == (generator.num_classes, painted) and names == tuple(class_names):
        return
    expected = f"the {generator.num_classes} classes of the teacher at {painted} pixels"
    got = f"{len(class_names)} classes ({some_of(class_names)}) at {size} pixels"
    remedy = (
        "Give images of what the teacher paints (images.folder, images.image_size); or none, with images.source=none: "
        "what needs none goes on."
    )
    raise SettingError("images", expected, got, remedy)


def _teacher_of(parameters: Parameters, num_classes: int) -> IdentifiedTeacher:
    """Return the run's teacher, or one like that which will be made of images of so many classes."""
    if parameters.teacher.name not in MADE_BY_RUN:
        return open_identified_teacher(parameters.teacher, parameters.variant, parameters.assets)
    if parameters.teacher.name == CUTOUTS:
        return IdentifiedTeacher(blank_cutouts(num_classes, image_size_of(parameters.images)), {"name": CUTOUTS})
    return untrained_teacher(num_classes, image_size_of(parameters.images))


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


def absent_inputs(
    pipeline: Pipeline, catalog: CatalogProtocol, versions: Iterable[str] = (), foreign: Set[str] = frozenset()
) -> list[str]:
    """Return what a pipeline reads that nobody has made and that its nodes can do without.

    Args:
        pipeline: The nodes that will run.
        catalog: Where they read.
        versions: Names of datasets whose version is given.
        foreign: Datasets that this run cannot make; what is there of them belongs to other runs.

    Raises:
        SettingError: If there is no such version, or a node needs what nobody has made.
    """
    for name in versions:
        if not catalog.exists(name):
            remedy = "Versions are the folders that hold the dataset, such as 2026-01-31T12.00.00.000Z."
            raise SettingError("--load-versions", f"a version of {name} that is there", "another one", remedy)
    absent = [name for name in sorted(pipeline.inputs()) if name in foreign or not catalog.exists(name)]
    for node in pipeline.nodes:
        if missing := [name for name in needed_by(node) if name in absent]:
            expected, remedy = "what an earlier run has kept", f"`kedro run --to-nodes {node.name}` makes it first."
            raise SettingError(f"{missing[0]}, which {node.name} reads", expected, "nothing", remedy)
    return absent


def _check_images(parameters: Parameters, stages: Set[str], made: Set[str]) -> tuple[str, ...]:
    """Refuse images, and classifiers that do not suit them; returns their classes, none where there are no images."""
    images, network = parameters.images, parameters.classify.network
    names: tuple[str, ...] = ()
    if "biased_images" in made or ("teacher" in made and parameters.teacher.name in MADE_BY_RUN):
        cut_out = "teacher" in made and parameters.teacher.name == CUTOUTS
        cut_out |= "accuracy" in made and CUTOUTS in parameters.classify.trained_on
        source = images, parameters.prepare, parameters.variant, parameters.assets, parameters.seed
        names = check_images(*source, needs_masks=cut_out)
    if names and made & CLASSIFYING:
        # Builds the architecture and reads its weights, the cheapest way to find out whether they fit.
        initial_classifier(network, len(names), parameters.seed)
    if stages & COLOURED and not images.are_coloured:
        raise SettingError(
            "images.source",
            f"one of {', '.join(BIASED_SOURCES)} for what is made of digits in colour",
            f"'{images.source}' with {', '.join(sorted(stages & COLOURED))}",
            "Choose another stage.",
        )
    return names


def _check_sample(parameters: Parameters, num_classes: int, pipeline: Pipeline) -> None:
    """Refuse classes that the teacher does not know, and shards that there are not."""
    sample = parameters.sample
    classes = choose_classes("sample.classes", sample.classes, num_classes, parameters.class_lists)
    parameters.compose.resolved(num_classes, parameters.class_lists)
    parameters.compose.interpolation.ends(num_classes)
    if sample.shard_range is None:
        return
    num_rows = sample.num_images_per_class * (num_classes if classes is None else len(classes))
    num_shards = -(-num_rows // sample.rows_per_shard)
    if sample.shard_range[1] > num_shards:
        remedy = "Give ranges that cover these, such as halves of them."
        got = list(sample.shard_range)
        raise SettingError("sample.shard_range", f"a range within the {num_shards} shards there are", got, remedy)
    if others := sorted(node.name for node in pipeline.nodes if "sample" not in node.tags):
        remedy = "Draw ranges by --pipelines sample; run the stages that follow without sample.shard_range."
        raise SettingError("sample.shard_range", "the sample stage alone", f"also '{others[0]}'", remedy)
