"""Cluster IPs, node ports and IP families: given, kept, refused, taken back."""

from ipaddress import ip_address, ip_network

import pytest

from podwire.client.errors import Invalid
from podwire.model.resources import SERVICES


def service(name, *, port=80, **spec):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"port": port}], **spec},
    }


async def create(api, *args, **kwargs):
    return (await api.client.create(SERVICES, service(*args, **kwargs)))["spec"]


async def test_an_address_of_the_range_above_the_static_part(api):
    spec = await create(api, "a", selector={"a": "b"})
    assert ip_address(spec["clusterIP"]) in ip_network("10.96.0.0/12")
    assert int(ip_address(spec["clusterIP"])) - int(ip_address("10.96.0.0")) > 256
    assert spec["clusterIPs"] == [spec["clusterIP"]]
    assert (spec["ipFamilies"], spec["ipFamilyPolicy"]) == (["IPv4"], "SingleStack")
    assert spec["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert spec["internalTrafficPolicy"] == "Cluster"


async def test_requested_addresses(api):
    assert (await create(api, "a", clusterIP="10.96.0.10"))["clusterIPs"] == ["10.96.0.10"]
    with pytest.raises(Invalid, match="provided IP is already allocated"):
        await create(api, "b", clusterIP="10.96.0.10")
    with pytest.raises(Invalid, match="provided IP is not in the valid range"):
        await create(api, "b", clusterIP="10.95.0.10")
    with pytest.raises(Invalid, match="must be a valid IP address"):
        await create(api, "b", clusterIP="somewhere")
    await api.client.delete(SERVICES, "a", "default")
    await create(api, "b", clusterIP="10.96.0.10")


async def test_headless_and_external_have_none(api):
    headless = await create(api, "h", clusterIP="None", selector={"a": "b"})
    assert headless["clusterIPs"] == ["None"]
    external = await create(api, "e", type="ExternalName", externalName="example.com")
    assert "clusterIP" not in external
    with pytest.raises(Invalid, match=r"spec.externalName: Required value"):
        await create(api, "f", type="ExternalName")


async def test_node_ports(api):
    spec = await create(api, "a", type="NodePort")
    assert 30000 <= spec["ports"][0]["nodePort"] <= 32767
    assert spec["externalTrafficPolicy"] == "Cluster"
    taken = service("b", type="NodePort")
    taken["spec"]["ports"][0]["nodePort"] = spec["ports"][0]["nodePort"]
    with pytest.raises(Invalid, match="provided port is already allocated"):
        await api.client.create(SERVICES, taken)
    outside = service("b", type="NodePort")
    outside["spec"]["ports"][0]["nodePort"] = 80
    with pytest.raises(Invalid, match="The range of valid ports is 30000-32767"):
        await api.client.create(SERVICES, outside)


async def test_an_update_keeps_what_was_given(api):
    made = await api.client.create(SERVICES, service("a", type="NodePort"))
    sent = service("a", type="NodePort")
    sent["metadata"]["labels"] = {"x": "y"}
    kept = await api.client.update(SERVICES, sent)
    assert kept["spec"]["clusterIP"] == made["spec"]["clusterIP"]
    assert kept["spec"]["ports"] == made["spec"]["ports"]
    kept["spec"]["clusterIP"] = "10.96.9.9"
    kept["spec"]["clusterIPs"] = ["10.96.9.9"]
    with pytest.raises(Invalid, match="may not change once set"):
        await api.client.update(SERVICES, kept)


async def test_a_node_port_service_becomes_internal(api):
    made = await api.client.create(SERVICES, service("a", type="NodePort"))
    number = made["spec"]["ports"][0]["nodePort"]
    inner = await api.client.patch(SERVICES, "a", {"spec": {"type": "ClusterIP"}}, "default")
    assert "nodePort" not in inner["spec"]["ports"][0]
    assert "externalTrafficPolicy" not in inner["spec"]
    other = service("b", type="NodePort")
    other["spec"]["ports"][0]["nodePort"] = number
    await api.client.create(SERVICES, other)


async def test_local_load_balancers_get_a_health_port(api):
    spec = await create(api, "a", type="LoadBalancer", externalTrafficPolicy="Local")
    assert 30000 <= spec["healthCheckNodePort"] <= 32767
    assert spec["allocateLoadBalancerNodePorts"] is True


async def test_refused_changes_give_nothing_away(api):
    """A failed create must not keep its address."""
    bad = service("a", clusterIP="10.96.0.77")
    bad["spec"]["ports"] = [{"port": 0}]
    with pytest.raises(
        Invalid, match=r"spec.ports\[0\].port: Invalid value: 0: must be between 1 and 65535, inclusive"
    ):
        await api.client.create(SERVICES, bad)
    await create(api, "b", clusterIP="10.96.0.77")
    with pytest.raises(Invalid):
        await create(api, "c", clusterIP="10.96.0.78", type="NodePort", ports=[{"port": 1, "nodePort": 1}])
    await create(api, "d", clusterIP="10.96.0.78")


async def test_dual_stack(running):
    api = await running.start(service_cidrs=("10.96.0.0/16", "fd00:96::/112"))
    both = await create(api, "a", ipFamilyPolicy="PreferDualStack")
    assert both["ipFamilies"] == ["IPv4", "IPv6"]
    assert [ip_address(a).version for a in both["clusterIPs"]] == [4, 6]
    six = await create(api, "b", ipFamilies=["IPv6"])
    assert ip_address(six["clusterIP"]) in ip_network("fd00:96::/112")
    given = await create(api, "c", clusterIP="fd00:96::10")
    assert given["ipFamilies"] == ["IPv6"]
    up = await api.client.patch(SERVICES, "b", {"spec": {"ipFamilyPolicy": "RequireDualStack"}}, "default")
    assert up["spec"]["ipFamilies"] == ["IPv6", "IPv4"]
    assert up["spec"]["clusterIPs"][0] == six["clusterIP"]
    down = await api.client.patch(
        SERVICES,
        "b",
        {"spec": {"ipFamilyPolicy": "SingleStack", "clusterIPs": [six["clusterIP"]], "ipFamilies": ["IPv6"]}},
        "default",
    )
    assert down["spec"]["clusterIPs"] == [six["clusterIP"]]


async def test_dual_stack_is_refused_on_a_single_stack_cluster(api):
    assert (await create(api, "a", ipFamilyPolicy="PreferDualStack"))["ipFamilies"] == ["IPv4"]
    with pytest.raises(Invalid, match="not configured for dual-stack"):
        await create(api, "b", ipFamilyPolicy="RequireDualStack")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"allocateLoadBalancerNodePorts": False}, "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used"),
        ({"loadBalancerClass": "a/b"}, "spec.loadBalancerClass: Forbidden: may only be used when `type` is"),
        ({"loadBalancerSourceRanges": ["10.0.0.0/8"]}, "spec.LoadBalancerSourceRanges: Forbidden: may only be used"),
        ({"externalTrafficPolicy": "Local"}, 'Invalid value: "Local": may only be set for externally-accessible'),
        ({"healthCheckNodePort": 31000}, "spec.healthCheckNodePort: Invalid value: 31000: may only be set when"),
        ({"trafficDistribution": "Far"}, 'spec.trafficDistribution: Unsupported value: "Far": supported values'),
        ({"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.96.0.9"}, "spec.clusterIP: Forbidden"),
        ({"externalIPs": ["127.0.0.1"]}, r"spec.externalIPs\[0\]: .* may not be in the loopback range"),
        ({"externalIPs": ["0.0.0.0"]}, r"spec.externalIPs\[0\]: .* may not be unspecified"),
        ({"externalIPs": ["172.30.0.041"]}, r"spec.externalIPs\[0\]: .* must be a valid IP address"),
        ({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/33"]}, "must be a valid CIDR value"),
    ],
)
async def test_fields_that_would_mean_nothing_are_refused(api, spec, message):
    with pytest.raises(Invalid, match=message):
        await create(api, "a", **spec)


