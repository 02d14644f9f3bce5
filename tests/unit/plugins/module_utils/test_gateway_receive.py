from __future__ import annotations
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gated import SEED, Cycle, Door, door, journal
from celled import NEEDS_ROOT
from forge import Running, running

pytestmark = NEEDS_ROOT

@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("forge") / "root", seed=SEED) as found:
        yield found


@pytest.fixture(scope="module")
def shared(forge: Running) -> Iterator[Door]:
    with door(forge) as found:
        yield found


@pytest.fixture
def gate(shared: Door) -> Iterator[Door]:
    yield shared
    print(journal(shared.host))
    shared.close_all()


@pytest.fixture
def ours(gate: Door) -> Iterator[Cycle]:
    """A cycle that took an issue."""
    with gate.cycle(gate.issue()) as found:
        yield found


def test_good_work_passes_and_is_told(ours: Cycle) -> None:
    sha = ours.commit()
    done = ours.push()
    assert done.returncode == 0, done.stderr
    assert ours.door.branches()[ours.branch] == sha
    (told,) = ours.entries("push")
    assert told["allowed"] and told["seconds"] < 30
