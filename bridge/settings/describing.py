"""The table of all settings: names, defaults and descriptions."""

from collections.abc import Mapping
from typing import NamedTuple

from bridge.settings.settings import Settings, env_name


class SettingInfo(NamedTuple):
    """One setting, as the documentation's table shows it. An empty `default` means that there is none."""

    name: str
    default: str
    description: str


def describe() -> list[SettingInfo]:
    """Returns every setting, in the order of declaration."""
    return [
        SettingInfo(env_name(field), _default_text(info.default), info.description or "")
        for field, info in Settings.model_fields.items()
    ]


def _default_text(default: object) -> str:
    match default:
        case None:
            return ""
        case bool():
            return str(default).lower()
        case float() | int():
            return f"{default:g}" if isinstance(default, float) else str(default)
        case tuple() | frozenset() | Mapping():
            return ",".join(map(_default_text, default))
        case _:
            return str(default)
