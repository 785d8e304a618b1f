"""What settings of all stages are made of: number types and the model they share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WrapValidator,
    field_validator,
)

from skdcgn_pipeline.runtime.errors import without_credentials
from skdcgn_pipeline.runtime.extensions import is_extension, sha256_of_source

MOST = 10**12  # of anything that is counted; what a machine can hold is estimated where it is known
LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, of what a file system takes


def _countable(number: int) -> int:
    if number > MOST:
        raise ValueError(f"Input should be at most {MOST:,}, got {number}")
    return number


def _can_be_there(path: str) -> str:
    if "\0" in path:
        raise ValueError("Input should be a path, got a NUL in it")
    if (longest := max(len(os.fsencode(name)) for name in path.split("/"))) > LONGEST_NAME:
        raise ValueError(f"Input should be a path with names of at most {LONGEST_NAME} bytes, got one of {longest}")
    if (length := len(os.fsencode(path))) > LONGEST_PATH:
        raise ValueError(f"Input should be a path of at most {LONGEST_PATH:,} bytes, got {length:,}")
    return path


# Of a file or a folder, or of what is found by a name that becomes one.
Location = Annotated[str, AfterValidator(_can_be_there)]
Count = Annotated[int, Field(gt=0), AfterValidator(_countable)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]
# Written down without user and password.
Address = Annotated[str, PlainSerializer(without_credentials)]
# Of a choice that may also be code of the user's own, `module:function`.
EXTENSIBLE = WrapValidator(lambda value, known: value if is_extension(value) else known(value)), PlainSerializer(str)
Precision = Literal["fp32", "bf16"]


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError(f"the lower bound must be below the upper one, got {list(bounds)}")
    return bounds


Bounds = Annotated[tuple[Fraction, Fraction], AfterValidator(_ordered)]


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused.

    Attributes:
        ADDED_LATER: Names of settings that came when there were results already.
        WITHOUT_INFLUENCE: Names of settings that no result depends on.
        EXTENSIONS: Settings that may name code of the user's own, `module:function`, and what that is called with.
    """

    ADDED_LATER: ClassVar[frozenset[str]] = frozenset()
    WITHOUT_INFLUENCE: ClassVar[frozenset[str]] = frozenset()
    EXTENSIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number or a word belongs: Python takes them for 1 and 0."""
        values = value if isinstance(value, list | tuple) else [value]
        annotation = str(cls.model_fields[str(info.field_name)].annotation)
        takes_it = "bool" in annotation or annotation.startswith("typing.Literal")  # which tells its words
        if not takes_it and any(isinstance(one, bool) for one in values):
            raise ValueError(f"Input should be a number or a word, got {value!r}")
        return value

    def identity(self) -> dict[str, Any]:
        """Return what results depend on, JSON-able.

        A setting that came later is left out where it has its default, so that results from before keep
        their identity. Of code of the user's own its source counts.
        """
        own = self.model_dump(mode="json", exclude=set(self.WITHOUT_INFLUENCE))
        for name in list(own):
            value = getattr(self, name)
            if name in self.ADDED_LATER and value == type(self).model_fields[name].default:
                del own[name]
            elif isinstance(value, Settings):
                own[name] = value.identity()
            elif isinstance(value, tuple) and value and isinstance(value[0], Settings):
                own[name] = [each.identity() for each in value]
        if sources := {name: sha256_of_source(setting, name, *takes) for setting, name, takes in self._extensions()}:
            own["sources"] = sources
        return own

    def _extensions(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """Yield setting, `module:function` and arguments of every extension that these settings themselves name."""
        for setting, arguments in self.EXTENSIONS.items():
            value = getattr(self, setting)
            for name in [value] if isinstance(value, str) else value or ():
                if is_extension(name):
                    yield setting, name, arguments

    def extensions(self, prefix: str = "") -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """Yield the same of these settings and of all within, with dotted names of the settings."""
        yield from ((f"{prefix}{setting}", name, arguments) for setting, name, arguments in self._extensions())
        for name, value in self:
            parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple) else ()
            for key, part in [("", value), *parts]:
                if isinstance(part, Settings):
                    yield from part.extensions(f"{prefix}{name}{f'.{key}' if key != '' else ''}.")

    def __str__(self) -> str:
        return self.model_dump_json()


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names, as they may be shown: without passwords in addresses."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Settings):
            value = value.model_dump(mode="json")
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = without_credentials(value)
    return flat


def without_anchors(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as the configuration gives them, but for keys with a leading underscore: YAML anchors."""
    return {key: value for key, value in raw.items() if not key.startswith("_")}
