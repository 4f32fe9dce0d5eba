"""Work in spawned processes: in order, an error of the work is raised here, a killed process is one line."""

from __future__ import annotations

import os

import pytest

from jaxvl.core.errors import BadMedia, InputError
from jaxvl.data.workers import map_in_processes


def work(item):
    if item == "die":
        os._exit(1)
    if item == "bad":
        raise BadMedia("a file", "is broken")
    return item, os.getpid()


def test_results_come_in_order_from_other_processes():
    found = list(map_in_processes(work, range(40), processes=2, block=3, few=1))
    assert [item for item, _ in found] == list(range(40))
    assert os.getpid() not in {pid for _, pid in found}
    assert {pid for _, pid in map_in_processes(work, range(5), processes=2)} == {os.getpid()}


def test_what_goes_wrong_in_a_process():
    with pytest.raises(BadMedia, match="a file: is broken"):
        list(map_in_processes(work, [1, "bad"], processes=2, few=1))
    with pytest.raises(InputError, match="a reading process died"):
        list(map_in_processes(work, [1, "die"], processes=2, few=1))
