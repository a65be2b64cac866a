"""Finds what the user may have meant by a command, an option or a value that does not exist. Pure."""

import difflib
from collections.abc import Callable, Collection, Mapping
from typing import Final

_CLOSE: Final = 0.6  # similarity from 0 to 1: difflib's own default
_VERY_CLOSE: Final = 0.85  # for names of settings: there are more than 50, and many are similar

_COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "--help": ("help", "man", "usage"),
    "--version": ("version", "about"),
    "backup": ("copy", "dump", "snapshot"),
    "cancel": ("abort", "delete", "del", "kill", "remove", "rm", "stop", "unwatch"),
    "check": ("config", "configtest", "doctor", "settings", "validate", "verify"),
    "completion": ("complete", "completions", "shell"),
    "events": ("feed", "history", "tail"),
    "healthy": ("health", "healthcheck", "live", "probe", "ready"),
    "list": ("find", "ls", "ps", "search", "watches"),
    "listen": ("receive", "receiver", "tunnel"),
    "ping": ("test", "trigger"),
    "retry": ("redeliver", "redrive", "replay", "resend"),
    "secret": ("key", "keys", "rotate", "secrets"),
    "serve": ("daemon", "run", "server", "start", "up"),
    "show": ("describe", "get", "info", "inspect", "read", "status", "view"),
    "watch": ("add", "create", "new", "register", "submit", "track"),
}
_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "--callback": ("hook", "url", "webhook", "webhook-url"),
    "--json": ("format", "o", "output", "raw"),
    "--limit": ("max", "n", "page-size"),
    "--overwrite": ("f", "force", "y", "yes"),
    "--state": ("status",),
    "--task": ("id", "t"),
    "--wait": ("f", "follow", "w"),
}
# Names of options of other programs, by the environment variable that has the same purpose here.
_BRIDGE: Final[Mapping[str, tuple[str, ...]]] = {
    "BRIDGE_URL": ("address", "api", "base-url", "bridge", "endpoint", "host", "p", "port", "server", "u", "url"),
    "BRIDGE_TOKEN": ("auth", "authorization", "bearer", "password", "token"),
}
_SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "AMUX_API_KEY": ("key",),
    "AMUX_BASE_URL": ("amux", "upstream", "upstream-url"),
    "BRIDGE_CALLBACK_ALLOW_NETWORKS": ("allow", "allow-loopback", "allow-private", "insecure"),
    "BRIDGE_CALLBACK_PROXY": ("proxy",),
    "BRIDGE_DATABASE_URL": ("data", "data-dir", "database", "db", "db-url", "dsn", "sqlite", "store"),
    "BRIDGE_DELIVERY_CONCURRENCY": ("concurrency", "threads", "workers"),
    "BRIDGE_DELIVERY_RETRY_DELAYS_SECONDS": ("max-retries", "retries", "retry"),
    "BRIDGE_HOST": ("address", "b", "bind", "interface", "listen"),
    "BRIDGE_LOG_FORMAT": ("json", "json-logs", "log-json"),
    "BRIDGE_LOG_LEVEL": ("debug", "log", "loglevel", "q", "quiet", "v", "verbose"),
    "BRIDGE_METRICS_PORT": ("metrics",),
    "BRIDGE_POLL_INTERVAL_SECONDS": ("interval", "poll", "poll-interval"),
    "BRIDGE_PORT": ("p",),
    "BRIDGE_PUBLIC_URL": ("base-url", "external-url", "url"),
    "BRIDGE_RETENTION_SECONDS": ("keep", "ttl"),
    "BRIDGE_SIGNING_SECRETS": ("secret", "secrets", "signing-secret", "webhook-secret"),
    "BRIDGE_TOKENS": ("api-token", "auth", "token"),
    "BRIDGE_WATCH_TIMEOUT_SECONDS": ("timeout", "watch-timeout"),
}
_SETTINGS_FILE: Final = ("c", "conf", "config", "config-file", "dotenv", "env", "env-file", "settings")


def unknown_command(name: str, commands: Collection[str]) -> str:
    """Returns the sentence for a command that does not exist."""
    meant = _synonym(name, _COMMANDS, {*commands, "--help", "--version"}) or _closest(name.lower(), commands, _CLOSE)
    return f"there is no command {name!r}{_question(meant)}"


def unknown_choice(value: object, choices: Collection[str]) -> str:
    """Returns the rule that a value breaks, for an argument with a few possible values."""
    return f"{value!r} is not one of {', '.join(choices)}{_question(_closest(str(value).lower(), choices, _CLOSE))}"


def unknown_option(
    option: str,
    command: str,
    options: Collection[str],
    *,
    uses_bridge: bool,
    setting_names: Callable[[], Collection[str]],
) -> str:
    """Returns the sentence for an option that a command does not have.

    `uses_bridge`: the command sends requests to a running bridge. `setting_names` returns the settings that the command
    uses; it is called only if no option of the command is like the given one.
    """
    name = option.lstrip("-").lower()
    sentence = f"{command} has no option {option}"
    if name == "version":
        return f"{sentence} (did you mean amux-bridge --version?)"
    if meant := _synonym(name, _OPTIONS, options) or _closest(f"--{name}", options, _VERY_CLOSE):
        return f"{sentence}{_question(meant)}"
    names = setting_names()
    if names and name in _SETTINGS_FILE:
        return f"{sentence}: settings are environment variables, or lines of .env in this folder"
    if setting := _setting(name, names, _BRIDGE if uses_bridge else _SETTINGS):
        return f"{sentence}: set {setting} in the environment or in .env"
    return f"{sentence}{_question(_closest(f'--{name}', options, _CLOSE))}"


def _setting(name: str, names: Collection[str], synonyms: Mapping[str, tuple[str, ...]]) -> str | None:
    """Returns the setting of an option such as `port`, `callback-ports` or `bridge-port`."""
    if meant := _synonym(name, synonyms, names):
        return meant
    word = name.replace("-", "_").upper()
    named = next((full for full in (f"BRIDGE_{word}", f"AMUX_{word}", word) if full in names), None)
    return named or _closest(f"BRIDGE_{word}", names, _VERY_CLOSE)


def _synonym(name: str, table: Mapping[str, tuple[str, ...]], possible: Collection[str]) -> str | None:
    return next((meant for meant, names in table.items() if name.lower() in names and meant in possible), None)


def _closest(name: str, names: Collection[str], cutoff: float) -> str | None:
    """Returns the most similar name. A single letter has none, because it is similar to too many names."""
    if len(name.strip("-")) == 1:
        return None
    return next(iter(difflib.get_close_matches(name, sorted(names), n=1, cutoff=cutoff)), None)


def _question(meant: str | None) -> str:
    return f" (did you mean {meant}?)" if meant else ""
