"""The hub put together: database, ingest, socket, clock and supervisor, and in which order they start and end.

Threads: the main thread spawns and watches processes; one thread takes in the spool every 250 ms; one accepts
connections and starts one per client; APScheduler's pool does what goes by the clock. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from datetime import UTC, datetime
from typing import Any

from hybrid_core.errors import HybridError
from storage.connection import Database, open_database
from storage.ingest import IngestResult, drain, ingest_once
from storage.retention import prune
from storage.samples import insert_device_samples
from workers.answers import Answers
from workers.brought import BroughtKeeper
from workers.catalog import CatalogKeeper
from workers.code_policy import CodePolicy
from workers.devices import DeviceWatch, GpuSampler
from workers.exports import ExportKeeper
from workers.fitting import DeviceMemory
from workers.nvml import NvmlDriver
from workers.offer import Offer
from workers.paths import DataPaths
from workers.schedule import Job, build_scheduler
from workers.server import SocketServer
from workers.supervisor import Programs, Supervisor

log = logging.getLogger("hub")
INGEST_EVERY_S = 0.25
TICK_EVERY_S = 0.5
ALIVE_EVERY_S = 2.0


class SpoolIngest:
    """Takes in what run processes wrote, from one thread at a time."""

    def __init__(self, db: Database, paths: DataPaths) -> None:
        self._db, self._spool = db, paths.spool
        self._lock = threading.Lock()
        self.error: str | None = None

    def once(self) -> IngestResult:
        """One tick; a disk that is full or mended again is said once."""
        with self._lock:
            result = ingest_once(self._db, self._spool)
            self._note(result.error)
            return result

    def drain(self) -> None:
        """Everything that is there now."""
        with self._lock:
            self._note(drain(self._db, self._spool)[-1].error)

    def _note(self, error: str | None) -> None:
        if error != self.error:
            log.error("%s", error) if error else log.info("results are stored again")
        self.error = error


class HubService:
    """One hub from start to end; the caller holds the lock of the data folder."""

    def __init__(self, paths: DataPaths, programs: Programs) -> None:
        self._paths = paths
        self._touch_alive()
        self._db = open_database(paths.database)
        self._ingest = SpoolIngest(self._db, paths)
        self._nvml = NvmlDriver()
        self._devices = DeviceWatch(GpuSampler(self._nvml))
        self._catalog = CatalogKeeper(programs.catalog, paths)
        self._wake, self._leave = threading.Event(), threading.Event()
        policy = CodePolicy(paths)
        self._brought = BroughtKeeper(self._db, paths, programs.inspect, policy, self._wake.set)
        self._exports = ExportKeeper(paths, programs.export, self._wake.set)
        self._supervisor = Supervisor(self._db, paths, programs, self._ingest.drain, policy.refusal_of_source)
        self._cancels_runs = False
        self._last_error = ""
        offer = Offer(self._catalog, self._brought, policy, DeviceMemory(self._nvml))
        self._answers = Answers(self._db, paths, offer, self._banner, self._wake.set, self._stop, self._exports)
        self._scheduler = build_scheduler(self._jobs())

    def run(self) -> int:
        """Serve until a signal or a `stop` request; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._paths.stopped.unlink(missing_ok=True)
        self._ingest.drain()
        self._supervisor.adopt()
        self._brought.recover()
        server = SocketServer(self._paths.socket, self._answers)
        threading.Thread(target=self._ingest_loop, name="ingest", daemon=True).start()
        self._scheduler.start()
        server.start()
        log.info("hub %d serves %s; %s", os.getpid(), self._paths.root, self._nvml.reason or "NVML answers")
        while not self._leave.is_set():
            self._tick()
            self._wake.wait(TICK_EVERY_S)
            self._wake.clear()
        self._end(server)
        return 0

    def _tick(self) -> None:
        """One round of the main thread; whatever goes wrong in it is tried again in the next."""
        try:
            self._catalog.tick()
            self._supervisor.tick()
            self._brought.tick()
            self._exports.tick()
            self._last_error = ""
        except HybridError as error:
            if str(error) != self._last_error:
                log.error("%s", error)
            self._last_error = str(error)
        except Exception as error:  # the supervisor must outlive its own mistakes: runs depend on it
            if str(error) != self._last_error:
                log.exception("the supervisor stumbled")
            self._last_error = f"{type(error).__name__} in the supervisor, see {self._paths.hub_log}"

    def _ingest_loop(self) -> None:
        while not self._leave.wait(INGEST_EVERY_S):
            result = self._ingest.once()
            if result.ended_run_ids:
                self._wake.set()
                self._scheduler.modify_job("recommendations", next_run_time=datetime.now(UTC))

    def _jobs(self) -> list[Job]:
        gpu_jobs = [Job("gpu samples", 1.0, lambda: self._store(self._devices.sample_gpus()))]
        return [
            Job("alive", ALIVE_EVERY_S, self._touch_alive),
            Job("cpu samples", 1.0, lambda: self._store(self._devices.sample_cpu())),
            *(gpu_jobs if self._nvml.cards() else []),
            Job("processes", 5.0, self._devices.look_at_processes),
            Job("retention", 3600.0, lambda: prune(self._db, self._paths.spool)),
            Job("recommendations", 300.0, self._answers.refresh_recommendations),
        ]

    def _store(self, samples: list[Any]) -> None:
        if samples:
            insert_device_samples(self._db, samples)

    def _touch_alive(self) -> None:
        self._paths.alive.touch()

    def _banner(self) -> list[str]:
        catalog = [self._catalog.problem] if self._catalog.problem else []
        ingest = [self._ingest.error] if self._ingest.error else []
        tick = [self._last_error] if self._last_error else []
        return [*ingest, *tick, *catalog, *self._db.notices, *self._devices.lost]

    def _on_signal(self, *_: object) -> None:
        # Runs go on without a hub; only `stop` cancels them.
        self._leave.set()
        self._wake.set()

    def _stop(self) -> None:
        self._paths.stopped.touch()
        self._cancels_runs = True
        self._on_signal()

    def _end(self, server: SocketServer) -> None:
        self._scheduler.shutdown(wait=False)
        self._catalog.end()
        with contextlib.suppress(HybridError):  # a full disk must not keep the hub from ending
            self._brought.end()
        self._exports.end()
        if self._cancels_runs:
            self._supervisor.stop_all("cancelled because the hub was stopped")
        self._ingest.drain()
        server.close()
        if (reason := self._db.close()) is not None:
            log.warning("%s", reason)
        log.info("the hub has ended")
