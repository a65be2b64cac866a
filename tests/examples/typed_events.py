"""Makes examples/receivers/events.py and events.ts from the bridge's own models of events.

`python -m tests.examples.typed_events` writes both files.
"""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from pydantic import TypeAdapter

from bridge.web.api.response_models import (
    ErrorBody,
    EventBody,
    EventData,
    Metadata,
    NoticeBody,
    NoticeData,
    PingBody,
    PingData,
)
from tests.examples.harness import EXAMPLES, ROOT

PYTHON, TYPESCRIPT = EXAMPLES / "receivers/events.py", EXAMPLES / "receivers/events.ts"
# Maps models to the names that receivers see; the OpenAPI document has the models' own names. Parts come first.
MODELS: Mapping[Any, str] = {
    Metadata: "Metadata",
    ErrorBody: "EventError",
    EventData: "VideoData",
    EventBody: "VideoEvent",
    PingData: "PingData",
    PingBody: "PingEvent",
    NoticeData: "NoticeData",
    NoticeBody: "NoticeEvent",
}
EVENTS = ("VideoEvent", "PingEvent", "NoticeEvent")
ABOUT = "The events that a receiver gets, as types. Made from the bridge's own models; do not edit."
UNION = "Any event. Its `type` says which one it is."


class Field(NamedTuple):
    """A field of a type, with its type in the language and its description."""

    name: str
    kind: str
    description: str


class Type(NamedTuple):
    """A type with its fields."""

    name: str
    description: str
    fields: list[Field]


class Language:
    """Writes JSON Schemas as types."""

    names: ClassVar[Mapping[str, str]]  # maps JSON's simple types to types of the language

    def __init__(self) -> None:
        models = [(model, "validation", TypeAdapter(model)) for model in MODELS]
        _, found = TypeAdapter.json_schemas(models)  # type: ignore[arg-type]
        self.schemas: dict[str, Any] = found["$defs"]

    def types(self) -> list[Type]:
        return [self._type(model.__name__, name) for model, name in MODELS.items()]

    def _type(self, schema_name: str, name: str) -> Type:
        schema = self.schemas[schema_name]
        fields = [
            Field(key, self.kind(one), one.get("description", "")) for key, one in schema.get("properties", {}).items()
        ]
        return Type(name, schema["description"], fields)

    def kind(self, schema: Mapping[str, Any]) -> str:
        """Returns the type of a schema in the language."""
        if reference := schema.get("$ref"):
            return self._reference(reference.rpartition("/")[2])
        if "const" in schema or "enum" in schema:
            return self.literal(schema.get("enum", [schema.get("const")]))
        types = schema.get("type")
        choices = [{"type": one} for one in types] if isinstance(types, list) else schema.get("anyOf")
        if choices is not None:
            return " | ".join(dict.fromkeys(self.kind(one) for one in choices))
        return self.array(self.kind(schema["items"])) if types == "array" else self.names[str(types)]

    def _reference(self, name: str) -> str:
        own = {model.__name__: shown for model, shown in MODELS.items()}
        return own[name] if name in own else self.kind(self.schemas[name])

    def literal(self, values: list[Any]) -> str:
        raise NotImplementedError

    def array(self, kind: str) -> str:
        raise NotImplementedError

    def file(self) -> str:
        """Returns the text of the whole file."""
        raise NotImplementedError


class Python(Language):
    """Writes the types as TypedDicts."""

    names: ClassVar[Mapping[str, str]] = {
        "string": "str",
        "number": "float",
        "integer": "int",
        "boolean": "bool",
        "object": "dict[str, Any]",
        "null": "None",
    }

    def literal(self, values: list[Any]) -> str:
        return f"Literal[{', '.join(f'{chr(34)}{one}{chr(34)}' for one in values)}]"

    def array(self, kind: str) -> str:
        return f"list[{kind}]"

    def file(self) -> str:
        parts = [f'"""{ABOUT}"""\n\nfrom typing import Any, Literal, TypeAlias, TypedDict']
        for made in self.types():
            lines = [f'class {made.name}(TypedDict):\n    """{made.description}"""\n']
            for field in made.fields:
                kind = field.kind
                if len(kind) > 90 and kind.startswith("Literal["):
                    inner = kind.removeprefix("Literal[").removesuffix("]").replace(", ", ",\n        ")
                    kind = f"Literal[\n        {inner},\n    ]"
                note = f"  # {field.description}" if field.description else ""
                lines.append(f"    {field.name}: {kind}{note}")
            parts.append("\n".join(lines))
        parts.append(f'Event: TypeAlias = {" | ".join(EVENTS)}\n"""{UNION}"""')
        text = "\n\n".join(f"{part}\n" for part in parts)
        ruff = (sys.executable, "-m", "ruff", "format", "--config", str(ROOT / "pyproject.toml"), "-")
        return subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout


class TypeScript(Language):
    """Writes the types as interfaces. The field `type` distinguishes the members of the union."""

    names: ClassVar[Mapping[str, str]] = {
        "string": "string",
        "number": "number",
        "integer": "number",
        "boolean": "boolean",
        "object": "Record<string, unknown>",
        "null": "null",
    }

    def literal(self, values: list[Any]) -> str:
        return " | ".join(f'"{one}"' for one in values)

    def array(self, kind: str) -> str:
        return f"({kind})[]" if " " in kind else f"{kind}[]"

    def file(self) -> str:
        parts = [f"// {ABOUT}\n"]
        for made in self.types():
            lines = [f"/** {made.description} */\nexport interface {made.name} {{"]
            for field in made.fields:
                note = f"  /** {field.description} */\n" if field.description else ""
                lines.append(f"{note}  {field.name}: {field.kind};")
            parts.append("\n".join([*lines, "}\n"]))
        parts.append(f"/** {UNION} */\nexport type Event = {' | '.join(EVENTS)};\n")
        return "\n".join(parts)


def write() -> None:
    for path, language in ((PYTHON, Python()), (TYPESCRIPT, TypeScript())):
        path.write_text(language.file(), "utf-8")
        sys.stdout.write(f"wrote {path.name}\n")


if __name__ == "__main__":
    write()
