"""Every edge of the policy kinds, as a table: name, policies (YAML), packet, verdict and who decided.

docs/policy.md shows the same table; unit tests judge it by the model, and whoever enforces can send the packets.
"""

from __future__ import annotations

from ipaddress import ip_address

import yaml

from podwire.model.objects import Key
from podwire.policy.evaluate import Packet
from podwire.policy.snapshot import Endpoint, PolicySnapshot, snapshot_of

CLUSTER = """
{kind: Namespace, metadata: {name: a, labels: {team: red, purpose: test}}}
---
{kind: Namespace, metadata: {name: b, labels: {team: blue}}}
---
{kind: Node, metadata: {name: n1, labels: {zone: x}}, spec: {podCIDRs: [10.244.1.0/24]},
 status: {addresses: [{type: InternalIP, address: 192.168.71.11}, {type: Hostname, address: n1}]}}
---
{kind: Node, metadata: {name: n2, labels: {zone: y}}, spec: {podCIDRs: [10.244.2.0/24]},
 status: {addresses: [{type: InternalIP, address: 192.168.71.12}]}}
---
{kind: Pod, metadata: {namespace: a, name: web, labels: {app: web, tier: front}},
 spec: {nodeName: n1, containers: [{ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}]}]},
 status: {phase: Running, podIPs: [{ip: 10.244.1.5}, {ip: 'fd00:10:244:1::5'}]}}
---
{kind: Pod, metadata: {namespace: a, name: old, labels: {app: web, version: v1}},
 spec: {nodeName: n2, containers: [{ports: [{name: http, containerPort: 80}]}]},
 status: {phase: Running, podIPs: [{ip: 10.244.2.5}]}}
---
{kind: Pod, metadata: {namespace: a, name: cli, labels: {app: cli}}, spec: {nodeName: n2},
 status: {phase: Running, podIPs: [{ip: 10.244.2.6}, {ip: 'fd00:10:244:2::6'}]}}
---
{kind: Pod, metadata: {namespace: b, name: cli, labels: {app: cli}}, spec: {nodeName: n1},
 status: {phase: Running, podIPs: [{ip: 10.244.1.6}]}}
---
{kind: Pod, metadata: {namespace: b, name: host, labels: {app: cli}}, spec: {nodeName: n2, hostNetwork: true},
 status: {phase: Running, podIPs: [{ip: 192.168.71.12}]}}
---
{kind: Pod, metadata: {namespace: a, name: done, labels: {app: cli}}, spec: {nodeName: n2},
 status: {phase: Succeeded, podIPs: [{ip: 10.244.2.9}]}}
---
{kind: Pod, metadata: {namespace: b, name: heir, labels: {app: heir}}, spec: {nodeName: n2},
 status: {phase: Running, podIPs: [{ip: 10.244.2.9}]}}
"""


def netpol(spec: str, name: str = "p", namespace: str = "a") -> str:
    return f"{{kind: NetworkPolicy, metadata: {{namespace: {namespace}, name: {name}}}, spec: {spec}}}"


def ingress(rules: str, pods: str = "{matchLabels: {app: web}}") -> str:
    return netpol(f"{{podSelector: {pods}, policyTypes: [Ingress], ingress: {rules}}}")


def egress(rules: str, pods: str = "{matchLabels: {app: cli}}") -> str:
    return netpol(f"{{podSelector: {pods}, policyTypes: [Egress], egress: {rules}}}")


def cnp(rules: str, name: str = "c", tier: str = "Admin", priority: int = 10, subject: str = "{namespaces: {}}") -> str:
    return (
        f"{{kind: ClusterNetworkPolicy, metadata: {{name: {name}}}, "
        f"spec: {{tier: {tier}, priority: {priority}, subject: {subject}, {rules}}}}}"
    )


def world(*policies: str, names: dict[str, frozenset] | None = None) -> PolicySnapshot:
    objects = [o for text in (CLUSTER, *policies) for o in yaml.safe_load_all(text)]
    return snapshot_of(objects, names or {})


def end(snapshot: PolicySnapshot, text: str, family: int | None = None) -> Endpoint:
    """a/web: a pod; n1: a node; anything else: an address."""
    if text in snapshot.nodes:
        return snapshot.node_endpoint(text)
    if "/" in text:
        return snapshot.pod_endpoint(Key(*text.split("/")), family)
    return snapshot.endpoint(ip_address(text))