async def test_what_belonged_to_the_former_type_goes_with_it(api):
    spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerClass": "a/b"}
    made = await api.client.create(SERVICES, service("a", **spec))
    made["spec"]["type"] = "ClusterIP"  # all else sent back as it was read
    inner = (await api.client.update(SERVICES, made))["spec"]
    gone = {"allocateLoadBalancerNodePorts", "loadBalancerClass", "externalTrafficPolicy", "healthCheckNodePort"}
    assert not gone & inner.keys()
    assert inner["clusterIP"] == made["spec"]["clusterIP"]
    await api.client.patch(SERVICES, "a", {"spec": {"type": "NodePort"}}, "default")
    named = await api.client.patch(
        SERVICES, "a", {"spec": {"type": "ExternalName", "externalName": "a.example"}}, "default"
    )
    assert not {"clusterIP", "clusterIPs", "ipFamilies", "externalTrafficPolicy"} & named["spec"].keys()
    assert "nodePort" not in named["spec"]["ports"][0]
    await create(api, "b", clusterIP=inner["clusterIP"])


async def test_one_node_port_for_both_protocols_of_a_port_and_for_one_service(api):
    ports = [{"name": "u", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53}]
    spec = await create(api, "a", type="NodePort", ports=ports)
    number = spec["ports"][0]["nodePort"]
    assert spec["ports"][1]["nodePort"] == number
    with pytest.raises(Invalid, match="provided port is already allocated"):
        await create(api, "b", type="NodePort", ports=[{"port": 1, "protocol": "SCTP", "nodePort": number}])


async def test_a_health_port_without_node_ports(api):
    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": False}
    spec = await create(api, "a", **local)
    assert "nodePort" not in spec["ports"][0]
    with pytest.raises(Invalid, match=r"spec.healthCheckNodePort: Invalid value: .* already allocated"):
        await create(api, "b", healthCheckNodePort=spec["healthCheckNodePort"], **local)
