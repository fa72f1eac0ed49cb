"""A bare API server for development: ``python -m podwire.apiserver --dir D --port P``.

Listens on 127.0.0.1 only and writes D/kubeconfig for a cluster administrator.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
from ipaddress import IPv4Address
from pathlib import Path

from podwire.apiserver import agent, pki


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m podwire.apiserver", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="state directory")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--service-cidr", default="10.96.0.0/12", help="one or two ranges, comma-separated")
    options = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", options.port), backlog=1024)
    port = listener.getsockname()[1]
    config = agent.Config(
        options.dir,
        (listener,),
        advertise=IPv4Address("127.0.0.1"),
        advertise_port=port,
        service_cidrs=options.service_cidr.split(","),
    )
    keys = agent.ensure_pki(config)
    admin = pki.mint(keys.authority, "kubernetes-admin", ("system:masters",))
    path = options.dir / "kubeconfig"
    text = pki.kubeconfig(
        f"https://127.0.0.1:{port}", keys.authority.cert_pem, cluster="podwire", user="admin", pair=admin
    )
    pki.write_private(path, text)

    def announce() -> None:
        print(f"ready: export KUBECONFIG={path}", flush=True)

    import uvloop

    try:
        uvloop.run(_until_signal(config, announce))
    except KeyboardInterrupt:
        pass


async def _until_signal(config: agent.Config, announce) -> None:  # type: ignore[no-untyped-def]
    task = asyncio.create_task(agent.serve(config, ready=announce))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        pass


if __name__ == "__main__":
    main()
