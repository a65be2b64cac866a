"""Puts a bug into the source of the bridge, for one process."""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a module's text: `old`, which occurs once, becomes `new`."""

    module: str
    old: str
    new: str

    @property
    def path(self) -> Path:
        """The file of the module."""
        return ROOT / f"{self.module.replace('.', '/')}.py"


class Mutation:
    """A planted bug. The simulation finds it within the first `seeds` seeds.

    It has several changes where one check covers another: each change alone does no harm, but all together do.
    """

    def __init__(self, name: str, seeds: int, *changes: Change) -> None:
        self.name = name
        self.seeds = seeds
        self.changes = changes


class _MutatedLoader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, changes: Sequence[Change]) -> None:
        super().__init__(changes[0].module, str(changes[0].path))
        self._mutation = name
        self._changes = changes

    def get_code(self, fullname: str) -> object:  # type: ignore[override]
        path = self._changes[0].path
        source = path.read_text()
        for change in self._changes:
            if source.count(change.old) != 1:
                raise ImportError(f"{self._mutation}: the text to change is there {source.count(change.old)} times")
            source = source.replace(change.old, change.new)
        return compile(source, str(path), "exec")


class _Finder:
    """Finds the modules that are changed."""

    def __init__(self, mutation: Mutation) -> None:
        self._mutation = mutation

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        changes = [one for one in self._mutation.changes if one.module == name]
        if not changes:
            return None
        loader = _MutatedLoader(self._mutation.name, changes)
        return importlib.util.spec_from_file_location(name, changes[0].path, loader=loader)


def plant(mutation: Mutation) -> None:
    """Change the source of the bridge for this process. Call it before the bridge is imported."""
    sys.meta_path.insert(0, _Finder(mutation))
