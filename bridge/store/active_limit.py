"""The limits of active watches: of all watches, and of each app's."""

from collections.abc import Mapping

from sqlalchemy import Connection, bindparam, func, select

from bridge.core.errors import TooManyWatches
from bridge.store.schema import IS_ACTIVE, watches

# A share of the limit. With PostgreSQL each batch above it counts the active watches: other replicas register too.
_COUNT_FROM = 0.9
_COUNT_ACTIVE = select(func.count()).select_from(watches).where(IS_ACTIVE)
_COUNT_ACTIVE_OF_APP = _COUNT_ACTIVE.where(watches.c.app == bindparam("an_app"))


class ActiveLimit:
    """The limits of active watches, and estimates of their numbers. Only the writer's thread may use it.

    `most` is the limit of all watches, `per_app` that of each app (0: none). Replicas that register at the same moment
    may exceed the limits by the watches of these transactions.
    """

    def __init__(self, most: int, per_app: int = 0) -> None:
        self.most = most
        self.per_app = per_app
        self._estimate = most
        self._estimates_of_apps: dict[str, int] = {}

    def room(self, connection: Connection, count: int) -> int:
        """Returns how many watches can be added, exactly near the limit. `count` is how many the caller adds.

        Counting a million watches takes 20 ms, so the number of active watches is estimated. With SQLite the estimate
        is never too low.
        """
        is_shared = connection.dialect.name != "sqlite"
        if self._estimate + count > self.most * (_COUNT_FROM if is_shared else 1.0):
            self._estimate = connection.execute(_COUNT_ACTIVE).scalar_one()
        return self.most - self._estimate

    def refusal(self) -> TooManyWatches:
        """Returns the error for a watch beyond the limit."""
        return TooManyWatches(f"{self.most} watches are active; the limit is BRIDGE_MAX_ACTIVE_WATCHES")

    def room_of_app(self, connection: Connection, app: str, count: int) -> int:
        """Returns how many watches of one app can be added. `count` is how many the caller adds.

        The number is exact near the limit. On PostgreSQL each transaction counts the active watches, because other
        replicas register too.
        """
        shared = connection.dialect.name != "sqlite"
        estimate = self._estimates_of_apps.get(app, self.per_app)
        if shared or estimate + count > self.per_app:
            estimate = connection.execute(_COUNT_ACTIVE_OF_APP, {"an_app": app}).scalar_one()
            self._estimates_of_apps[app] = estimate
        return self.per_app - estimate

    def refusal_of_app(self) -> TooManyWatches:
        """Returns the error for a watch beyond the limit of its app."""
        return TooManyWatches(
            f"{self.per_app} watches of this app are active; the limit is BRIDGE_MAX_ACTIVE_WATCHES_PER_APP"
        )

    def add(self, registered: int, by_app: Mapping[str, int]) -> None:
        """Add new watches to the estimates. `by_app` may include watches that existed before.

        The next count of the database corrects that. It also subtracts the watches that have ended.
        """
        self._estimate += registered
        if self.per_app:
            for app, count in by_app.items():
                self._estimates_of_apps[app] = self._estimates_of_apps.get(app, self.per_app) + count
