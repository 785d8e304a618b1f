"""Nodes of the sample stage."""

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.parameters import Sample, choose_classes
from skdcgn_pipeline.samples.drawing import SampleShards, SamplesRecipe, draw_side_by_side
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher


def draw_teacher_samples(
    run: Run, teacher: IdentifiedTeacher, sample: Sample, class_lists: dict[str, list[int]], heldout: bool = False
) -> SampleShards:
    """Draw the samples that students learn from, or those on other noise, on which students are measured."""
    classes = choose_classes("sample.classes", sample.classes, teacher.generator.num_classes, class_lists)
    recipe = SamplesRecipe(
        teacher.generator,
        teacher.identity,
        sample.num_heldout_per_class if heldout else sample.num_images_per_class,
        sample.rows_per_shard,
        run.seed,
        run.compute,
        "heldout" if heldout else "samples",
        storing=sample,
        classes=classes,
        shard_range=sample.shard_range,
    )
    return draw_side_by_side(run, recipe, teacher.open_again)
