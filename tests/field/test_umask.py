"""With every umask, only the owner may read the database's files, and the bridge can open them again."""

from pathlib import Path

import pytest

from tests.e2e.harness import Environment
from tests.field.harness import check_works, serving

pytestmark = pytest.mark.long


@pytest.mark.parametrize("umask", ["000", "022", "077"])
async def test_the_files_are_the_owners_alone(folder: Path, env: Environment, umask: str) -> None:
    prefix = ["sh", "-c", f'umask {umask} && exec "$@"', "sh"]
    for _ in range(2):
        async with serving(folder, env, prefix=prefix) as (running, bridge):
            await check_works(env, bridge)
            await running.stop()
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir() if path.is_file()}
    assert set(modes.values()) == {"0o600"}, modes
