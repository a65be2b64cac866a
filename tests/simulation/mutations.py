"""Planted bugs: changes of the bridge's source that the simulation must find. Each runs in a process of its own."""

from tests.simulation.planting import Change, Mutation

MUTATIONS = (
    Mutation(
        "watches that have ended are settled again: no WHERE state = 'active'",
        150,
        Change(
            "bridge.store.settlement",
            '.where(IS_ACTIVE, watches.c.task.in_([bind["task"] for bind in binds]))',
            '.where(watches.c.task.in_([bind["task"] for bind in binds]))',
        ),
    ),
    Mutation(
        "a registration is answered before its commit",
        150,
        Change(
            "bridge.store.group_commit",
            "                await self._runner.submit(partial(self._execute, batch))\n",
            "                running = self._runner.submit(partial(self._execute, batch))\n"
            "                if any(call.operation.__name__ == 'register' for call in batch):\n"
            "                    self._transaction(lambda c: (_execute_grouped(c, batch), c.rollback()))\n"
            "                    self._resolve(batch)\n"
            "                await running\n",
        ),
    ),
    Mutation(
        "the lease fence is dropped: a write does not check the task's owner and its epoch",
        1500,
        Change(
            "bridge.store.replicas",
            "        .join(_LOCKED_REPLICA, _LOCKED_REPLICA.c.id == unindexed(tasks.c.owner))\n"
            "        .where(\n"
            "            tasks.c.closed_at.is_(None),\n"
            '            tasks.c.id.in_([bind["task"] for bind in binds]),\n'
            '            _LOCKED_REPLICA.c.epoch == bindparam("epoch"),\n'
            "        )\n"
            "        .order_by(tasks.c.id)\n"
            "        .with_for_update(of=tasks)\n"
            "    ),\n"
            '    ("replica", "epoch"),\n',
            '        .where(tasks.c.closed_at.is_(None), tasks.c.id.in_([bind["task"] for bind in binds]))\n'
            "        .order_by(tasks.c.id)\n"
            "        .with_for_update(of=tasks)\n"
            "    ),\n"
            '    ("replica", "epoch"),\n',
        ),
    ),
    Mutation(
        "the end of a watch does not stop its status events",
        750,
        Change(
            "bridge.store.ending",
            '    pending = connection.execute(_PENDING, {"ids": asked}).scalars().all() if asked else ()\n',
            "    pending = ()\n",
        ),
    ),
    Mutation(
        "claims are not released at the start",
        1500,
        Change(
            "bridge.store.replicas",
            '    connection.execute(_RELEASE_CLAIMS, {"replica": name, "now": now})\n    return '
            "Replica(name, epoch + 1",
            "    return Replica(name, epoch + 1",
        ),
    ),
    Mutation(
        "a dead replica's claims are not released",
        750,
        Change(
            "bridge.store.replicas",
            '        connection.execute(_RAISE_EPOCH, {"replica": name})\n'
            '        connection.execute(_RELEASE_CLAIMS, {"replica": name, "now": now})\n',
            '        connection.execute(_RAISE_EPOCH, {"replica": name})\n',
        ),
    ),
    Mutation(
        "a task whose registration was committed late is not polled",
        900,
        Change("bridge.watches.registration", "            self._late_tasks.append(task)", "            pass"),
    ),
    Mutation(
        "`status_update_due` is cleared after the write",
        700,
        Change(
            "bridge.polling.result_writer",
            "            self._refused.report_success()\n            try:\n",
            "            self._refused.report_success()\n"
            "            task.status_update_due = False\n"
            "            try:\n",
        ),
    ),
    Mutation(
        "the record of an attempt does not check the claim",
        1500,
        Change(
            "bridge.store.outbox",
            "    found = select(*columns).where(outbox.c.id.in_(ids), _CLAIM_KEY.in_(claims))\n",
            "    found = select(*columns).where(outbox.c.id.in_(ids))\n",
        ),
    ),
    Mutation(
        "a retry that is requested during an attempt is forgotten",
        150,
        Change(
            "bridge.store.outbox",
            "    requested = {claim for claim, set_at in marks.items() if retry_requested(set_at)}\n",
            "    requested = set()\n",
        ),
    ),
    Mutation(
        "a live failure is not confirmed",
        100,
        Change(
            "bridge.core.watch",
            "    if not observation.live or (failure is not None and began >= failure.since + interval):\n",
            "    if True:\n",
        ),
    ),
    Mutation(
        "a failed attempt is due again at once",
        150,
        Change(
            "bridge.store.outbox",
            "(items[claim].delivery_id, at, items[claim].at, None, None) for claim, at in "
            "again.items() if claim in marks",
            "(items[claim].delivery_id, items[claim].at, items[claim].at, None, None) for claim in "
            "again if claim in marks",
        ),
    ),
    Mutation(
        "a settlement that the store refuses is dropped",
        600,
        Change(
            "bridge.polling.result_writer",
            "        self._refused.add(write.task, write, retried=write.retried)\n",
            "        self._give_back(write.task, closed=True)\n        return\n",
        ),
    ),
    Mutation(
        "a cancellation at another replica does not reach the owner",
        750,
        Change(
            "bridge.store.settlement",
            '        changed_elsewhere=and_(tasks.c.owner.is_not(None), bindparam("shared", type_=Boolean)),\n',
            '        changed_elsewhere=and_(tasks.c.owner.is_(None), bindparam("shared", type_=Boolean)),\n',
        ),
    ),
    Mutation(
        "a watch times out a minute after its deadline",
        100,
        Change(
            "bridge.core.watch",
            "    if watch.deadline_at <= began_at:\n",
            "    if watch.deadline_at + 60 <= began_at:\n",
        ),
    ),
    Mutation(
        "a dead replica's tasks are not adopted",
        150,
        Change("bridge.store.replicas", "    if dead:\n        found.update(", "    if False:\n        found.update("),
    ),
    Mutation(
        "tasks are kept after the lease has ended",
        150,
        Change(
            "bridge.polling.poller",
            "        self._schedule.clear(self._tasks.values())\n        self._tasks.clear()\n",
            "        return\n",
        ),
    ),
    Mutation(
        "410 does not end a delivery",
        100,
        Change("bridge.core.delivery", "GONE = 410", "GONE = 418"),
    ),
    # The lease is checked at a claim, at the answer to a claim, and at the beginning of an attempt. The last two checks
    # cover each other, so one mutation removes both. `tests/delivery/test_claims.py` tests each alone.
    Mutation(
        "a claim does not check the lease",
        1500,
        Change("bridge.store.outbox", "    if not replicas.holds_claim(connection, replica):\n        return []\n", ""),
    ),
    Mutation(
        "late answers to claims are accepted, and attempts begin although the lease has ended",
        1500,
        Change(
            "bridge.delivery.deliverer",
            "        return self._lease.is_valid() and delivery.claimed_by == self._store.replica.identity\n",
            "        return True\n",
        ),
        Change(
            "bridge.delivery.deliverer",
            "not self._draining and self._writer.accepting and self._lease.is_valid()\n",
            "not self._draining and self._writer.accepting\n",
        ),
    ),
    # --- bugs of other kinds ---
    Mutation(
        "the last delay of a schedule is not used",
        100,
        Change(
            "bridge.core.schedule",
            "self.delays[attempts - 1] if 0 < attempts <= len(self.delays) else None",
            "self.delays[attempts - 1] if 0 < attempts < len(self.delays) else None",
        ),
    ),
    Mutation(
        "two callbacks of an app for one task are taken for one",
        100,
        Change(
            "bridge.store.registration_entry",
            "digest(watch.app, watch.task_id, watch.callback_url)",
            "digest(watch.app, watch.task_id)",
        ),
    ),
    Mutation(
        "an Idempotency-Key counts for every app",
        300,
        Change(
            "bridge.store.idempotency_keys",
            '    return entry.new.watch.app, "" if key is None else key.key\n',
            '    return "", "" if key is None else key.key\n',
        ),
    ),
    Mutation(
        "a callback is signed with the id of its watch",
        100,
        Change(
            "bridge.delivery.attempt",
            "self._signer.headers(delivery.id, timestamp, delivery.payload, delivery.secret)",
            'self._signer.headers(delivery.watch_id, timestamp, delivery.payload) | {"webhook-id": delivery.id}',
        ),
    ),
    Mutation(
        "a page of the event feed begins with the last event of the page before",
        100,
        Change(
            "bridge.store.event_feed",
            '_AFTER = events.c.number > bindparam("after")\n',
            '_AFTER = events.c.number >= bindparam("after")\n',
        ),
    ),
    Mutation(
        "the end of a watch does not wake who waits for it",
        300,
        Change(
            "bridge.polling.result_writer",
            "(*changed.updated, *(watch.id for watch in changed.settled))",
            "changed.updated",
        ),
    ),
    Mutation(
        "a removal of events is noted after the events are deleted",
        600,
        Change(
            "bridge.store.retention",
            "    event_feed.note_removal(connection, watch_ids, replica)\n"
            "    connection.execute(_DELETE_EVENTS, parameters)\n",
            "    connection.execute(_DELETE_EVENTS, parameters)\n"
            "    event_feed.note_removal(connection, watch_ids, replica)\n",
        ),
    ),
    Mutation(
        "retention deletes watches with pending deliveries",
        600,
        Change(
            "bridge.store.retention",
            "    return pending | event_feed.watches_without_numbers(connection, watch_ids)\n",
            "    return event_feed.watches_without_numbers(connection, watch_ids)\n",
        ),
        Change(
            "bridge.store.retention",
            "deliveries.c.watch_id == watches.c.id, deliveries.c.state == literal_column(\"'pending'\")",
            "deliveries.c.watch_id == watches.c.id, deliveries.c.state == literal_column(\"'none'\")",
        ),
    ),
    Mutation(
        "a record of a batch is taken for the task at its place in the request",
        100,
        Change(
            "bridge.amux.batch_wire",
            "        if not isinstance(row, dict) or (task_id := _id_of(row, asked.ids)) is None:\n"
            "            continue\n",
            '        task_id = sorted(asked.ids)[len(records)] if len(records) < len(asked.ids) else ""\n',
        ),
    ),
    Mutation(
        "the lease runs by the wall clock",
        600,
        Change("bridge.service.runtime", "Lease(self._system.running)", "Lease(self._system.wall)"),
    ),
    Mutation(
        "a cancelled watch is sent again",
        600,
        Change("bridge.store.outbox", "        if row.state == WatchState.CANCELLED:\n", "        if False:\n"),
    ),
    Mutation(
        "Retry-After replaces the delay of the schedule",
        300,
        Change(
            "bridge.core.delivery",
            "now + max(with_jitter(delay, jitter), retry_after)",
            "now + (retry_after or with_jitter(delay, jitter))",
        ),
    ),
    Mutation(
        "a receiver gets one attempt too many at a time",
        100,
        Change(
            "bridge.delivery.fairness",
            "            if host.busy >= self._limits[host.pool]:\n                continue",
            "            if host.busy > self._limits[host.pool]:\n                continue",
        ),
        Change("bridge.delivery.fairness", "if host.busy < limits[host.pool]:", "if host.busy <= limits[host.pool]:"),
    ),
    Mutation(
        "every app can read every watch",
        100,
        Change(
            "bridge.web.api.watches",
            "        view = await context.store.watch(watch_id, caller.visible_app)\n    return",
            "        view = await context.store.watch(watch_id, None)\n    return",
        ),
    ),
    Mutation(
        "a link to a video does not expire",
        800,
        Change("bridge.core.links", " and now < int(expires)", ""),
    ),
    Mutation(
        "a video that amux broke off is kept as a whole one",
        600,
        Change(
            "bridge.amux.content_cache",
            "        while piece := await next_piece(source):\n            if not read.in_memory",
            "        while piece := await _some_piece(source):\n            if not read.in_memory",
        ),
        Change(
            "bridge.amux.content_cache",
            "def _can_be_kept(",
            "async def _some_piece(source):\n"
            "    try:\n"
            "        return await next_piece(source)\n"
            "    except AnswerInterrupted:\n"
            '        return b""\n\n\n'
            "def _can_be_kept(",
        ),
        Change(
            "bridge.amux.content_cache", "if read.head.length not in {None, position}:", "if read.head.length is False:"
        ),
    ),
    Mutation(
        "an upgrade is committed revision by revision",
        150,
        Change(
            "bridge.store.migrate",
            '    command.upgrade(config, "head")\n',
            '    command.upgrade(config, "0005")\n'
            '    connection.exec_driver_sql("COMMIT")\n'
            '    connection.exec_driver_sql("BEGIN IMMEDIATE")\n'
            '    command.upgrade(config, "head")\n',
        ),
    ),
    Mutation(
        "an upgrade forgets what was claimed",
        200,
        Change(
            "bridge.store.migrate",
            '    command.upgrade(config, "head")\n',
            '    command.upgrade(config, "head")\n'
            '    connection.exec_driver_sql("DELETE FROM outbox WHERE lease IS NOT NULL")\n',
        ),
    ),
)
