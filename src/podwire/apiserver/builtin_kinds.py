"""The kinds that every cluster serves, as a table a person can read.

Columns: kind, plural, scope (N namespaced, C cluster), short names, subresources; ``*`` after the plural
puts a kind into the category "all". Groups follow the table's ``[group/version]`` lines.
"""

from __future__ import annotations

from collections.abc import Iterator

from podwire.apiserver import autoscalerforms, eventforms
from podwire.apiserver.kinds import ALL_VERBS, REVIEW_VERBS, Kind, ScalePaths, Subresource

_TABLE = """
[/v1]
ConfigMap              configmaps              N cm      -
Endpoints              endpoints               N ep      -
Event                  events                  N ev      -
LimitRange             limitranges             N limits  -
Namespace              namespaces              C ns      finalize,status
Node                   nodes                   C no      proxy,status
PersistentVolume       persistentvolumes       C pv      status
PersistentVolumeClaim  persistentvolumeclaims  N pvc     status
Pod                    pods*                   N po      attach,binding,ephemeralcontainers,eviction,\
exec,log,portforward,proxy,resize,status
PodTemplate            podtemplates            N -       -
ReplicationController  replicationcontrollers* N rc      scale,status
ResourceQuota          resourcequotas          N quota   status
Secret                 secrets                 N -       -
Service                services*               N svc     proxy,status
ServiceAccount         serviceaccounts         N sa      token
[apps/v1]
ControllerRevision     controllerrevisions     N -       -
DaemonSet              daemonsets*             N ds      status
Deployment             deployments*            N deploy  scale,status
ReplicaSet             replicasets*            N rs      scale,status
StatefulSet            statefulsets*           N sts     scale,status
[batch/v1]
CronJob                cronjobs*               N cj      status
Job                    jobs*                   N -       status
[autoscaling/v2]
HorizontalPodAutoscaler horizontalpodautoscalers* N hpa  status
[autoscaling/v1]
HorizontalPodAutoscaler horizontalpodautoscalers* N hpa  status
[discovery.k8s.io/v1]
EndpointSlice          endpointslices          N -       -
[networking.k8s.io/v1]
Ingress                ingresses               N ing     status
IngressClass           ingressclasses          C -       -
IPAddress              ipaddresses             C ip      -
NetworkPolicy          networkpolicies         N netpol  -
ServiceCIDR            servicecidrs            C -       status
[policy/v1]
PodDisruptionBudget    poddisruptionbudgets    N pdb     status
[coordination.k8s.io/v1]
Lease                  leases                  N -       -
[events.k8s.io/v1]
Event                  events                  N ev      -
[rbac.authorization.k8s.io/v1]
ClusterRole            clusterroles            C -       -
ClusterRoleBinding     clusterrolebindings     C -       -
Role                   roles                   N -       -
RoleBinding            rolebindings            N -       -
[node.k8s.io/v1]
RuntimeClass           runtimeclasses          C -       -
[scheduling.k8s.io/v1]
PriorityClass          priorityclasses         C pc      -
[storage.k8s.io/v1]
CSIDriver              csidrivers              C -       -
CSINode                csinodes                C -       -
CSIStorageCapacity     csistoragecapacities    N -       -
StorageClass           storageclasses          C sc      -
VolumeAttachment       volumeattachments       C -       status
[admissionregistration.k8s.io/v1]
MutatingWebhookConfiguration     mutatingwebhookconfigurations     C - -
ValidatingAdmissionPolicy        validatingadmissionpolicies       C - status
ValidatingAdmissionPolicyBinding validatingadmissionpolicybindings C - -
ValidatingWebhookConfiguration   validatingwebhookconfigurations   C - -
[apiextensions.k8s.io/v1]
CustomResourceDefinition customresourcedefinitions C crd,crds status
[certificates.k8s.io/v1]
CertificateSigningRequest certificatesigningrequests C csr approval,status
[authentication.k8s.io/v1]
SelfSubjectReview      selfsubjectreviews      C - !
TokenReview            tokenreviews            C - !
[authorization.k8s.io/v1]
LocalSubjectAccessReview localsubjectaccessreviews N - !
SelfSubjectAccessReview  selfsubjectaccessreviews  C - !
SelfSubjectRulesReview   selfsubjectrulesreviews   C - !
SubjectAccessReview      subjectaccessreviews      C - !
"""

_GROUP_MODULES = {
    "": "io.k8s.api.core",
    "apiextensions.k8s.io": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
}

# Kinds that are stored in another version: (to the stored form, from it).
_FORMS = {
    ("events.k8s.io", "v1", "Event"): (eventforms.to_core, eventforms.from_core),
    ("autoscaling", "v1", "HorizontalPodAutoscaler"): (autoscalerforms.to_v2, autoscalerforms.to_v1),
}

