"""The whole method on one screen: from biased images to a classifier that looks at the shape.

Everything is kept in a store, so that a second run reads what the first one made. The pipelines do the same with
settings from files, more pictures and tables: see the README. Try it: `python -m skdcgn_pipeline.method`.
"""

from __future__ import annotations

from pathlib import Path

from skdcgn_pipeline.artifacts.recipe import Store
from skdcgn_pipeline.classifiers.accuracy import measure_accuracy
from skdcgn_pipeline.classifiers.training import fit_classifier
from skdcgn_pipeline.counterfactuals.pools import CounterfactualsRecipe
from skdcgn_pipeline.images.batches import draw_from_images
from skdcgn_pipeline.images.recipes import BiasedImagesRecipe
from skdcgn_pipeline.parameters import ClassifierFit, Composition, Compute, Distill, TeacherFit
from skdcgn_pipeline.samples.drawing import SamplesRecipe
from skdcgn_pipeline.students.recipes import StudentRecipe, StudentsRecipe
from skdcgn_pipeline.teachers.teacher import open_trained_teacher
from skdcgn_pipeline.teachers.training import TeacherRecipe
from skdcgn_pipeline.vocabulary import MECHANISMS


def run_method(folder: Path, effort: int = 1000, seed: int = 0) -> float:
    """Run the method on scikit-learn's digits.

    Args:
        folder: Where everything is kept that is made.
        effort: Steps of each training; images and samples in proportion.
        seed: Base seed of every random choice.

    Returns:
        Accuracy in [0, 1] on test images, whose colours say nothing about the digit.
    """
    store, compute = Store(folder), Compute(device="cpu")

    # Images with a bias: in training, the colours of a digit and of what is behind it give it away.
    images = store.make(BiasedImagesRecipe("digits", "double_colored", seed=seed, binarise_threshold=0.5))

    # The teacher: a counterfactual generative network with a generator for each mechanism.
    style = ClassifierFit(num_images=8 * effort)
    trained = store.make(TeacherRecipe(images, TeacherFit(num_images=16 * effort), style, seed, compute))
    teacher = open_trained_teacher(trained)

    # What it makes of noise and classes: all that the students ever see of it.
    per_class = max(2, effort // 10)
    samples = store.make(SamplesRecipe(teacher.generator, teacher.identity, per_class, 1000, seed, compute))

    # A tiny student for each mechanism, put together behind the teacher's interface.
    distil = Distill(num_steps=effort)
    distilled = {name: store.make(StudentRecipe(name, samples, distil, seed, compute)) for name in MECHANISMS}
    students = store.make(StudentsRecipe(distilled))

    # Counterfactuals: shape, texture and background of classes of their own.
    identity = {"students": students.artifact.identity}
    pool = store.make(SamplesRecipe(students.open(), identity, per_class, 1000, seed, compute, purpose="pool"))
    counterfactuals = store.make(CounterfactualsRecipe(pool, Composition(), 20 * effort, 5000, seed))

    # A classifier that learns from them, labelled by their shape, cannot rely on colour.
    pictures, labels = counterfactuals.read_labelled()
    draw_batch = draw_from_images(pictures, labels[:, 0], seed, "method")
    fit = ClassifierFit(num_images=128 * effort)
    classifier, _ = fit_classifier(draw_batch, fit, seed, compute, num_classes=images.num_classes)
    return measure_accuracy(classifier, images.split("test"), compute)[0]["accuracy"]  # type: ignore[return-value]


if __name__ == "__main__":
    print(f"accuracy on test images: {run_method(Path('data/method')):.1%}")  # noqa: T201
