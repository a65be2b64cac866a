"""A deterministic simulation of the whole bridge, which finds races.

A seed makes a world: one or two replicas of the real bridge over one real SQLite file, apps and operators that send
real HTTP requests, an amux, receivers, and faults. The world has virtual time, no thread and no socket. So a minute
takes a tenth of a second, and one seed always gives the same trace, in any process. The invariants are checked after
each commit, at each poll, at each callback, once a second, and at the end.

| module | content |
|---|---|
| `plan.py` | what a seed decides beforehand: tasks, requests, faults |
| `world.py` | runs a plan |
| `loop.py`, `hosts.py` | the event loop; processes with clocks, randomness and threads of their own |
| `database.py` | SQLite that fails, hangs and loses answers; replicas share it as they share PostgreSQL |
| `amux.py`, `receivers.py`, `videos.py`, `http.py` | what the real client, sender and HTTP server are connected to |
| `upgrades.py` | a database of version 0.2.0, and what its upgrade must keep |
| `replicas.py`, `faults.py`, `requests.py` | starting bridges; what goes wrong; what apps and operators ask for |
| `registering.py`, `feed.py`, `removals.py`, `contents.py` | what holds for registrations, feed, retention, videos |
| `ledger.py`, `snapshot.py` | what the world has seen; what the database holds |
| `invariants.py`, `promptness.py` | what must hold at every step; what must happen in time while nothing is wrong |
| `runner.py`, `__main__.py` | runs seeds, shrinks a plan that fails |
| `mutations.py`, `planting.py` | planted bugs: they test the simulation |
| `test_found.py` | what the simulation has found in the bridge |

With `shared`, only one transaction runs at a time, of whichever replica. The concurrency of PostgreSQL itself (SKIP
LOCKED, READ COMMITTED, deadlocks) is tested in `tests/store` and `tests/replicas`, on real servers.
"""
