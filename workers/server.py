"""The hub's side of the socket: one thread per connection, bounded, and no request that can end it.

Every wrong frame, unknown operation, strange value or error of our own becomes one sentence to the one who asked;
the trace goes to the log. Idle connections are closed after a while, so that forgotten clients do not use up the bound.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hybrid_core.errors import HubUnavailable, HybridError, InvalidInput
from workers.protocol import MAX_REQUEST_BYTES, FrameError, PeerGone, read_frame, send_answer, send_error

log = logging.getLogger("server")
MAX_CONNECTIONS = 128
IDLE_TIMEOUT_S = 120.0
LAST_ANSWERS_S = 2.0

# Answers one request: (value, Arrow stream or None).
Answer = Callable[[Mapping[str, Any]], tuple[Any, bytes | None]]


class SocketServer:
    """Listens on a unix socket that only this user can reach."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path, self._answer = path, answer
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._is_closing = False
        # Whoever creates this holds the hub's lock, so a socket that is there belongs to a dead hub.
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(MAX_CONNECTIONS)

    def start(self) -> None:
        """Begin to accept connections in a thread."""
        threading.Thread(target=self._accept, name="server", daemon=True).start()

    def close(self) -> None:
        """Take no further request, let answers in preparation out, remove the socket; call it while the lock is held.

        One of them may be the answer to the very request that ends the hub.
        """
        self._is_closing = True
        self._listener.close()
        self._path.unlink(missing_ok=True)
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        patience = time.monotonic() + LAST_ANSWERS_S
        while self._open and time.monotonic() < patience:
            time.sleep(0.01)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if self._listener.fileno() < 0:
                    return
                log.error("cannot accept a connection: %s", error)
                threading.Event().wait(0.2)  # out of descriptors, most likely; some will be closed
                continue
            if self._room.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(connection,), name="request", daemon=True).start()
            else:
                with connection, contextlib.suppress(OSError):
                    send_error(connection, f"the hub has {MAX_CONNECTIONS} connections; try again", "unavailable")

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._open.add(connection)
            with connection:
                connection.settimeout(IDLE_TIMEOUT_S)
                while self._serve_one(connection):
                    pass
        except OSError:
            return  # the peer went away; nobody is left to tell
        finally:
            self._open.discard(connection)
            self._room.release()

    def _serve_one(self, connection: socket.socket) -> bool:
        """Answer one request; False when the connection is of no more use."""
        try:
            request = read_frame(connection.recv, MAX_REQUEST_BYTES)
        except PeerGone:
            return False
        except FrameError as error:
            send_error(connection, str(error), "invalid_input")
            return False
        if self._is_closing:
            return False
        try:
            if not isinstance(request, dict):
                raise InvalidInput(f"a request is a JSON object with an op, not {type(request).__name__}")
            value, arrow = self._answer(request)
        except HybridError as error:
            send_error(connection, str(error), _kind(error))
            return True
        except Exception as error:  # the border of the process: the peer gets a sentence, the log the trace
            log.exception("request %.80r failed", request.get("op"))
            text = f"the hub could not answer {request.get('op')!r:.40} ({type(error).__name__}); see its log"
            send_error(connection, text, "internal")
            return True
        send_answer(connection, value, arrow)
        return True


def _kind(error: HybridError) -> str:
    if isinstance(error, InvalidInput):
        return "invalid_input"
    return "unavailable" if isinstance(error, HubUnavailable) else "internal"