def packet(snapshot: PolicySnapshot, text: str) -> Packet:
    """'a/cli > a/web 80/TCP' and, with '6' at the end, over IPv6."""
    src, _, dst, port, *rest = text.split()
    number, protocol = port.split("/")
    family = 6 if rest == ["6"] else None
    return Packet(end(snapshot, src, family), end(snapshot, dst, family), protocol, int(number))


ALLOW, DENY = True, False
WEB80 = "a/cli > a/web 80/TCP"

TABLE = [
    # name, policies, packet, verdict, a piece of the deciding sentence
    ("no policy", [], WEB80, ALLOW, "no policy decides"),
    ("ingress missing isolates", [netpol("{podSelector: {}}")], WEB80, DENY, "isolated by NetworkPolicy a/p"),
    ("ingress empty list denies all", [ingress("[]")], WEB80, DENY, "no rule allows"),
    ("ingress null denies all", [ingress("null")], WEB80, DENY, "no rule allows"),
    ("ingress empty rule allows all", [ingress("[{}]")], WEB80, ALLOW, "spec.ingress[0]"),
    ("ingress empty rule allows the outside", [ingress("[{}]")], "203.0.113.9 > a/web 1/SCTP", ALLOW, "spec.ingress[0]"),
    ("from missing is everyone", [ingress("[{ports: [{port: 80}]}]")], WEB80, ALLOW, "spec.ingress[0]"),
    ("from empty is everyone", [ingress("[{from: [], ports: [{port: 80}]}]")], WEB80, ALLOW, "spec.ingress[0]"),
    ("from null is everyone", [ingress("[{from: null, ports: [{port: 80}]}]")], "203.0.113.9 > a/web 80/TCP", ALLOW, "[0]"),
    ("ports empty is every port", [ingress("[{from: [{podSelector: {}}], ports: []}]")], "a/cli > a/web 9/UDP", ALLOW, "[0]"),
    ("ports null is every port", [ingress("[{from: [{podSelector: {}}], ports: null}]")], "a/cli > a/web 9/UDP", ALLOW, "[0]"),
    ("other port", [ingress("[{ports: [{port: 80}]}]")], "a/cli > a/web 81/TCP", DENY, "isolated"),
    ("protocol defaults to TCP", [ingress("[{ports: [{port: 80}]}]")], "a/cli > a/web 80/UDP", DENY, "isolated"),
    ("protocol alone is all its ports", [ingress("[{ports: [{protocol: UDP}]}]")], "a/cli > a/web 9/UDP", ALLOW, "[0]"),
    ("port entry empty is all of TCP", [ingress("[{ports: [{}]}]")], "a/cli > a/web 65535/TCP", ALLOW, "[0]"),
    ("port entry empty is not UDP", [ingress("[{ports: [{}]}]")], "a/cli > a/web 9/UDP", DENY, "isolated"),
    ("SCTP", [ingress("[{ports: [{protocol: SCTP, port: 7}]}]")], "a/cli > a/web 7/SCTP", ALLOW, "[0]"),
    ("range first", [ingress("[{ports: [{port: 8000, endPort: 8010}]}]")], "a/cli > a/web 8000/TCP", ALLOW, "[0]"),
    ("range last", [ingress("[{ports: [{port: 8000, endPort: 8010}]}]")], "a/cli > a/web 8010/TCP", ALLOW, "[0]"),
    ("range after", [ingress("[{ports: [{port: 8000, endPort: 8010}]}]")], "a/cli > a/web 8011/TCP", DENY, "isolated"),
    ("named port on web is 8080", [ingress("[{ports: [{port: http}]}]")], "a/cli > a/web 8080/TCP", ALLOW, "[0]"),
    ("named port on web is not 80", [ingress("[{ports: [{port: http}]}]")], "a/cli > a/web 80/TCP", DENY, "isolated"),
    ("named port on old is 80", [ingress("[{ports: [{port: http}]}]")], "a/cli > a/old 80/TCP", ALLOW, "[0]"),
    ("named port of another protocol", [ingress("[{ports: [{port: dns}]}]")], "a/cli > a/web 53/UDP", DENY, "isolated"),
    ("named port with its protocol", [ingress("[{ports: [{port: dns, protocol: UDP}]}]")], "a/cli > a/web 53/UDP", ALLOW, "[0]"),
    ("named port that no pod has", [ingress("[{ports: [{port: nope}]}]")], "a/cli > a/web 8080/TCP", DENY, "isolated"),
    ("egress named port is the destination's", [egress("[{ports: [{port: http}]}]")], "a/cli > a/old 80/TCP", ALLOW, "egress[0]"),
    ("egress named port differs by pod", [egress("[{ports: [{port: http}]}]")], "a/cli > a/web 80/TCP", DENY, "isolated"),
    ("egress named port never outside", [egress("[{ports: [{port: http}]}]")], "a/cli > 203.0.113.9 80/TCP", DENY, "isolated"),
    ("ICMP by an unrestricted rule", [ingress("[{from: [{podSelector: {}}]}]")], "a/cli > a/web 0/ICMP", ALLOW, "[0]"),
    ("ICMP not by a rule with ports", [ingress("[{ports: [{}]}]")], "a/cli > a/web 0/ICMP", DENY, "isolated"),
    ("podSelector alone means the own namespace", [ingress("[{from: [{podSelector: {matchLabels: {app: cli}}}]}]")], "b/cli > a/web 80/TCP", DENY, "isolated"),
    ("podSelector alone", [ingress("[{from: [{podSelector: {matchLabels: {app: cli}}}]}]")], WEB80, ALLOW, "[0]"),
    ("podSelector empty is the whole own namespace", [ingress("[{from: [{podSelector: {}}]}]")], "b/cli > a/web 80/TCP", DENY, "isolated"),
    ("namespaceSelector empty is every pod", [ingress("[{from: [{namespaceSelector: {}}]}]")], "b/cli > a/web 80/TCP", ALLOW, "[0]"),
    ("namespaceSelector empty is not the outside", [ingress("[{from: [{namespaceSelector: {}}]}]")], "203.0.113.9 > a/web 80/TCP", DENY, "isolated"),
    ("namespaceSelector by label", [ingress("[{from: [{namespaceSelector: {matchLabels: {team: blue}}}]}]")], "b/cli > a/web 80/TCP", ALLOW, "[0]"),
    ("namespaceSelector excludes the own", [ingress("[{from: [{namespaceSelector: {matchLabels: {team: blue}}}]}]")], WEB80, DENY, "isolated"),
    ("the automatic namespace label", [ingress("[{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: b}}}]}]")], "b/cli > a/web 80/TCP", ALLOW, "[0]"),
    ("there is no namespace label 'name'", [ingress("[{from: [{namespaceSelector: {matchLabels: {name: b}}}]}]")], "b/cli > a/web 80/TCP", DENY, "isolated"),
    ("both selectors in one peer: and", [ingress("[{from: [{namespaceSelector: {matchLabels: {team: blue}}, podSelector: {matchLabels: {app: no}}}]}]")], "b/cli > a/web 80/TCP", DENY, "isolated"),
    ("selectors in two peers: or", [ingress("[{from: [{namespaceSelector: {matchLabels: {team: blue}}}, {podSelector: {matchLabels: {app: no}}}]}]")], "b/cli > a/web 80/TCP", ALLOW, "[0]"),
    ("In", [ingress("[{from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [x, cli]}]}}]}]")], WEB80, ALLOW, "[0]"),
    ("In on an absent key", [ingress("[{from: [{podSelector: {matchExpressions: [{key: gone, operator: In, values: [x]}]}}]}]")], WEB80, DENY, "isolated"),
    ("NotIn", [ingress("[{from: [{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [cli]}]}}]}]")], WEB80, DENY, "isolated"),
    ("NotIn on an absent key matches", [ingress("[{from: [{podSelector: {matchExpressions: [{key: gone, operator: NotIn, values: [cli]}]}}]}]")], WEB80, ALLOW, "[0]"),
    ("Exists", [ingress("[{from: [{podSelector: {matchExpressions: [{key: app, operator: Exists}]}}]}]")], WEB80, ALLOW, "[0]"),
    ("DoesNotExist", [ingress("[{from: [{podSelector: {matchExpressions: [{key: app, operator: DoesNotExist}]}}]}]")], WEB80, DENY, "isolated"),
    ("requirements of a selector: and", [ingress("[{}]", "{matchLabels: {app: web, tier: no}}")], WEB80, ALLOW, "no policy decides"),
    ("ipBlock matches a pod's address", [ingress("[{from: [{ipBlock: {cidr: 10.244.2.0/24}}]}]")], WEB80, ALLOW, "[0]"),
    ("ipBlock outside", [ingress("[{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}]")], "203.0.113.9 > a/web 80/TCP", ALLOW, "[0]"),
    ("except", [ingress("[{from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.8/29]}}]}]")], "203.0.113.9 > a/web 80/TCP", DENY, "isolated"),
    ("beside except", [ingress("[{from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.8/29]}}]}]")], "203.0.113.16 > a/web 80/TCP", ALLOW, "[0]"),
    ("except trims only its own block", [ingress("[{from: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.8/29]}}, {ipBlock: {cidr: 203.0.113.9/32}}]}]")], "203.0.113.9 > a/web 80/TCP", ALLOW, "[0]"),
    ("except does not trim a podSelector", [ingress("[{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.244.0.0/16]}}, {podSelector: {}}]}]")], WEB80, ALLOW, "[0]"),
    ("IPv6 block", [ingress("[{from: [{ipBlock: {cidr: 'fd00:10:244:2::/64'}}]}]")], "a/cli > a/web 80/TCP 6", ALLOW, "[0]"),
    ("IPv6 except", [ingress("[{from: [{ipBlock: {cidr: 'fd00:10::/32', except: ['fd00:10:244::/48']}}]}]")], "a/cli > a/web 80/TCP 6", DENY, "isolated"),
    ("an IPv4 block is not IPv6", [ingress("[{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]")], "a/cli > a/web 80/TCP 6", DENY, "isolated"),
    ("policyTypes missing: ingress", [netpol("{podSelector: {}, ingress: [{}]}")], "a/cli > 203.0.113.9 80/TCP", ALLOW, "address outside"),
    ("policyTypes missing with egress: both", [netpol("{podSelector: {}, egress: [{}]}")], WEB80, DENY, "ingress denied"),
    ("policyTypes missing, egress empty: ingress only", [netpol("{podSelector: {}, egress: []}")], "a/cli > 203.0.113.9 80/TCP", ALLOW, "address outside"),
    ("policyTypes Egress leaves ingress open", [egress("[]", "{}")], "b/cli > a/web 80/TCP", ALLOW, "no policy decides"),
    ("policyTypes Egress ignores ingress rules", [netpol("{podSelector: {}, policyTypes: [Egress], ingress: [], egress: [{}]}")], "b/cli > a/web 80/TCP", ALLOW, "no policy decides"),
    ("egress empty denies all", [egress("[]")], WEB80, DENY, "egress denied"),
    ("both sides must allow", [egress("[{}]"), ingress("[]").replace("name: p", "name: q")], WEB80, DENY, "ingress denied"),
    ("union: the second policy allows", [ingress("[]"), ingress("[{}]").replace("name: p", "name: q")], WEB80, ALLOW, "a/q"),
    ("a policy of another namespace", [netpol("{podSelector: {}}", namespace="b")], WEB80, ALLOW, "no policy decides"),
    ("a pod always reaches itself", [netpol("{podSelector: {}, policyTypes: [Ingress, Egress]}")], "a/web > a/web 80/TCP", ALLOW, "itself"),
    ("the node's probes", [netpol("{podSelector: {}}")], "n1 > a/web 80/TCP", ALLOW, "own node n1"),
    ("the node's probes come from the bridge", [netpol("{podSelector: {}}")], "10.244.1.1 > a/web 80/TCP", ALLOW, "own node n1"),
    ("another node is no exception", [netpol("{podSelector: {}}")], "n2 > a/web 80/TCP", DENY, "isolated"),
    ("another node's overlay address", [netpol("{podSelector: {}}")], "10.244.2.0 > a/web 80/TCP", DENY, "isolated"),
    ("another node by its address", [ingress("[{from: [{ipBlock: {cidr: 192.168.71.12/32}}]}]")], "n2 > a/web 80/TCP", ALLOW, "[0]"),
    ("to the own node", [egress("[]", "{}")], "a/web > n1 10250/TCP", ALLOW, "ingress allowed"),
    ("to another node", [egress("[]", "{}")], "a/web > n2 10250/TCP", DENY, "egress denied"),
    ("hostNetwork is no subject", [netpol("{podSelector: {}}", namespace="b")], "a/cli > b/host 80/TCP", ALLOW, "under no policy"),
    ("hostNetwork is no pod peer", [ingress("[{from: [{namespaceSelector: {}}]}]")], "b/host > a/web 80/TCP", DENY, "isolated"),
    ("hostNetwork is its node's address", [ingress("[{from: [{ipBlock: {cidr: 192.168.71.0/24}}]}]")], "b/host > a/web 80/TCP", ALLOW, "[0]"),
    ("an ended pod's address is another's", [ingress("[{from: [{podSelector: {matchLabels: {app: cli}}}]}]")], "10.244.2.9 > a/web 80/TCP", DENY, "isolated"),
    ("the heir of the address", [ingress("[{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: heir}}}]}]")], "10.244.2.9 > a/web 80/TCP", ALLOW, "[0]"),
    # The cluster-wide kinds
    ("Admin Deny beats NetworkPolicy", [cnp("ingress: [{action: Deny, from: [{namespaces: {}}]}]"), ingress("[{}]")], WEB80, DENY, "spec.ingress[0]: Deny"),
    ("Admin Accept beats NetworkPolicy", [cnp("ingress: [{action: Accept, from: [{namespaces: {}}]}]"), ingress("[]")], WEB80, ALLOW, "ClusterNetworkPolicy c spec.ingress[0]"),
    ("Admin Pass leaves it to NetworkPolicy", [cnp("ingress: [{action: Pass, from: [{namespaces: {}}]}, {action: Deny, from: [{namespaces: {}}]}]"), ingress("[{}]")], WEB80, ALLOW, "NetworkPolicy a/p"),
    ("Pass skips later policies of the tier", [cnp("ingress: [{action: Pass, from: [{namespaces: {}}]}]"), cnp("ingress: [{action: Deny, from: [{namespaces: {}}]}]", "d", priority=20)], WEB80, ALLOW, "no policy decides"),
    ("first rule wins", [cnp("ingress: [{action: Accept, from: [{namespaces: {}}]}, {action: Deny, from: [{namespaces: {}}]}]")], WEB80, ALLOW, "ingress[0]: Accept"),
    ("lower priority number first", [cnp("ingress: [{action: Deny, from: [{namespaces: {}}]}]", "x", priority=20), cnp("ingress: [{action: Accept, from: [{namespaces: {}}]}]", "y", priority=5)], WEB80, ALLOW, "ClusterNetworkPolicy y"),
    ("a tie is settled by name", [cnp("ingress: [{action: Deny, from: [{namespaces: {}}]}]", "z"), cnp("ingress: [{action: Accept, from: [{namespaces: {}}]}]", "y")], WEB80, ALLOW, "ClusterNetworkPolicy y"),
    ("Baseline Deny", [cnp("ingress: [{action: Deny, from: [{namespaces: {}}]}]", tier="Baseline")], WEB80, DENY, "spec.ingress[0]: Deny"),
    ("NetworkPolicy ends before Baseline", [cnp("ingress: [{action: Deny, from: [{namespaces: {}}]}]", tier="Baseline"), ingress("[{}]")], WEB80, ALLOW, "NetworkPolicy a/p"),
    ("NetworkPolicy denies before Baseline Accept", [cnp("ingress: [{action: Accept, from: [{namespaces: {}}]}]", tier="Baseline"), ingress("[]")], WEB80, DENY, "isolated"),
    ("NetworkPolicy of the other direction leaves Baseline", [cnp("ingress: [{action: Deny, from: [{namespaces: {}}]}]", tier="Baseline"), netpol("{podSelector: {}, policyTypes: [Egress], egress: [{}]}")], WEB80, DENY, "spec.ingress[0]: Deny"),
    ("Baseline Pass", [cnp("ingress: [{action: Pass, from: [{namespaces: {}}]}, {action: Deny, from: [{namespaces: {}}]}]", tier="Baseline")], WEB80, ALLOW, "no policy decides"),
    ("subject by namespaces", [cnp("ingress: [{action: Deny, from: [{namespaces: {}}]}]", subject="{namespaces: {matchLabels: {team: blue}}}")], WEB80, ALLOW, "no policy decides"),
    ("subject by pods", [cnp("ingress: [{action: Deny, from: [{namespaces: {}}]}]", subject="{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}")], WEB80, DENY, "Deny"),
    ("cluster peer is not the outside", [cnp("ingress: [{action: Deny, from: [{namespaces: {}}]}]")], "203.0.113.9 > a/web 80/TCP", ALLOW, "no policy decides"),
    ("protocols number", [cnp("ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]")], WEB80, DENY, "Deny"),
    ("protocols range", [cnp("ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{udp: {destinationPort: {range: {start: 1, end: 99}}}}]}]")], WEB80, ALLOW, "no policy decides"),
    ("destinationNamedPort under any protocol", [cnp("ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: dns}]}]")], "a/cli > a/web 53/UDP", DENY, "Deny"),
    ("networks", [cnp("egress: [{action: Deny, to: [{networks: [203.0.113.0/24, 10.244.0.0/16]}]}]")], WEB80, DENY, "egress[0]: Deny"),
    ("nodes", [cnp("egress: [{action: Deny, to: [{nodes: {matchLabels: {zone: y}}}]}]")], "a/web > n2 10250/TCP", DENY, "egress[0]: Deny"),
    ("nodes by label", [cnp("egress: [{action: Deny, to: [{nodes: {matchLabels: {zone: x}}}]}]")], "a/web > n2 10250/TCP", ALLOW, "under no policy"),
    ("nodes empty is every node", [cnp("egress: [{action: Deny, to: [{nodes: {}}]}]")], "a/web > n2 10250/TCP", DENY, "Deny"),
    ("Accept of an unknown peer matches nothing", [cnp("ingress: [{action: Accept, from: [{namespaces: {}}, {planets: {}}]}]"), ingress("[]")], WEB80, DENY, "isolated"),
    ("Deny of an unknown peer denies all", [cnp("ingress: [{action: Deny, from: [{planets: {}}]}]")], WEB80, DENY, "unknown kind of peer"),
    ("Pass of an unknown peer denies all", [cnp("ingress: [{action: Pass, from: [{}]}]")], "203.0.113.9 > a/web 80/TCP", DENY, "denies all"),
    ("unknown action denies all", [cnp("ingress: [{action: Maybe, from: [{namespaces: {}}]}]")], WEB80, DENY, "denies all"),
    ("a pod reaches itself whatever Admin says", [cnp("ingress: [{action: Deny, from: [{namespaces: {}}]}]")], "a/web > a/web 80/TCP", ALLOW, "itself"),
    ("AdminNetworkPolicy Allow", ["{kind: AdminNetworkPolicy, metadata: {name: c}, spec: {priority: 1, subject: {namespaces: {}}, ingress: [{action: Allow, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: cli}}}}], ports: [{portNumber: {port: 80}}]}]}}", ingress("[]")], WEB80, ALLOW, "AdminNetworkPolicy c"),
    ("AdminNetworkPolicy portRange", ["{kind: AdminNetworkPolicy, metadata: {name: c}, spec: {priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], ports: [{portRange: {protocol: TCP, start: 79, end: 81}}]}]}}"], WEB80, DENY, "Deny"),
    ("AdminNetworkPolicy namedPort", ["{kind: AdminNetworkPolicy, metadata: {name: c}, spec: {priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], ports: [{namedPort: http}]}]}}"], "a/cli > a/web 8080/TCP", DENY, "Deny"),
    ("BaselineAdminNetworkPolicy", ["{kind: BaselineAdminNetworkPolicy, metadata: {name: default}, spec: {subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}"], WEB80, DENY, "BaselineAdminNetworkPolicy default"),
    ("BaselineAdminNetworkPolicy after Baseline", ["{kind: BaselineAdminNetworkPolicy, metadata: {name: default}, spec: {subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}", cnp("ingress: [{action: Accept, from: [{namespaces: {}}]}]", tier="Baseline", priority=1000)], WEB80, ALLOW, "ClusterNetworkPolicy c"),
    # What cannot be read
    ("an empty peer closes the policy", [ingress("[{from: [{}]}, {}]")], WEB80, DENY, "unusable"),
    ("ipBlock beside podSelector closes it", [ingress("[{from: [{podSelector: {}, ipBlock: {cidr: 0.0.0.0/0}}]}]")], WEB80, DENY, "unusable"),
    ("a bad selector closes the namespace", [netpol("{podSelector: {matchExpressions: [{key: a, operator: Huh}]}, ingress: [{}]}")], WEB80, DENY, "unusable"),
    ("it closes only its own pods", [ingress("[{from: [{}]}]")], "a/web > a/cli 80/TCP", ALLOW, "no policy decides"),
]  # fmt: skip
