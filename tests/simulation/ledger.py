"""What the world outside the bridge has seen: answers to requests, polls, callbacks. The invariants compare with it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from bridge.core.model import Answer, Answered
from tests.simulation.hosts import Host


@dataclass(eq=False, slots=True)
class Post:
    """One callback that arrived."""

    at: float
    host: str
    url: str
    id: str
    type: str
    watch_id: str
    body: bytes
    headers: Mapping[str, str]
    answer: Answer | None = None


@dataclass(eq=False)
class Ledger:
    """What the world has seen. `now` gives virtual seconds. `on_post` and `on_poll` check a callback and a poll."""

    now: Callable[[], float]
    note: Callable[[str], None]
    on_post: Callable[[Post, Host | None], None] = lambda _post, _host: None
    on_poll: Callable[[str, Host | None], None] = lambda _task, _host: None
    posts: dict[str, list[Post]] = field(default_factory=lambda: defaultdict(list))
    words: dict[str, list[tuple[float, str]]] = field(default_factory=lambda: defaultdict(list))
    under_way: dict[Host | None, list[Post]] = field(default_factory=dict)
    """By process: the callbacks whose answer the process awaits."""
    polls: int = 0
    registered: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By watch id: the watch, as the first 2xx showed it."""
    inherited: set[str] = field(default_factory=set)
    """The watches of an older version."""
    cancelled: dict[str, float] = field(default_factory=dict)
    """By watch id: when the cancellation was answered."""
    resent: list[tuple[str, float]] = field(default_factory=list)
    """Delivery ids whose resend was answered with 202, and when each resend was requested."""
    resend_asked: set[str] = field(default_factory=set)
    """Deliveries for which a resend was requested, answered or not."""
    dead_asked_until: float = 0.0
    """Until then the bridge may carry out a request to send all dead deliveries again."""
    paused: dict[str, float] = field(default_factory=dict)
    """Receivers whose pause was answered with 200, and when."""
    ever_paused: set[str] = field(default_factory=set)
    """Receivers that may be paused: a pause was requested, and no resume was answered since then."""

    def inherit(self, watch_ids: Iterable[str]) -> None:
        """Note watches that an older version acknowledged. It may have sent their events too."""
        self.inherited.update(watch_ids)

    def told(self, task_id: str, word: str, *, batch: bool = False) -> None:
        """Note what amux has answered about a task."""
        self.words[task_id].append((self.now(), word))
        self.note(f"amux says {task_id} {word}{' batch' if batch else ''}")

    def polled(self, task_id: str, host: Host | None) -> None:
        """Note that a poll of a task has begun."""
        self.polls += 1
        self.on_poll(task_id, host)

    def posted(self, host: Host | None, url: str, headers: Mapping[str, str], body: bytes) -> Post:
        """Note that a callback has begun, and return it."""
        event = orjson.loads(body)
        post = Post(
            self.now(),
            "" if host is None else host.name,
            url,
            headers["webhook-id"],
            event["type"],
            event["data"]["watch_id"],
            body,
            headers,
        )
        self.note(f"{post.host} posts {post.type} of {post.watch_id} to {url}")
        self.posts[post.id].append(post)
        self.under_way.setdefault(host, []).append(post)
        self.on_post(post, host)
        return post

    def answered(self, host: Host | None, post: Post, answer: Answer) -> None:
        """Note that the sender has got the receiver's answer."""
        post.answer = answer
        self.under_way[host].remove(post)
        said = answer.status if isinstance(answer, Answered) else type(answer).__name__
        self.note(f"{post.url} answers {said} to {post.type} of {post.watch_id}")