_DEPRECATED = {
    ("", "v1", "Endpoints"): "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
}
_CREATED_ON_UPDATE = frozenset(
    ["Endpoints", "Event", "LimitRange", "Lease", "Service", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"]
)

_STATUS_VERBS = ("get", "patch", "update")
_CONNECT_VERBS = ("create", "get")
_CONNECT_KINDS = {
    "attach": "PodAttachOptions",
    "exec": "PodExecOptions",
    "portforward": "PodPortForwardOptions",
}
_PROXY_VERBS = ("create", "delete", "get", "patch", "update")

# Field selectors beyond metadata.name and metadata.namespace, as Kubernetes knows them.
_SELECTABLE: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {
    ("", "Pod"): {
        "spec.nodeName": ("spec", "nodeName"),
        "spec.restartPolicy": ("spec", "restartPolicy"),
        "spec.schedulerName": ("spec", "schedulerName"),
        "spec.serviceAccountName": ("spec", "serviceAccountName"),
        "spec.hostNetwork": ("spec", "hostNetwork"),
        "status.phase": ("status", "phase"),
        "status.podIP": ("status", "podIP"),
        "status.nominatedNodeName": ("status", "nominatedNodeName"),
    },
    ("", "Namespace"): {"status.phase": ("status", "phase"), "name": ("metadata", "name")},
    ("", "Node"): {"spec.unschedulable": ("spec", "unschedulable")},
    ("", "Secret"): {"type": ("type",)},
    ("", "Service"): {"spec.clusterIP": ("spec", "clusterIP"), "spec.type": ("spec", "type")},
    ("", "ReplicationController"): {"status.replicas": ("status", "replicas")},
    ("apps", "ReplicaSet"): {"status.replicas": ("status", "replicas")},
    ("batch", "Job"): {"status.successful": ("status", "succeeded")},
    ("certificates.k8s.io", "CertificateSigningRequest"): {"spec.signerName": ("spec", "signerName")},
    ("", "Event"): {
        "involvedObject.kind": ("involvedObject", "kind"),
        "involvedObject.namespace": ("involvedObject", "namespace"),
        "involvedObject.name": ("involvedObject", "name"),
        "involvedObject.uid": ("involvedObject", "uid"),
        "involvedObject.apiVersion": ("involvedObject", "apiVersion"),
        "involvedObject.resourceVersion": ("involvedObject", "resourceVersion"),
        "involvedObject.fieldPath": ("involvedObject", "fieldPath"),
        "reason": ("reason",),
        "reportingComponent": ("reportingComponent",),
        "source": ("source", "component"),
        "type": ("type",),
    },
}
_SELECTABLE["events.k8s.io", "Event"] = {
    **_SELECTABLE["", "Event"],
    **{f"regarding.{k.split('.')[1]}": v for k, v in _SELECTABLE["", "Event"].items() if "involved" in k},
    "reportingController": ("reportingComponent",),
}


def kinds() -> list[Kind]:
    """Return the built-in kinds."""
    return list(_rows())


def _rows() -> Iterator[Kind]:
    group = version = ""
    for line in _TABLE.split("\n"):
        if line.startswith("["):
            group, version = line.strip("[]").split("/")
        elif line:
            yield _kind(group, version, *line.split())


def _kind(group: str, version: str, kind: str, plural: str, scope: str, short: str, subs: str) -> Kind:
    everything = plural.endswith("*")
    plural = plural.rstrip("*")
    review = subs == "!"
    names = () if subs in ("-", "!") else tuple(subs.split(","))
    to_stored, from_stored = _FORMS.get((group, version, kind), (None, None))
    return Kind(
        group,
        version,
        kind,
        plural,
        kind.lower(),
        namespaced=scope == "N",
        short_names=() if short == "-" else tuple(short.split(",")),
        categories=_categories(group, everything),
        verbs=REVIEW_VERBS if review else ALL_VERBS,
        subresources={n: _subresource(group, version, kind, n) for n in names},
        preferred=(group, version) != ("autoscaling", "v1"),
        definition=definition_name(group, version, kind),
        storage="events" if kind == "Event" else f"{plural}.{group}" if group else plural,
        scale=ScalePaths() if "scale" in names else None,
        selectable=_SELECTABLE.get((group, kind), {}),
        to_stored=to_stored,
        from_stored=from_stored,
        list_kind=kind + "List",
        deprecation=_DEPRECATED.get((group, version, kind), ""),
        creates_on_update=kind in _CREATED_ON_UPDATE,
    )


def _categories(group: str, everything: bool) -> tuple[str, ...]:
    if everything:
        return ("all",)
    return ("api-extensions",) if group in ("apiextensions.k8s.io", "admissionregistration.k8s.io") else ()


def definition_name(group: str, version: str, kind: str) -> str:
    """Return the name of a built-in kind's JSON schema definition."""
    module = _GROUP_MODULES.get(group) or "io.k8s.api." + group.split(".")[0]
    return f"{module}.{version}.{kind}"


def _subresource(group: str, version: str, kind: str, name: str) -> Subresource:
    match name:
        case "scale":
            return Subresource(name, _STATUS_VERBS, "Scale", "autoscaling", "v1")
        case "attach" | "exec" | "portforward":
            return Subresource(name, _CONNECT_VERBS, _CONNECT_KINDS[name])
        case "proxy":
            return Subresource(name, _PROXY_VERBS, f"{kind}ProxyOptions")
        case "log":
            return Subresource(name, ("get",), "Pod")
        case "binding":
            return Subresource(name, ("create",), "Binding")
        case "eviction":
            return Subresource(name, ("create",), "Eviction", "policy", "v1")
        case "token":
            return Subresource(name, ("create",), "TokenRequest", "authentication.k8s.io", "v1")
        case "finalize":
            return Subresource(name, ("update",), kind)
        case _:  # status, ephemeralcontainers, resize, approval
            return Subresource(name, _STATUS_VERBS, kind)
