"""How fast this machine is: measured alike each time, and kept."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from trialese.pipeline import machine
from trialese.pipeline.machine import MachineSpeed, calibrate, machine_speed

SPEED = MachineSpeed(fp32_gflops=100.0, bf16_gflops=None, parsed_bytes=2e8, prepared_characters=3e6)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "trialese"


def ratios(one: MachineSpeed, other: MachineSpeed) -> list[float]:
    """Of each figure, the larger to the smaller."""
    pairs = zip(msgspec.structs.astuple(one), msgspec.structs.astuple(other), strict=True)
    return [max(a, b) / min(a, b) for a, b in pairs if a is not None and b is not None]


def test_two_calibrations_agree_within_a_third() -> None:
    tries = [calibrate() for _ in range(3)]  # a machine may be disturbed once
    closest = min(max(ratios(a, b)) for a, b in zip(tries, [*tries[1:], tries[0]], strict=True))
    assert closest < 4 / 3
    assert all(figure > 0 for figure in msgspec.structs.astuple(tries[0]) if figure is not None)


def test_the_speed_is_measured_once_for_a_chip_and_a_version(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    monkeypatch.setattr(machine, "calibrate", lambda: measured.append(1) or SPEED)
    assert machine_speed() == machine_speed() == SPEED
    assert len(measured) == 1
    (key,) = json.loads((cache / "speed.json").read_text())
    assert "trialese 0." in key and "cores" in key
    monkeypatch.setattr(machine, "__version__", "99.0")
    machine_speed()
    assert len(measured) == 2 and len(json.loads((cache / "speed.json").read_text())) == 2


@pytest.mark.parametrize("damage", ["nonsense", '{"a": {"fp32_gflops": "x"}}', "[]"])
def test_a_damaged_or_unwritable_cache_only_costs_time(
    cache: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(machine, "calibrate", lambda: SPEED)
    cache.mkdir(parents=True)
    (cache / "speed.json").write_text(damage)
    assert machine_speed() == SPEED
    assert machine_speed() == SPEED
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert machine_speed() == SPEED
