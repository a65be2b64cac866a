"""The variables that settings are read from: the environment, a `.env` file, and the files that `NAME_FILE` names.

A variable with an empty value counts as not set. The environment has precedence over `.env`. White space around a
value, and one pair of quotes around a whole value, are removed: `docker --env-file` keeps quotes, and a secret that was
made with `echo` has a line end.
"""

import difflib
import io
import logging
import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dotenv import dotenv_values

from bridge.core.errors import BadSetting

PREFIXES: Final = ("BRIDGE_", "AMUX_")
FILE_SUFFIX: Final = "_FILE"
_DOTENV_LOG = logging.getLogger("dotenv.main")
_MAX_FILE_BYTES: Final = 1_048_576  # far more than any setting; a device file has no end
_LOOKS_SECRET: Final = ("TOKEN", "KEY", "SECRET")
_MISSPELLED: Final = 0.915  # difflib's ratio: 0.917 for AMUX_API_KYE; longer names can differ in more letters
_PATH_OF_A_KEY: Final = "CALLBACK_CLIENT_KEY"  # if this name is misspelled, the API still requires its tokens
# Variables that Kubernetes sets in each container for each Service of its namespace.
_SERVICE_LINK = re.compile(
    r"[A-Z0-9_]+_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)
_LINK_VALUE = re.compile(r"(?:tcp|udp|sctp)://.+")


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables whose names begin with BRIDGE_ or AMUX_, by their names in upper case. Values are not cleaned yet.

    `unreadable` says why the `.env` file, or a part of it, is not used; None if all of it is used.
    """

    environ: Mapping[str, str]
    dotenv: Mapping[str, str] = field(default_factory=dict)
    unreadable: str | None = None

    @property
    def names(self) -> set[str]:
        """Every name that the environment or the file has."""
        return {*self.environ, *self.dotenv}

    def get(self, name: str) -> str | None:
        """Returns the variable's cleaned value from the environment, else from `.env`. None if it is not set."""
        for source in (self.environ, self.dotenv):
            if (value := source.get(name)) and (text := cleaned(value)) is not None:
                return text
        return None


@dataclass(frozen=True, slots=True)
class Found:
    """The values of settings, by name, and a sentence for each error in `errors`.

    `from_files` are the names whose value comes from a file.
    """

    values: Mapping[str, str]
    from_files: Collection[str]
    errors: list[str]


def read_variables(env_file: str | Path | None) -> Variables:
    """Returns the variables of this process and of `env_file`. Raises BadSetting for a file that is not UTF-8."""
    environ = _ours(os.environ)
    if env_file is None:
        return Variables(environ)
    try:
        kind = Path(env_file).stat().st_mode
        if stat.S_ISDIR(kind):  # a container engine makes a folder if a file to mount does not exist
            return Variables(environ, unreadable=f"{env_file} is a folder and is not read")
        text = Path(env_file).read_text("utf-8-sig") if stat.S_ISREG(kind) else ""
    except (FileNotFoundError, NotADirectoryError):
        return Variables(environ)
    except UnicodeDecodeError:
        raise BadSetting(f"{env_file}: cannot be read: it is not UTF-8") from None
    except OSError as error:
        return Variables(environ, unreadable=f"{env_file} cannot be read and is not used: {error.strerror}")
    malformed = _MalformedLines()
    _DOTENV_LOG.addFilter(malformed)
    try:
        lines = dotenv_values(stream=io.StringIO(text))
    finally:
        _DOTENV_LOG.removeFilter(malformed)
    found = _ours({name: value for name, value in lines.items() if value is not None})
    return Variables(environ, found, malformed.sentence(env_file))


class _MalformedLines(logging.Filter):
    """Collects the warnings of python-dotenv and keeps them out of the log. Their argument is a line number."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self._lines += map(str, record.args or ())
        return False

    def sentence(self, env_file: str | Path) -> str | None:
        """Returns a warning about the file; None if all its lines could be parsed."""
        if not self._lines:
            return None
        return f"{env_file} has lines that cannot be parsed and are not used: line {', '.join(self._lines)}"


def of_environment(environ: Mapping[str, str]) -> Variables:
    """Returns the variables of another environment, without a file."""
    return Variables(_ours(environ))


def _ours(variables: Mapping[str, str]) -> dict[str, str]:
    found = {name.upper(): value for name, value in variables.items() if name.upper().startswith(PREFIXES)}
    return found | {name: variables[name] for name in found if name in variables}  # upper case has precedence


def cleaned(value: str) -> str | None:
    """Returns a value without surrounding white space and without one pair of quotes. None for an empty `""`."""
    text = value.strip()
    quote = text[:1]
    if len(text) >= 2 and quote in {'"', "'"} and text[-1] == quote and quote not in text[1:-1]:
        return text[1:-1].strip() or None
    return text


def find(variables: Variables, names: Collection[str]) -> Found:
    """Returns the values of the settings `names`, each from its variable or from the file that `NAME_FILE` names."""
    values: dict[str, str] = {}
    from_files: set[str] = set()
    errors: list[str] = []
    for name in names:
        value, file_name = variables.get(name), name + FILE_SUFFIX
        path = None if file_name in names else variables.get(file_name)
        if path and value is not None:
            errors.append(f"{file_name}: must not be set together with {name}")
        elif path:
            try:
                values[name] = _read_file(path)
            except ValueError as error:
                errors.append(f"{file_name}: {error}")
            else:
                from_files.add(name)
        elif value is not None and name.endswith("_PORT") and _LINK_VALUE.fullmatch(value):
            errors.append(_link_sentence(name, value))
        elif value is not None:
            values[name] = value
    return Found(values, from_files, errors)


def _read_file(path: str) -> str:
    """Returns a file's text. Raises ValueError with the rule, which never repeats the text."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"the file {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ValueError("is not the path of a file") from None
    if len(content) > _MAX_FILE_BYTES:
        raise ValueError(f"the file {path} is larger than 1 MiB")
    try:
        text = cleaned(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError(f"the file {path} is not UTF-8") from None
    if not text:
        raise ValueError(f"the file {path} is empty")
    return text


def _link_sentence(name: str, value: str) -> str:
    service = name.removesuffix("_PORT").lower().replace("_", "-")
    return (
        f'{name}: {value[:100]!r} is what Kubernetes sets for a Service named "{service}", not a port; '
        f"set {name} for the container, or set enableServiceLinks: false for the pod"
    )


# --- names that are not settings ----------------------------------------------------------------------------------


def unknown(variables: Variables, names: Collection[str]) -> list[str]:
    """Returns, sorted, the names that are no settings, no setting's `NAME_FILE` and no service links of Kubernetes."""
    known = with_files(names)
    return sorted(name for name in variables.names if name not in known and not _SERVICE_LINK.fullmatch(name))


def with_files(names: Iterable[str]) -> set[str]:
    """Returns the names and the `NAME_FILE` of each."""
    return {each for name in names for each in (name, name + FILE_SUFFIX)}


def looks_secret(name: str, names: Collection[str]) -> bool:
    """Returns whether an unknown variable is most likely meant for a secret, such as the bridge's tokens.

    Then its name contains a word such as TOKEN, or is a misspelled name with such a word: BRIDGE_TOKNES.
    """
    if any(word in name for word in _LOOKS_SECRET):
        return True
    near = nearest(name, names)
    is_near = difflib.SequenceMatcher(None, name, near).ratio() >= _MISSPELLED and _PATH_OF_A_KEY not in near
    return is_near and any(word in near for word in _LOOKS_SECRET)


def nearest(name: str, names: Collection[str]) -> str:
    """Returns the known name that is most similar to an unknown one."""
    candidates = sorted(with_files(names) if name.endswith(FILE_SUFFIX) else names)
    return difflib.get_close_matches(name, candidates, n=1, cutoff=0.0)[0]


def differing(variables: Variables, names: Collection[str]) -> list[str]:
    """Returns the settings with different values in the environment and in `.env`, in the order of `names`."""

    def differ(name: str) -> bool:
        first, second = (cleaned(source.get(name, "")) for source in (variables.environ, variables.dotenv))
        return bool(first and second and first != second)

    return [name for name in names if differ(name) or differ(name + FILE_SUFFIX)]
