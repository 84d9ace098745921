"""The command that Ray Serve runs as HAProxy; executed by path, with the standard library alone.

Ray writes a config for a cluster behind a firewall. Before HAProxy starts, it is changed here:
pages of statistics and metrics listen on the loopback address only, a client that sends its headers
slowly is cut off, errors of HAProxy itself have this project's form. HAProxy ends with the process
that started it.

    python haproxy.py BINARY [options of HAProxy]
"""

import ctypes
import json
import os
import re
import signal
import sys
from pathlib import Path

HEADER_TIMEOUT_S = 10
PR_SET_PDEATHSIG = 1
ERRORS = {
    502: (503, "unhealthy", "The replica ended before it answered; try again."),
    503: (503, "unhealthy", "No replica can answer now; try again."),
    504: (504, "timeout", "No answer in time."),
}
"""Status that HAProxy finds → status, type and text of the answer."""


def adapted(config: str, folder: Path) -> str:
    """Return the config that is used instead of the one that Ray wrote.

    Args:
        config: As Ray wrote it.
        folder: Holds the answers to errors.
    """
    config = re.sub(r"(?m)^(frontend prometheus\n\s+bind) :", r"\1 127.0.0.1:", config)
    config = re.sub(r"(?m)^(listen stats\n\s+bind) \*:", r"\1 127.0.0.1:", config)
    config = re.sub(r"(?m)^\s*errorfile \d+ .*\n", "", config)
    lines = [f"    errorfile {code} {folder / f'{code}.json.http'}" for code in ERRORS]
    lines.append(f"    timeout http-request {HEADER_TIMEOUT_S}s")
    return re.sub(r"(?m)^defaults$", "\n".join(["defaults", *lines]), config)


def write_errors(folder: Path) -> None:
    """Write the answers to errors that HAProxy finds itself."""
    reasons = {503: "Service Unavailable", 504: "Gateway Timeout"}
    for code, (status, error_type, message) in ERRORS.items():
        body = json.dumps({"error": message, "error_type": error_type, "request_id": ""})
        head = [f"HTTP/1.1 {status} {reasons[status]}", "Content-Type: application/json"]
        head += [f"Content-Length: {len(body)}", "Retry-After: 1", "Connection: close", "", body]
        (folder / f"{code}.json.http").write_text("\r\n".join(head), newline="")


def main(binary: str, arguments: list[str]) -> None:
    """Adapt the config and become HAProxy."""
    path = Path(arguments[arguments.index("-f") + 1])
    write_errors(path.parent)
    path.write_text(adapted(path.read_text(), path.parent))
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == parent:  # else it ended before the line above
        os.execv(binary, [binary, *arguments])  # noqa: S606  (Ray's arguments)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
