"""The words that settings, tables and code share; imports nothing heavy, so that settings are checked fast."""

from __future__ import annotations

MECHANISMS = ("shape", "texture", "background")
IMAGE_OF_MECHANISM = {"shape": "mask", "texture": "foreground", "background": "background"}
CHANNELS_OF_MECHANISM = {"shape": 1, "texture": 3, "background": 3}
# Whose images tables and pictures show: distilled students, or the control without distillation.
STUDENTS, BASELINE = "students", "baseline"
# What is made of images and their masks alone: a teacher, and a training set beside those of generators.
CUTOUTS = "cutouts"
# The stages that lead to classifiers, as data flows; the others are run by name alone.
CHAIN = ("prepare", "teacher", "sample", "distill", "compose", "classify")
# Of nodes, beside their stage: a run of nothing else is not kept in MLflow.
PLAN_TAG = "plan"
# The finished image, for a student that knows no mechanisms.
COMPOSITE = "composite"


def channels_of(image: str) -> int:
    """Return the channels of a mechanism's image, or of `COMPOSITE`."""
    return 3 if image == COMPOSITE else CHANNELS_OF_MECHANISM[image]


RUNNERS = ("SequentialRunner", "ThreadRunner")  # of Kedro; what nodes share cannot go to other processes
