"""podwire-cni for machines without a C compiler: the same as ``native/podwire-cni.c``, in Python.

It is installed as a copy of this file and runs under ``python3 -I -S``: no package of podwire, and
nothing that is slow to import. The comments are beside the C.
"""

import array
import os
import socket
import sys

HELLO = b"podwire-cni/1\n"
VERSIONS = '["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]'
PATIENCE_S = 120.0


def fail(command: str, path: str, act: str, cause: str) -> int:
    """Print the specification's error and return the exit code."""
    code = 50 if command == "STATUS" else 11
    shown = "".join(c for c in path if c >= " " and c not in '"\\')
    print(
        f'{{"cniVersion":"1.1.0","code":{code},"msg":"cannot {act} the podwire agent at {shown}","details":"{cause}"}}'
    )
    return 1


def send_request(agent: socket.socket) -> None:
    """Send the environment, standard input and the network namespace."""
    netns = os.environ.get("CNI_NETNS")
    rights = []
    if netns:
        try:
            fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        except OSError:
            pass  # DEL of a pod that is gone; for ADD the agent says what is wrong
    agent.sendmsg([HELLO], rights)
    variables = (os.fsencode(f"{k}={v}") + b"\0" for k, v in os.environ.items() if k.startswith("CNI_"))
    agent.sendall(b"".join(variables) + b"\0" + sys.stdin.buffer.read())
    agent.shutdown(socket.SHUT_WR)


def main() -> int:
    """Carry the request to the agent and its answer back; return the exit code."""
    command = os.environ.get("CNI_COMMAND", "")
    path = os.environ.get("PODWIRE_CNI_SOCKET") or "/run/podwire/cni.sock"
    if command == "VERSION":
        print(f'{{"cniVersion":"1.1.0","supportedVersions":{VERSIONS}}}')
        return 0
    agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    agent.settimeout(PATIENCE_S)
    try:
        agent.connect(path)
    except OSError as error:
        return fail(command, path, "reach", error.strerror or "unknown error")
    try:
        send_request(agent)
        answer = b"".join(iter(lambda: agent.recv(65536), b""))
    except OSError as error:
        return fail(command, path, "ask", error.strerror or "no answer in time")
    code, newline, body = answer.partition(b"\n")
    if not newline:
        return fail(command, path, "hear", "it closed the connection; it may have been restarted")
    sys.stdout.buffer.write(body)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
