"""Read objects with their lines: files, directories, standard input, git revisions.

A source is written as people type it:

    DIR, FILE       multi-document YAML or JSON, Lists, `kustomize build` and `helm template` output
    -               the same from standard input
    git:REV:PATH    the files of PATH as they were at a revision
    live[:CONTEXT]  a cluster, through the kubeconfig (see live.py)
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from podwire.model.errors import BadInput, Problem
from podwire.model.objects import Obj
from podwire.verify.located import Located

SUFFIXES = (".yaml", ".yml", ".json")

_CLUSTER_SCOPED = frozenset({
    "Namespace", "Node", "PersistentVolume", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition",
    "IngressClass", "GatewayClass", "StorageClass", "PriorityClass", "RuntimeClass", "APIService",
    "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "ValidatingAdmissionPolicy",
    "AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy", "CSIDriver", "CSINode",
    "ValidatingAdmissionPolicyBinding", "ServiceCIDR", "IPAddress", "CertificateSigningRequest", "VolumeAttachment",
    "KubeProxyConfiguration", "KubeletConfiguration", "ClusterConfiguration", "InitConfiguration",
})  # fmt: skip


def read(sources: Sequence[str], namespace: str = "default") -> tuple[Located, ...]:
    """Return the objects of every source, in order. ``namespace``: of namespaced objects that name none.

    Raises BadInput with every unreadable file and everything that is no Kubernetes object.
    """
    found: list[Located] = []
    problems: list[Problem] = []
    for source in sources:
        for file, text in texts(source):
            try:
                found += parse(file, text, namespace)
            except BadInput as error:
                problems += error.problems
    if problems:
        raise BadInput(*problems)
    return tuple(found)


def texts(source: str) -> list[tuple[str, str]]:
    """Return (file name, text) of every file of a source, sorted by name. Raises BadInput."""
    if source == "-":
        return [("<stdin>", sys.stdin.read())]
    if source.startswith("git:"):
        return _git_texts(source)
    place = Path(source)
    try:
        if place.is_dir():
            files = sorted(_manifests(place))
            if not files:
                raise BadInput(Problem(source, "", f"the directory holds no {', '.join(SUFFIXES)} file"))
            return [(str(f), text) for f in files if not _is_template(text := f.read_text())]
        return [(source, place.read_text())]
    except OSError as error:
        raise BadInput(Problem(source, "", f"cannot be read: {error.strerror}")) from None
    except UnicodeDecodeError:
        raise BadInput(Problem(source, "", "holds a file that is no text")) from None


def _manifests(directory: Path) -> Iterator[Path]:
    """Yield the manifests below a directory; what is hidden, and charts' own files, are none."""
    for path in directory.rglob("*"):
        inside = path.relative_to(directory)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.suffix in SUFFIXES and path.is_file() and not hidden and not _is_build_input(inside.name):
            yield path


def _is_build_input(name: str) -> bool:
    return name in ("Chart.yaml", "values.yaml", "kustomization.yaml", "kustomization.yml")


def _is_template(text: str) -> bool:
    """Return whether this is a Helm template that nobody rendered yet: `helm template | podwire ... -` reads it."""
    return "{{" in text and any(line.lstrip().startswith(("{{-", "{{ ")) for line in text.splitlines())


def _git_texts(source: str) -> list[tuple[str, str]]:
    _, revision, path = [*source.split(":", 2), ""][:3]
    listing = _git(source, "ls-tree", "-r", "--name-only", "-z", revision, "--", path or ".")
    names = [n for n in listing.split("\0") if n and (n.endswith(SUFFIXES) and not _is_build_input(Path(n).name))]
    if not names:
        raise BadInput(Problem(source, "", "holds no manifest at that revision"))
    shown = [(f"{revision}:{n}", _git(source, "show", f"{revision}:./{n}")) for n in sorted(names)]
    return [(name, text) for name, text in shown if not _is_template(text)]


def _git(source: str, *words: str) -> str:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BadInput(Problem(source, "", f"git cannot be run: {error}")) from None
    if done.returncode:
        raise BadInput(Problem(source, "", f"git says: {done.stderr.strip()}"))
    return done.stdout


def parse(file: str, text: str, namespace: str = "default") -> list[Located]:
    """Return the objects of one text. Raises BadInput for text that is no YAML or no object."""
    import yaml

    try:
        documents = list(_documents(text))
    except (yaml.YAMLError, ValueError) as error:
        raise BadInput(Problem(file, "", f"is no YAML: {' '.join(str(error).split())}")) from None
    found: list[Located] = []
    problems: list[Problem] = []
    for value, node in documents:
        for item, item_node in _unlisted(value, node):
            line = item_node.start_mark.line + 1
            problem = _defect(f"{file}:{line}", item)
            if problem is not None:
                problems.append(problem)
                continue
            meta = item["metadata"]
            if item["kind"] in _CLUSTER_SCOPED:
                meta.pop("namespace", None)
            else:
                meta["namespace"] = meta.get("namespace") or namespace
            found.append(Located(item, file, item_node, line))
    if problems:
        raise BadInput(*problems)
    return found


def _documents(text: str) -> Iterator[tuple[Any, Any]]:
    """Yield (value, node) of every document that is not empty."""
    loader = _loader_type()(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            value = loader.construct_document(node)
            if value is not None:
                yield value, node
    finally:
        loader.dispose()


def _loader_type() -> Any:
    """Return a safe loader in which a date stays text, as it does on its way to an API server."""
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    resolvers = {
        first: [(tag, pattern) for tag, pattern in entries if tag != "tag:yaml.org,2002:timestamp"]
        for first, entries in base.yaml_implicit_resolvers.items()
    }
    return type("ManifestLoader", (base,), {"yaml_implicit_resolvers": resolvers})


def _unlisted(value: Any, node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the objects of a List one by one, and any other object as it is."""
    if isinstance(value, dict) and str(value.get("kind", "")).endswith("List") and isinstance(value.get("items"), list):
        items = next(v for k, v in node.value if k.value == "items")
        for item, item_node in zip(value["items"], items.value, strict=True):
            yield from _unlisted(_with_kind(value, item), item_node)
    else:
        yield value, node


def _with_kind(outer: Obj, item: Any) -> Any:
    """Give items of a typed list (PodList) the kind that they leave out."""
    if isinstance(item, dict) and "kind" not in item and outer["kind"] != "List":
        return {"apiVersion": outer.get("apiVersion"), "kind": outer["kind"].removesuffix("List"), **item}
    return item


def _defect(where: str, item: Any) -> Problem | None:
    """Return what keeps a document from being an object. Configuration files of components need no name."""
    if not isinstance(item, dict):
        return Problem(where, "", "is no mapping; a Kubernetes object has apiVersion, kind and metadata")
    for name in ("apiVersion", "kind"):
        if not isinstance(item.get(name), str):
            return Problem(where, name, "is missing")
    meta = item.setdefault("metadata", {})
    if not isinstance(meta, dict):
        return Problem(where, "metadata", "is no mapping")
    if not isinstance(meta.get("name"), str):
        if item["kind"].endswith("Configuration") or item["kind"] == "Kustomization":
            meta["name"] = item["kind"]
        elif isinstance(meta.get("generateName"), str):
            meta["name"] = f"{meta['generateName']}0"
        else:
            return Problem(where, "metadata.name", "is missing")
    return None


def of_kind(objects: Iterable[Located], *kinds: str) -> Iterator[Located]:
    """Yield the objects of these kinds."""
    return (located for located in objects if located.object["kind"] in kinds)
