"""Reads a model of settings from variables, and makes one sentence of each error."""

from collections.abc import Collection, Mapping
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from bridge.core.errors import BadSetting
from bridge.settings import variables
from bridge.settings.variables import Variables

PREFIX: Final = "BRIDGE_"
Model = TypeVar("Model", bound=BaseSettings)


class GivenValues(BaseSettings):
    """A model that takes only the values that it is given. `variables.py` reads the environment and `.env` instead."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  pydantic-settings passes all of these by name
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Returns the given values as the only source."""
        return (init_settings,)


def read_model(model: type[Model], found_variables: Variables, overrides: Mapping[str, Any]) -> Model:
    """Returns the model with the values of its variables. `overrides`, by field name, replace these values.

    Raises BadSetting with a line for each error: first those of variables and files, then those of values.
    """
    fields = {name: field for name, field in _fields_by_name(model).items() if field not in overrides}
    found = variables.find(found_variables, fields)
    sentences = found.errors
    given: dict[str, Any] = {fields[name]: value for name, value in found.values.items()} | dict(overrides)
    try:
        settings = model(**given)
    except ValidationError as error:
        # A rule between settings cannot be checked if one of them could not be read.
        details = [detail for detail in error.errors() if detail["loc"] or not found.errors]
        sentences = [*sentences, *(_sentence(model, detail, found.from_files) for detail in details)]
    if sentences:
        # Outside of `except`: the cause contains the values.
        raise BadSetting("\n".join(sentences)) from None
    return settings


def _sentence(model: type[BaseSettings], detail: ErrorDetails, from_files: Collection[str]) -> str:
    """Returns pydantic's error as `NAME: rule; found value`. The value is omitted if it is from a file or a secret."""
    if not detail["loc"]:
        return str(detail["ctx"]["error"])  # from `_conflicts`: the sentence names the setting
    fields, location = _fields_by_name(model), str(detail["loc"][0])  # the field's name, or its variable's
    name = next((name for name, field in fields.items() if location in {name, field}), location)
    info = model.model_fields[fields[name]]
    rule = str(detail["ctx"]["error"]) if detail["type"] == "value_error" else detail["msg"]
    rule = rule.replace("Input should be", "must be").replace("Extra inputs are", "is")
    shown = info.repr and name not in from_files
    value = f"; found {str(detail['input'])[:100]!r}" if shown else ""
    return f"{name}: {rule}{value}"


def _fields_by_name(model: type[BaseSettings]) -> Mapping[str, str]:
    """Returns the field of each variable, by the variable's name.

    The name is the field's alias, such as AMUX_API_KEY, or BRIDGE_ and the field's name in upper case.
    """
    return {
        info.validation_alias if isinstance(info.validation_alias, str) else PREFIX + field.upper(): field
        for field, info in model.model_fields.items()
    }
