"""Opens the content cache from the settings."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from bridge.amux.content_cache import ContentCache
from bridge.amux.content_folder import ContentFolder
from bridge.service.adapters import Adapters
from bridge.settings.settings import Settings
from bridge.store.database import sqlite_path
from bridge.store.store import Store
from bridge.telemetry import Metrics

FOLDER_PURPOSE = "content folder"


async def open_content_cache(
    settings: Settings, store: Store, metrics: Metrics, adapters: Adapters
) -> ContentCache | None:
    """Returns the content cache, or None if it is disabled. The caller closes it."""
    if not settings.content_cache_bytes:
        return None
    folder = _folder(settings, store, adapters.content_folder)
    cache = ContentCache(folder, limit=settings.content_cache_bytes, system=adapters.system)
    metrics.content_cache_bytes.set_function(lambda: cache.bytes_used)
    await cache.start()
    return cache


def _folder(settings: Settings, store: Store, make: Callable[..., ContentFolder]) -> ContentFolder:
    name = store.cipher.key(FOLDER_PURPOSE).hex()[:16]  # each database has a folder of its own
    if settings.content_cache_folder is not None:
        return make(settings.content_cache_folder, name)
    if not store.shared:
        return make(sqlite_path(settings.database_url).parent / "content", name)
    return make(_temporary_folder(), f"amux-bridge-{name}", private=False)


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except OSError:  # a read-only file system: the cache logs that, and videos are passed through
        return Path("/tmp")  # noqa: S108  the folder in it is private
