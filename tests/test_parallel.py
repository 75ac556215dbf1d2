"""The pool of worker processes: order, errors, death, and where it looks for modules."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from trialese import parallel
from trialese.errors import ArtifactError, RecordError
from trialese.parallel import count_cores, map_in_processes


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A module of functions that workers can import."""
    (tmp_path / "pool_tasks.py").write_text(
        "import os, signal, time\n"
        "from trialese.collect.source import StudyError\n"
        "def double(item): return 2 * item\n"
        "def slow_first(item): time.sleep(0.2 if item == 0 else 0); return item\n"
        "def refuse(item): raise StudyError('a.json', 'no_study', f'item {item}')\n"
        "def chatter(item): print('noise'); os.write(1, b'noise'); return item\n"
        "def bug(item): return item['x']\n"
        "def die(item): os.kill(os.getpid(), signal.SIGKILL)\n"
        "def module_of(name): return __import__(name).__file__\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return __import__("pool_tasks")


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(tasks, processes):
    assert list(map_in_processes(tasks.slow_first, range(7), processes=processes)) == [*range(7)]
    assert list(map_in_processes(partial(operator.mul, 3), [1, 2], processes=processes)) == [3, 6]
    assert list(map_in_processes(tasks.double, [], processes=processes)) == []


def test_items_are_taken_only_as_they_are_needed(tasks):
    taken = []
    results = map_in_processes(tasks.double, (taken.append(n) or n for n in range(90)), processes=2)
    assert [next(results), next(results)] == [0, 2]
    assert len(taken) <= 4
    results.close()  # warnings are errors: a child left running would be one


def test_an_error_arrives_as_its_kind(tasks):
    with pytest.raises(RecordError, match=r"^a\.json: item 1$"):
        list(map_in_processes(tasks.refuse, [1, 2, 3], processes=2))


def test_a_bug_keeps_its_traceback(tasks):
    with pytest.raises(RuntimeError, match=r"(?s)pool_tasks.*TypeError"):
        list(map_in_processes(tasks.bug, [1], processes=1))


def test_a_dead_worker_is_one_line(tasks):
    with pytest.raises(ArtifactError, match=r"ended early \(exit -9\); free some memory") as caught:
        list(map_in_processes(tasks.die, [1, 2], processes=2))
    assert "\n" not in str(caught.value)


def test_what_a_worker_prints_is_no_answer(tasks, capfd):
    assert list(map_in_processes(tasks.chatter, [5], processes=1)) == [5]
    assert capfd.readouterr().out == ""


def test_workers_do_not_import_from_the_working_directory(tasks, tmp_path, monkeypatch):
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for name in ("msgspec", "trialese", "json"):
        (hostile / f"{name}.py").write_text("open('MARKER', 'w')\nraise SystemExit\n")
    monkeypatch.chdir(hostile)
    # As in an interactive session, and as `python -m` has it.
    monkeypatch.setattr(sys, "path", ["", str(hostile), *sys.path])
    (found,) = map_in_processes(tasks.module_of, ["msgspec"], processes=1)
    assert not Path(found).is_relative_to(hostile)
    assert not (hostile / "MARKER").exists()


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = (
        "import os, time, trialese.parallel as p\n"
        "worker = p._Worker(time.sleep)\n"
        "print(worker._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL
    child = int(done.stdout)
    for _ in range(200):
        try:
            if "Z" in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2]:
                return
            os.kill(child, 0)
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.05)
    raise AssertionError("the worker lives on")


def test_cores_are_counted_where_affinity_is_unknown(monkeypatch):
    assert count_cores() >= 1
    monkeypatch.delattr(parallel.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(parallel.os, "cpu_count", lambda: None)
    assert count_cores() == 1
