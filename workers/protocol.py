"""How clients and the hub talk over the unix socket: length-prefixed JSON, with Arrow behind it for tables.

A frame is a 4-byte big-endian length and that many bytes of JSON. An answer is one frame, `{"ok": true, "value": ...}`
or `{"ok": false, "error": sentence, "kind": ...}`; with `"arrow": n` in it n bytes of Arrow IPC stream follow. Sizes
are capped on both sides, so a broken or hostile peer costs a sentence and never the memory of the process. The same
frames carry a measure process's phases and result (`workers.measure_process`).
"""

from __future__ import annotations

import io
import json
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

from hybrid_core.errors import HubUnavailable, HybridError, InvalidInput

MAX_REQUEST_BYTES = 1 << 20
MAX_ANSWER_BYTES = 64 << 20
MAX_ARROW_BYTES = 512 << 20
_HEADER = struct.Struct(">I")
# An answer's `kind` and the exception it becomes at the client; whatever else went wrong is the hub's fault.
ERROR_KINDS: dict[str, type[HybridError]] = {"invalid_input": InvalidInput, "unavailable": HubUnavailable}

Receive = Callable[[int], bytes]


class FrameError(Exception):
    """A frame that breaks the rules; the message is a sentence for the peer. The stream cannot be used any more."""


class PeerGone(FrameError):
    """The other side closed the stream, inside a frame or between two."""


def encode_frame(value: Any) -> bytes:
    """One JSON value as a frame; NaN is refused because JSON has none."""
    body = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    return _HEADER.pack(len(body)) + body


def read_frame(receive: Receive, limit_bytes: int) -> Any:
    """Read one frame through `receive(n)`, which returns at most n bytes and b"" at the end.

    Raises:
        PeerGone: the stream ended.
        FrameError: the frame is larger than the limit or holds no JSON.
    """
    (size,) = _HEADER.unpack(read_exactly(receive, _HEADER.size))
    if size > limit_bytes:
        raise FrameError(f"a message of {size:,} bytes is not allowed; send at most {limit_bytes:,}")
    body = read_exactly(receive, size)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"the message is not JSON ({str(error)[:80]}); send one JSON object") from error


class FrameBuffer:
    """Frames out of a stream that arrives in pieces, for a reader that must not block."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = bytearray()

    def feed(self, piece: bytes) -> Iterator[Any]:
        """Add what arrived and yield the values of the frames it completed.

        Raises:
            FrameError: a frame is larger than the limit or holds no JSON; what came before it was yielded.
        """
        self._bytes += piece
        while len(self._bytes) >= _HEADER.size:
            (size,) = _HEADER.unpack_from(self._bytes)
            if size <= self._limit_bytes and len(self._bytes) < _HEADER.size + size:
                break
            taken = bytes(self._bytes[: _HEADER.size + size])
            del self._bytes[: len(taken)]
            yield read_frame(io.BytesIO(taken).read, self._limit_bytes)


def read_exactly(receive: Receive, size: int) -> bytes:
    """Exactly `size` bytes, however the stream cuts them.

    Raises:
        PeerGone: the stream ended first.
    """
    parts = bytearray()
    while len(parts) < size:
        part = receive(min(size - len(parts), 1 << 20))
        if not part:
            raise PeerGone("the other side closed the connection")
        parts += part
    return bytes(parts)


def send_answer(connection: socket.socket, value: Any, arrow: bytes | None = None) -> None:
    """Send a successful answer; `arrow` is an Arrow IPC stream."""
    header: dict[str, Any] = {"ok": True, "value": value}
    if arrow is not None:
        header["arrow"] = len(arrow)
    connection.sendall(encode_frame(header))
    if arrow is not None:
        connection.sendall(arrow)


def send_error(connection: socket.socket, sentence: str, kind: str) -> None:
    """Send a refusal; `kind` is a key of ERROR_KINDS or "internal"."""
    connection.sendall(encode_frame({"ok": False, "error": sentence, "kind": kind}))


def read_answer(connection: socket.socket) -> tuple[Any, bytes | None]:
    """The value and the Arrow bytes of one answer.

    Raises:
        HybridError: the hub refused; the message is its sentence.
        FrameError: the stream broke.
    """
    header = read_frame(connection.recv, MAX_ANSWER_BYTES)
    if not isinstance(header, dict) or "ok" not in header:
        raise FrameError("the answer is not from a hub of this project; stop what listens on the socket")
    if not header["ok"]:
        raise ERROR_KINDS.get(str(header.get("kind")), HubUnavailable)(str(header.get("error")))
    size = header.get("arrow")
    if size is None:
        return header.get("value"), None
    if not isinstance(size, int) or not 0 <= size <= MAX_ARROW_BYTES:
        raise FrameError(f"a table of {size!r} bytes is not allowed; ask for fewer rows")
    return header.get("value"), read_exactly(connection.recv, size)
