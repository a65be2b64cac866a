"""Checks of `GET /watch/{id}/content`: who gets which bytes, and when the bridge may refuse."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.simulation.http import Reply, Request
from tests.simulation.replicas import APPS, OPERATOR, PUBLIC_URL
from tests.simulation.videos import video_of
from tests.simulation.violation import require

if TYPE_CHECKING:
    from tests.simulation.world import World

HELD_SECONDS = 100.0  # amux may take 75 s to fail
SWEEPS_SECONDS = 16.0
PAGE = b"<html>welcome</html>"


@dataclass(eq=False)
class Contents:
    """Asks for videos, and checks the answers and the files of the content cache."""

    world: "World"
    links: dict[str, str] = field(default_factory=dict)  # the path and the query of each watch's `content_url`

    def event_seen(self, event: Any) -> None:
        """Keep the content link of an event that an app has got."""
        url = event["data"].get("content_url")
        if url is not None:
            require(url.startswith(PUBLIC_URL), f"the content_url {url} is not the bridge's")
            self.links[event["data"]["watch_id"]] = url.removeprefix(PUBLIC_URL)

    def read(self, watch_id: str, how: str, byte_range: str) -> None:
        """Ask for a video: with the app's token, an operator's, or a link without any token."""
        token = {"app": APPS[self.world.ledger.registered[watch_id]["app"]], "operator": OPERATOR, "link": ""}[how]
        path = self.links.get(watch_id, "") if how == "link" else f"/watch/{watch_id}/content"
        if not path:
            return
        row = self.world.invariants.state.watches.get(watch_id)
        was_completed = row is None or row["outcome"] == "completed"

        def answered(reply: Reply, asked: float) -> None:
            self._check(watch_id, reply, asked, path)
            if reply.status in {200, 206, 416}:
                self._check_bytes(watch_id, reply, asked, byte_range)
            elif reply.status == 409:
                is_right = reply.body["code"] == "watch_not_completed" and not was_completed
                require(is_right, f"the completed {watch_id} has no video: {reply.body}")

        headers = {"Range": byte_range} if byte_range else {}
        self.world.requests.send_beside(Request(token, "GET", path, None, headers), answered, HELD_SECONDS)

    def _check(self, watch_id: str, reply: Reply, asked: float, path: str) -> None:
        what, world = f"{path} is answered with {reply.status}", self.world
        require(reply.status in {0, 200, 206, 403, 404, 409, 416, 502, 503}, f"{what} {reply.body}")
        removed = watch_id in world.invariants.removals.watches
        require(reply.status != 404 or removed, f"{what}, and the watch is stored")
        require(reply.status != 502 or world.amux.videos.failed_at >= asked, f"{what}, and amux has not failed")
        if "?" in path:
            expires = int(parse_qs(urlsplit(path).query)["expires"][0])
            left = expires - world.store_time()
            until = left + world.loop.time() - asked
            require(reply.status != 403 or left < 1.0 or world.clock_was_set, f"{what} {left:.1f} s before it expires")
            allowed = reply.status in {0, 403, 503} or until > -1.0 or world.clock_was_set
            require(allowed, f"{what} after it has expired")
        else:
            require(reply.status != 403, what)

    def _check_bytes(self, watch_id: str, reply: Reply, asked: float, byte_range: str) -> None:
        watch = self.world.invariants.watch(watch_id)
        require(watch["outcome"] == "completed", f"a video of {watch_id}, which is {watch['outcome']}")
        video = video_of(watch["task_id"])
        if reply.status == 416:
            first = int(byte_range.removeprefix("bytes=").split("-")[0] or 0)
            require(first >= len(video), f"{byte_range} of {watch_id} is refused")
            return
        start, stop = 0, len(video)
        if reply.status == 206:
            start, stop = map(int, reply.headers["content-range"].removeprefix("bytes ").split("/")[0].split("-"))
            stop += 1
            require(byte_range, f"a part of {watch_id} is sent, and was not asked for")
        wanted = video[start:stop]
        if reply.body == PAGE and self.world.amux.videos.failed_at >= asked:
            # amux answered 200 with a page. The bridge passes the page on, but with a type that no browser displays.
            is_harmless = reply.headers["content-type"] == "application/octet-stream"
            require(is_harmless, f"amux's page is shown as {reply.headers['content-type']}")
            return
        if reply.is_whole:
            require(reply.body == wanted, f"the video of {watch_id} is {reply.body!r}, not {wanted!r}")
        else:
            require(wanted.startswith(reply.body), f"the video of {watch_id} begins with {reply.body!r}")
            failed = self.world.amux.videos.failed_at >= asked or self.world.is_disturbed(asked)
            require(failed, f"the video of {watch_id} breaks off, and nothing has failed")

    def amux_was_asked(self, task_id: str, key: str) -> None:
        """Check a bridge's request to amux for a video: a watch on the task has completed, and the key is right."""
        invariants, course = self.world.invariants, self.world.courses.get(task_id)
        rows = (*invariants.state.watches.values(), *invariants.removals.watches.values())
        watched = any((row["task_id"], row["outcome"]) == (task_id, "completed") for row in rows)
        require(watched, f"amux is asked for the video of {task_id}, which no watch has completed")
        require(course is None or course.key == key, f"amux is asked for the video of {task_id} with a wrong key")

    def check_files(self) -> None:
        """Check that each complete file is a whole video, and is deleted soon after its watch."""
        world, invariants = self.world, self.world.invariants
        for name, drive in world.drives.items():
            files = drive.complete()
            for watch_id, video in files.items():
                row = invariants.state.watches.get(watch_id)
                if row is not None:
                    require(video == video_of(row["task_id"]), f"the file of {watch_id} at {name} is another video")
                    continue
                ago = world.loop.time() - invariants.removals.removed_at[watch_id]
                late = min(ago, world.faults.calm_seconds())
                require(late < SWEEPS_SECONDS, f"{name} has a file of {watch_id}, which is gone for {ago:.1f} s")
            used = sum(map(len, files.values()))
            require(used <= world.plan.cache_bytes, f"the files at {name} have {used} bytes")
