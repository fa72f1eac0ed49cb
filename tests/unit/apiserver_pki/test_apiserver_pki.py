"""The cluster's certificates: made once, reused, renewed when they no longer fit."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from ipaddress import ip_address
from pathlib import Path

import yaml

from podwire.apiserver import pki


def test_files_are_made_once_and_reused(tmp_path: Path) -> None:
    first = pki.ensure(tmp_path / "pki", addresses=[ip_address("10.96.0.1")])
    again = pki.ensure(tmp_path / "pki", addresses=[ip_address("10.96.0.1")])
    assert first == again
    assert (tmp_path / "pki/ca.key").stat().st_mode & 0o777 == 0o600


def test_a_new_address_renews_only_the_serving_certificate(tmp_path: Path) -> None:
    first = pki.ensure(tmp_path)
    again = pki.ensure(tmp_path, addresses=[ip_address("192.168.71.1")])
    assert again.authority == first.authority
    assert again.kubelet_client == first.kubelet_client
    assert again.service_account_key_pem == first.service_account_key_pem
    assert again.serving != first.serving


def test_a_key_that_does_not_fit_its_certificate_is_replaced(tmp_path: Path) -> None:
    first = pki.ensure(tmp_path)
    (tmp_path / "apiserver.key").write_text(first.kubelet_client.key_pem)
    again = pki.ensure(tmp_path)
    assert again.serving.cert_pem != first.serving.cert_pem
    pki.server_context(again)  # would raise on a mismatch


def test_openssl_accepts_the_chain(tmp_path: Path) -> None:
    pki.ensure(tmp_path)
    for purpose in ("sslserver", "sslclient"):
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", tmp_path / "ca.crt"]
        done = subprocess.run([*command, tmp_path / "apiserver.crt"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


async def test_mutual_tls_shows_the_name_and_organizations(tmp_path: Path) -> None:
    made = pki.ensure(tmp_path)
    seen: list[object] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peercert"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=pki.server_context(made))
    port = server.sockets[0].getsockname()[1]
    context = pki.kubelet_context(made)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    await reader.read()
    writer.close()
    server.close()
    certificate = seen[0]
    assert isinstance(certificate, dict)
    assert (("commonName", "kube-apiserver-kubelet-client"),) in certificate["subject"]
    assert (("organizationName", "system:masters"),) in certificate["subject"]


def test_minted_node_certificate_serves_and_authenticates(tmp_path: Path) -> None:
    made = pki.ensure(tmp_path)
    pair = pki.mint(made.authority, "system:node:node-0", ("system:nodes",), addresses=(ip_address("192.168.71.10"),))
    (tmp_path / "n.crt").write_text(pair.cert_pem)
    text = subprocess.run(
        ["openssl", "x509", "-in", tmp_path / "n.crt", "-noout", "-text"], capture_output=True, text=True
    ).stdout
    assert "TLS Web Server Authentication, TLS Web Client Authentication" in text
    assert "IP Address:192.168.71.10" in text
    assert "O = system:nodes, CN = system:node:node-0" in text


def test_kubeconfig_is_what_clients_read(tmp_path: Path) -> None:
    made = pki.ensure(tmp_path)
    text = pki.kubeconfig(
        "https://127.0.0.1:6443", made.authority.cert_pem, cluster="lab", user="admin", pair=made.serving
    )
    config = yaml.safe_load(text)
    assert config["current-context"] == "lab"
    assert config["users"][0]["user"].keys() == {"client-certificate-data", "client-key-data"}
    assert isinstance(ssl.PEM_cert_to_DER_cert(made.authority.cert_pem), bytes)
    path = tmp_path / "kubeconfig"
    pki.write_private(path, text)
    from podwire.client.http import from_kubeconfig, ssl_context

    access = from_kubeconfig(path)
    assert access.client_cert_pem == made.serving.cert_pem
    ssl_context(access)
