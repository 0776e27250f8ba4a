"""What an engine starts instead of an interpreter with torch: it lends its streams to a forked child, and ends like it.

Run by path with `-I -S`, so it imports nothing but the standard library and is there in a few hundredths of a second.
"""

import json
import os
import resource
import signal
import socket
import sys


def main() -> None:
    """Arguments: the server's socket, `--result-fd`, the descriptor of the result pipe."""
    path, _, result = sys.argv[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(path)
        order = json.dumps({"environment": dict(os.environ)}).encode()
        socket.send_fds(connection, [order], [0, 1, 2, int(result)])
        # The child has them now: our own copies would keep the pipes open after its end.
        for descriptor in (0, int(result)):
            os.close(descriptor)
        status = connection.recv(4)
    if len(status) < 4:
        sys.exit("the fork server is gone")
    end_like(int.from_bytes(status, "big", signed=True))


def end_like(code: int) -> None:
    """With the same exit code, or by the same signal."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
