"""A process that has imported everything and computed nothing, and forks a child for each trial.

Starting an interpreter and importing torch is most of a trial on a tiny model, and a table has hundreds of them. The
child runs `workers.measure_process` unchanged: the client that the engine starts in its place hands over its own
pipes, environment and end, so deadlines, killing and judging stay where they are (`workers.engines.local`). Forked
children share the memory layout of their server, which is part of what differs between processes; so a table uses
many servers, one after the other, and never the same one for both passes.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENT = Path(__file__).with_name("fork_client.py")
MAX_ORDER_BYTES = 1 << 16
Entry = Callable[[list[str]], int]
READY = b"ready\n"
START_TIMEOUT_S = 180.0
ENTRY = "workers.measure_process"
# What a trial would import by itself; nothing that starts threads or changes torch.
PRELOADED = ("hybrid_core.evaluation", "hybrid_core.recipes", "torch._inductor.compile_fx", "torchao.quantization")


class ForkServer:
    """The parent's end: starts the server, names the command that an engine runs instead of an interpreter."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str], preload: Sequence[str] = PRELOADED, entry: str = ENTRY
    ) -> None:
        """`environment` is that of a measure process; `folder` is private and gets the socket.

        `entry` is the module whose `main(arguments)` a child calls.

        Raises:
            RuntimeError: it does not start.
        """
        self.socket_path = folder / "fork.socket"
        self.command = (sys.executable, "-I", "-S", str(CLIENT), str(self.socket_path))
        self.socket_path.unlink(missing_ok=True)
        own = [sys.executable, "-m", "benchmarks.search.fork_server", str(self.socket_path), entry, *preload]
        with (folder / "fork.log").open("ab") as log:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                own, cwd=ROOT, env=dict(environment), stdin=pipe, stdout=pipe, stderr=log, start_new_session=True
            )
        if not select.select([self._process.stdout], [], [], START_TIMEOUT_S)[0] or self._answer() != READY:
            self.stop()
            raise RuntimeError(f"the fork server did not start within {START_TIMEOUT_S:.0f} s; see {folder}/fork.log")

    def refuse_if_gone(self) -> None:
        """A server that died is no recipe's fault.

        Raises:
            RuntimeError: it died.
        """
        if self._process.poll() is not None:
            raise RuntimeError(f"the fork server ended with code {self._process.returncode}")

    def _answer(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def stop(self) -> None:
        """End it; a child that still runs goes with the pipe it was given."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self.socket_path.unlink(missing_ok=True)


def serve(path: Path, entry: Entry) -> None:
    """Take one order after the other until the parent is gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen(4)
        sys.stdout.buffer.write(READY)
        sys.stdout.flush()
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:  # nothing is ever written to it: this is its end
                return
            connection, _ = listener.accept()
            with connection:
                answer_one(connection, listener, entry)


def answer_one(connection: socket.socket, listener: socket.socket, entry: Entry) -> None:
    """Fork for one client and tell it how the child ended; a client that goes takes the child with it."""
    order, descriptors = take_order(connection)
    if order is None:
        return
    refuse_threads()
    child = os.fork()
    if child == 0:
        listener.close()
        connection.close()
        run_child(order, descriptors, entry)
    for descriptor in descriptors:
        os.close(descriptor)
    status = wait_for(child, connection)
    with contextlib.suppress(OSError):
        connection.sendall(status.to_bytes(4, "big", signed=True))


def take_order(connection: socket.socket) -> tuple[dict[str, object] | None, list[int]]:
    """The environment of a trial, with its standard streams and its result pipe; None without a client."""
    size = array.array("i").itemsize
    text, extra, _, _ = connection.recvmsg(MAX_ORDER_BYTES, socket.CMSG_SPACE(4 * size))
    descriptors = array.array("i")
    for level, kind, data in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % size])
    return (json.loads(text) if text else None), list(descriptors)


def refuse_threads() -> None:
    """A fork copies one thread and the locks of all; with a second one the child could hang."""
    count = len(os.listdir("/proc/self/task"))  # noqa: PTH208 (names are enough)
    if count != 1:
        raise RuntimeError(f"the fork server has {count} threads; preload nothing that starts any")


def run_child(order: dict[str, object], descriptors: Sequence[int], entry: Entry) -> None:
    """Become the measure process that was asked for; never returns."""
    code = 1
    try:
        os.setsid()
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(name, signal.SIG_DFL if name != signal.SIGPIPE else signal.SIG_IGN)
        for target, descriptor in enumerate(descriptors[:3]):
            os.dup2(descriptor, target)
            os.close(descriptor)
        environment = order["environment"]
        assert isinstance(environment, dict)
        os.environ.clear()
        os.environ.update(environment)
        code = entry(["--result-fd", str(descriptors[3])])
    except BaseException:  # the border: whatever it was belongs into the trial's log
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait_for(child: int, connection: socket.socket) -> int:
    """The child's exit code, negative for a signal; it and its group are killed when the client goes first."""
    exit_fd = os.pidfd_open(child)
    try:
        select.select([exit_fd, connection], [], [])
    finally:
        os.close(exit_fd)
    ended, status = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    if not ended:
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def main() -> None:
    """Import, freeze, serve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("socket", type=Path)
    parser.add_argument("entry")
    parser.add_argument("preload", nargs="*")
    chosen = parser.parse_args()
    entry: Entry = import_module(chosen.entry).main
    for name in chosen.preload:
        with contextlib.suppress(ImportError):  # an optional library that is not here is not needed by a trial either
            import_module(name)
    # What is alive now is never looked through by a child's collector, which would copy all of its pages.
    gc.collect()
    gc.freeze()
    serve(chosen.socket, entry)


if __name__ == "__main__":
    main()
