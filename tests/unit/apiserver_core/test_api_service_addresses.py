"""IPAddress objects and ServiceCIDRs follow the Services."""

import asyncio
import sqlite3
from ipaddress import ip_address, ip_network

import pytest

from podwire.client.errors import Invalid, NotFound
from podwire.model.objects import condition
from podwire.model.resources import SERVICES, Resource

ADDRESSES = Resource("networking.k8s.io", "v1", "ipaddresses", "IPAddress", namespaced=False)
CIDRS = Resource("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", namespaced=False)


def service(name, **spec):
    meta = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 80}], **spec}}


def cidr(name, *networks):
    return {
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
        "spec": {"cidrs": list(networks)},
    }  # fmt: skip


async def until(ask):
    for _ in range(400):
        try:
            found = await ask()
        except NotFound:
            found = None
        if found:
            return found
        await asyncio.sleep(0.005)
    raise AssertionError("never")


async def gone(api, resource, name):
    async def ask():
        try:
            await api.client.get(resource, name)
        except NotFound:
            return True
        return False

    await until(ask)


async def test_every_cluster_ip_has_its_object(api):
    made = (await api.client.create(SERVICES, service("a")))["spec"]
    found = await until(lambda: api.client.get(ADDRESSES, made["clusterIP"]))
    parent = {"group": "", "resource": "services", "namespace": "default", "name": "a"}
    assert found["spec"]["parentRef"] == parent
    assert found["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"] == "IPv4"
    await api.client.delete(ADDRESSES, made["clusterIP"])  # somebody meddles: it comes back
    again = await until(lambda: api.client.get(ADDRESSES, made["clusterIP"]))
    assert again["metadata"]["uid"] != found["metadata"]["uid"]
    await api.client.delete(SERVICES, "a", "default")
    await gone(api, ADDRESSES, made["clusterIP"])


async def test_a_start_puts_right_what_a_crash_left(running):
    api = await running.start()
    made = (await api.client.create(SERVICES, service("a")))["spec"]
    await until(lambda: api.client.get(ADDRESSES, made["clusterIP"]))
    await running.stop()
    with sqlite3.connect(running.directory / "store.db") as rows:
        tables = [r[0] for r in rows.execute("select name from sqlite_master where type = 'table'")]
        assert tables  # the object of "a" vanishes, as if the crash had come before it
        for table in tables:
            columns = [r[1] for r in rows.execute(f"pragma table_info({table})")]
            if {"bucket", "name"} <= set(columns):
                rows.execute(f"delete from {table} where bucket = 'ipaddresses.networking.k8s.io'")
    rows.close()
    api = await running.start()
    await until(lambda: api.client.get(ADDRESSES, made["clusterIP"]))
    with pytest.raises(Invalid, match="already allocated"):
        await api.client.create(SERVICES, service("b", clusterIP=made["clusterIP"]))


async def test_a_further_range_is_used_and_held_while_in_use(running):
    api = await running.start(service_cidrs=("10.96.0.0/30",))  # one address, and it is the API's own
    default = await until(lambda: api.client.get(CIDRS, "kubernetes"))
    assert default["spec"]["cidrs"] == ["10.96.0.0/30"]
    await api.client.create(SERVICES, service("last"))
    await api.client.create(CIDRS, cidr("more", "10.200.0.0/24"))

    async def ready():
        return condition(await api.client.get(CIDRS, "more"), "Ready")

    assert (await until(ready))["status"] == "True"
    made = (await api.client.create(SERVICES, service("a")))["spec"]
    assert ip_address(made["clusterIP"]) in ip_network("10.200.0.0/24")
    await until(lambda: api.client.get(ADDRESSES, made["clusterIP"]))
    await api.client.delete(CIDRS, "more")

    async def terminating():
        return (condition(await api.client.get(CIDRS, "more"), "Ready") or {}).get("reason") == "Terminating"

    await until(terminating)
    with pytest.raises(Invalid, match="not in the valid range"):
        await api.client.create(SERVICES, service("b", clusterIP="10.200.0.77"))
    await api.client.delete(SERVICES, "a", "default")
    await gone(api, CIDRS, "more")
