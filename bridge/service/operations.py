"""Builds two parts for operators from the settings: the control of receivers, and the notices."""

from contextlib import AsyncExitStack

from bridge.callback.guard import Guard
from bridge.core.errors import BadSetting, InvalidRequest, TargetRefused
from bridge.delivery.deliverer import Deliverer
from bridge.delivery.receivers import Receivers
from bridge.maintenance.notify import AppriseNotifier
from bridge.maintenance.operations import OperationsNotices
from bridge.polling.poller import Poller
from bridge.settings.settings import Settings
from bridge.store.notice_writing import NoticeTarget
from bridge.store.store import Store
from bridge.telemetry import Metrics

_SETTING = "BRIDGE_OPERATIONS_CALLBACK_URL"


async def open_receivers(
    settings: Settings,
    store: Store,
    guard: Guard,
    parts: tuple[Poller, Deliverer, Metrics],
    closing: AsyncExitStack,
) -> tuple[Receivers, OperationsNotices]:
    """Returns the control of receivers, and the notices.

    No notice is made if the settings have neither a callback URL for operators nor a URL of apprise. Raises BadSetting
    if a rule refuses the callback URL, if the extra `notify` is missing, or if apprise does not know a URL.
    """
    poller, deliverer, metrics = parts
    target, notifier = await check_operations(settings, guard)
    if notifier is not None:
        closing.push_async_callback(notifier.close)
    if target is not None or notifier is not None:
        store.notices.enable(target, settings.public_url)
    notices = OperationsNotices(store, poller, deliverer, notifier)
    return Receivers(store, deliverer, notices, metrics), notices


async def check_operations(settings: Settings, guard: Guard) -> tuple[NoticeTarget | None, AppriseNotifier | None]:
    """Returns the target of notices and the notifier of people, each None if it is not set.

    Raises BadSetting like `open_receivers`.
    """
    url = settings.operations_callback_url
    target = None if url is None else await _target(url, guard)
    notifier = AppriseNotifier(settings.notify_urls) if settings.notify_urls else None
    if notifier is not None:
        await notifier.check()
    return target, notifier


async def _target(url: str, guard: Guard) -> NoticeTarget:
    try:
        return NoticeTarget(url, (await guard.check(url)).host_key)
    except InvalidRequest as error:
        raise BadSetting(f"{_SETTING}: {error.fields[0][1]}") from None
    except TargetRefused as error:
        raise BadSetting(f"{_SETTING}: {error}; the rules for callbacks apply to it too") from None
