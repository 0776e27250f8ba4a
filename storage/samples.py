"""What the devices did over time: one row per device and second, written by the hub's samplers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.connection import Database
from storage.rows import insert_rows
from storage.runs import to_text

_SAMPLE_COLUMNS = (
    "device",
    "time",
    "utilization_percent",
    "memory_used_bytes",
    "memory_total_bytes",
    "power_w",
    "temperature_c",
    "clock_mhz",
)


@dataclass(frozen=True)
class DeviceSample:
    """One look at a device. `device` is "cpu" or a GPU's UUID; what cannot be known is None, never 0.

    `detail` holds further readings (throttle reasons, per-core load), `processes` who else is on the device.
    """

    device: str
    kind: str
    title: str
    time: float
    utilization_percent: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    clock_mhz: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    processes: Sequence[Mapping[str, Any]] = ()


def insert_device_samples(db: Database, samples: Sequence[DeviceSample]) -> None:
    """Store samples and bring the devices' own rows up to date, in one transaction."""
    if not samples:
        return
    latest = {sample.device: sample for sample in sorted(samples, key=lambda s: s.time)}
    with db.transaction() as cursor:
        insert_rows(cursor, "device_samples", [_sample_row(sample) for sample in samples])
        for sample in latest.values():
            cursor.execute(
                "insert into devices values ($device, $kind, $title, $time, $processes) on conflict (device) do update "
                "set kind = $kind, title = $title, last_time = $time, processes_json = $processes",
                {
                    "device": sample.device,
                    "kind": sample.kind,
                    "title": sample.title,
                    "time": sample.time,
                    "processes": to_text(sample.processes),
                },
            )


def _sample_row(sample: DeviceSample) -> dict[str, Any]:
    row = {name: getattr(sample, name) for name in _SAMPLE_COLUMNS}
    return {**row, "bucket_s": 1.0, "detail_json": to_text(sample.detail)}
