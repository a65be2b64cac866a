"""What amux answers to a create call, read for the one thing that a watch needs."""

from bridge.amux.lenient_json import read_json


def created_task(body: bytes) -> str | None:
    """The new task's id in a create call's answer: a text in `task_id`, else in `id`; None when there is none.

    An answer may be wrapped in `data`, as every other of amux's generic route is. A number is never a task's id: it is
    the row of amux's own table.
    """
    try:
        answer = read_json(body)
    except ValueError:
        return None
    wrapped = answer.get("data") if isinstance(answer, dict) else None
    for record in (answer, wrapped):
        if isinstance(record, dict):
            for name in ("task_id", "id"):
                if isinstance(record.get(name), str) and record[name]:
                    return str(record[name])
    return None
