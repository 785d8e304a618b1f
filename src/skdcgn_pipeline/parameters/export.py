"""Settings of the `export` stage."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator

from skdcgn_pipeline.parameters.base import Location, Settings


class Export(Settings):
    """What the `export` pipeline takes away and under which name MLflow registers it.

    Attributes:
        students: `run` takes the students of these settings; a released name, such as `wildlife_mnist`, those
            that come with the package.
        bits: Of each weight of the students, 3 to 8: 7 make a file of a quarter of the size (`docs/releases.md`); null
            keeps float32.
        classifier: Number of the classifier trained on the students' counterfactuals, counted from 0 like the
            seeds of `classify`.
        register_as: Registered models are called `<register_as>_students_<name>` and
            `<register_as>_classifier_<name>`.
        alias: Given to the version that is registered, unless the one that has it is better: students by the L1 to
            the teacher on held-out samples, classifiers by the accuracy on the validation split.
    """

    students: Location = "run"
    bits: Annotated[int, Field(ge=3, le=8)] | None = None
    classifier: Annotated[int, Field(ge=0)] = 0
    register_as: Annotated[Location, Field(pattern=r"^[A-Za-z0-9][\w-]*$")] = "skdcgn"
    alias: Location = "champion"

    @field_validator("alias")
    @classmethod
    def _alias_is_free(cls, value: str) -> str:
        # MLflow keeps `latest` and v1, v2 ... for itself.
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", value) or re.fullmatch(r"latest|v\d+", value.lower()):
            raise ValueError(f"needs letters, digits, _ or -, not 'latest' nor a version like v1, got {value!r}")
        return value
