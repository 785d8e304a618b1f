"""All parameters together, checked at once before any work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator

from skdcgn_pipeline.parameters.ablation import Ablation
from skdcgn_pipeline.parameters.base import Count, Location, Settings, without_anchors
from skdcgn_pipeline.parameters.baseline import Baseline
from skdcgn_pipeline.parameters.benchmark import Benchmark
from skdcgn_pipeline.parameters.classes import ClassLists
from skdcgn_pipeline.parameters.classify import Classify
from skdcgn_pipeline.parameters.compose import Compose
from skdcgn_pipeline.parameters.compute import Compute
from skdcgn_pipeline.parameters.distill import Distill, MechanismParameters
from skdcgn_pipeline.parameters.engine import EngineSettings
from skdcgn_pipeline.parameters.evaluate import Evaluate
from skdcgn_pipeline.parameters.export import Export
from skdcgn_pipeline.parameters.fetch import Fetch
from skdcgn_pipeline.parameters.images import BIASED_SOURCES, BIASES, NO_IMAGES, Images
from skdcgn_pipeline.parameters.prepare import Prepare
from skdcgn_pipeline.parameters.prune import Prune
from skdcgn_pipeline.parameters.report import Report
from skdcgn_pipeline.parameters.sample import Sample
from skdcgn_pipeline.parameters.teacher import MADE_BY_RUN, Teacher
from skdcgn_pipeline.runtime.errors import SettingError, nearest, told_in_one_line

# What pydantic calls parts of a setting that have no name of their own: a mapping's key, a member of a union.
NO_SETTINGS = ("[key]", "function-", "constrained-", "dict[", "list[", "tuple[")


class Parameters(Settings):
    """All parameters of the project, as `conf/<env>/parameters*.yml` give them.

    Attributes:
        seed: Everything random follows from it.
        name: What runs, cards and registered models are called; null takes the name of the images' folder, of a custom
            teacher's module or file where there are no images, or of source and variant.
        images: What the real images are; with a custom teacher none, unless they are named.
        variant: The bias protocol of digits, MNIST and Fashion-MNIST, and the published teacher of MNIST; of other
            images, a word that results are filed under.
        assets: Folder of MNIST, published teachers and textures.
        class_lists: Lists of class numbers by name, for wherever classes are chosen.
        keep_last: Versions of each dataset that `prune` leaves.
    """

    seed: Annotated[int, Field(ge=0)]
    name: Annotated[Location, Field(pattern=r"^\w[\w-]*$")] | None = None
    images: Images = Images()
    variant: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w-]*$")]  # checked against `images`
    assets: Location
    compute: Compute
    engine: EngineSettings = EngineSettings()
    fetch: Fetch = Fetch()
    class_lists: ClassLists = Field(default={})
    prepare: Prepare
    teacher: Teacher
    sample: Sample
    shape: MechanismParameters
    texture: MechanismParameters
    background: MechanismParameters
    compose: Compose
    classify: Classify
    ablation: Ablation
    baseline: Baseline
    benchmark: Benchmark
    report: Report
    keep_last: Count = 3
    prune: Prune = Prune()
    export: Export = Export()
    evaluate: Evaluate = Evaluate()

    @property
    def students(self) -> dict[str, Distill]:
        """How the student of each mechanism is distilled."""
        return {"shape": self.shape.distill, "texture": self.texture.distill, "background": self.background.distill}

    @property
    def run_name(self) -> str:
        """What runs, cards and registered models are called: `name`, or what follows from images and teacher."""
        if self.name is not None:
            return self.name
        source, variant, teacher = self.images.source.replace(":", "_"), self.variant, self.teacher
        if self.images.folder is not None:
            return _as_name(Path(self.images.folder).expanduser().resolve().name)
        if source == NO_IMAGES:
            module = (teacher.factory or "").partition(":")[0].rpartition(".")[2]
            file = Path(teacher.weights).stem if isinstance(teacher.weights, str) else teacher.name
            return _as_name(module or file)
        if source == "digits":
            return "digits" if variant == "double_colored" else f"{variant}_digits"
        return source if variant == source else f"{variant}_{source}"

    @model_validator(mode="before")
    @classmethod
    def _custom_teachers_paint_no_digits(cls, raw: Any) -> Any:
        """Measure a custom teacher on no images but those that are named."""
        if isinstance(raw, dict) and dict(raw.get("teacher") or {}).get("name") == "custom":
            images = dict(raw.get("images") or {})
            if not any(images.get(name) for name in ("source", "folder", "folders")):
                return raw | {"images": images | {"source": NO_IMAGES}}
        return raw

    @field_validator("variant")
    @classmethod
    def _fits_the_source(cls, value: str, info: ValidationInfo) -> str:
        images = info.data.get("images")
        if images is not None and images.source in BIASED_SOURCES and value not in BIASES:
            raise ValueError(f"expected one of {', '.join(BIASES)}, got {value!r}. {nearest(value, BIASES)}")
        if images is not None and images.source not in (*BIASED_SOURCES, NO_IMAGES) and value in BIASES:
            raise ValueError(
                f"expected any word but the bias protocols of {', '.join(BIASED_SOURCES)}, got {value!r} with "
                f"images.source '{images.source}'"
            )
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Parameters:
        if self.images.source == NO_IMAGES and self.teacher.name in MADE_BY_RUN:
            raise ValueError(f"images.source: teacher.name '{self.teacher.name}' is made of images, got none")
        for mechanism in ("texture", "background"):
            weights = self.students[mechanism].weights.model_dump(exclude={"binary_cross_entropy"})
            if not any(weights.values()):
                raise ValueError(
                    f"{mechanism}.distill.weights: binary_cross_entropy is only for masks; "
                    "at least one other weight must be above 0"
                )
        if self.export.classifier >= self.classify.num_seeds:
            raise ValueError(
                f"export.classifier: expected one below classify.num_seeds, counted from 0, got "
                f"{self.export.classifier} of {self.classify.num_seeds}"
            )
        return self


def _as_name(text: str) -> str:
    """Return a text as a word of letters, digits, _ and -."""
    return re.sub(r"[^\w-]+", "_", text).strip("_-") or "images"


def check_parameters(raw: dict[str, Any]) -> Parameters:
    """Check all parameters at once.

    Args:
        raw: The merged parameters of an environment and the command line.

    Raises:
        SettingError: One message that lists every setting that is wrong.
    """
    try:
        return Parameters.model_validate(without_anchors(raw))
    except ValidationError as error:
        lines = [f"\n  - {_explain(problem)}" for problem in error.errors(include_url=False)]
        raise SettingError(
            "parameters",
            "known settings with possible values",
            f"{len(lines)} problem{'s' if len(lines) > 1 else ''}",
            "Nothing has been run; correct in conf/ or after --params:" + "".join(lines),
        ) from error


def _explain(problem: Any) -> str:
    """Put one problem found by pydantic into words."""
    location = [part for part in problem["loc"] if not str(part).startswith(NO_SETTINGS)]
    name = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        known = _fields_at(location[:-1])
        return f"{name}: unknown setting. {nearest(str(location[-1]), known)}"
    if problem["type"] == "missing":
        return f"{name}: missing, a value is needed"
    if problem["type"] == "literal_error":
        choices = problem["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return (
            f"{name}: expected one of {', '.join(choices)}, got {problem['input']!r}. "
            f"{nearest(str(problem['input']), choices)}"
        )
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] != "value_error":
        message = f"{message} (got {told_in_one_line(repr(problem['input']))})"
    return f"{name}: {message}" if name else message


def _fields_at(location: list[Any]) -> list[str]:
    """Return the names of the settings inside the setting at `location`."""
    model: type[BaseModel] = Parameters
    for part in location:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if field and get_args(annotation):  # tuple[Model, ...]
            annotation = get_args(annotation)[0]
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)
