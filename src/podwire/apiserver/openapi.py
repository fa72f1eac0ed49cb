"""OpenAPI documents, made from the JSON schemas and the registry when first asked for.

``kubectl explain`` reads a kind's schema by its group-version-kind, ``kubectl apply`` the merge keys of
lists, and both look at the PATCH operation for the parameters that the server knows. A document takes some
ten milliseconds to make and is kept until the registry changes; its hash is known without making it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import orjson

from podwire import KUBERNETES_VERSION, __version__
from podwire.apiserver import negotiation, openapiproto, schema
from podwire.apiserver.kinds import Kind, Registry
from podwire.model.objects import Obj

_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
_INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_STRATEGIC = "application/strategic-merge-patch+json"
_PATCHES = ("application/json-patch+json", "application/merge-patch+json", _STRATEGIC, "application/apply-patch+yaml")
_GVK = "x-kubernetes-group-version-kind"
_PRESERVES = "x-kubernetes-preserve-unknown-fields"
_FORMS_OF_V2 = ("application/json", openapiproto.MEDIA_TYPE, openapiproto.OLD_MEDIA_TYPE)


@dataclass(frozen=True, slots=True)
class Document:
    """A document as sent, and its hash."""

    body: bytes
    tag: str
    media_type: str = "application/json"


class Documents:
    """Makes and keeps the documents of a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._kept: dict[str, Document] = {}
        self._generation = -1
        self._plain: dict[str, Obj] | None = None

    def _definitions(self) -> dict[str, Obj]:
        if self._plain is None:
            raw = (schema.directory(strict=False) / "_definitions.json").read_bytes()
            self._plain = orjson.loads(raw)["$defs"]
        return self._plain

    def _remember(self, key: str, make: Callable[[], Document]) -> Document:
        if self._generation != self._registry.generation:
            self._kept.clear()
            self._generation = self._registry.generation
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = make()
        return found

    def index(self) -> Obj:
        """Return /openapi/v3: where each group version's document is, with its hash."""
        paths = {}
        for group, versions in self._registry.group_versions().items():
            for version in versions:
                path = f"apis/{group}/{version}" if group else f"api/{version}"
                tag = self._tag(self._registry.of_group_version(group, version))
                paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={tag}"}
        return {"paths": paths}

    @staticmethod
    def _tag(kinds: Iterable[Kind]) -> str:
        """Return a hash of what the document is made from."""
        state = hashlib.sha256(f"{__version__} {KUBERNETES_VERSION}".encode())
        for kind in kinds:
            state.update(f"{kind.api_version} {kind.kind} {sorted(kind.subresources)}".encode())
            if kind.schema is not None:
                state.update(orjson.dumps(kind.schema))
        return state.hexdigest().upper()

    def v3(self, path: str) -> Document | None:
        """Return the document of "api/v1" or "apis/GROUP/VERSION"; None when nothing is served there."""
        match path.split("/"):
            case ["api", version]:
                group = ""
            case ["apis", group, version]:
                pass
            case _:
                return None
        kinds = self._registry.of_group_version(group, version)
        if not kinds:
            return None
        return self._remember(path, lambda: self._json(kinds, _V3(self._definitions())))

    def v2(self, accept: str = "") -> Document:
        """Return /openapi/v2: everything in one Swagger document, as JSON or protobuf. Raises 406.

        ``accept`` is the request's Accept header.
        """
        kinds = list(self._registry)
        if negotiation.prefers(accept, _FORMS_OF_V2) == "application/json":
            return self._remember("v2", lambda: self._json(kinds, _V2(self._definitions())))
        return self._remember("v2 protobuf", lambda: self._protobuf(kinds))

    def _json(self, kinds: Sequence[Kind], dialect: _V3) -> Document:
        return Document(orjson.dumps(self._make(kinds, dialect)), self._tag(kinds))

    def _protobuf(self, kinds: Sequence[Kind]) -> Document:
        body = openapiproto.encode(self._make(kinds, _V2(self._definitions())))
        return Document(body, self._tag(kinds) + "-PB", openapiproto.MEDIA_TYPE)

    def _make(self, kinds: Iterable[Kind], dialect: _V3) -> Obj:
        paths: dict[str, Obj] = {}
        for kind in kinds:
            for path, item in _operations(kind, dialect):
                paths[path] = item
        return dialect.document(paths)


class _V3:
    """OpenAPI 3.0: schemas under components, bodies apart from parameters."""

    prefix = "#/components/schemas/"

    def __init__(self, definitions: Mapping[str, Obj]) -> None:
        self._definitions = definitions
        self._schemas: dict[str, Obj] = {}

    def document(self, paths: dict[str, Obj]) -> Obj:
        """Return the whole document."""
        info = {"title": "Kubernetes", "version": f"v{KUBERNETES_VERSION}"}
        return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": self._schemas}}

    def reference(self, kind: Kind) -> Obj:
        """Return a reference to the kind's schema, which is added with all that it needs."""
        name = kind.definition or _custom_name(kind)
        if kind.schema is not None:
            self._schemas[name] = self._custom(kind)
        else:
            self.add(name)
        return {"$ref": self.prefix + name}

    def add(self, name: str) -> None:
        """Add a definition and those that it refers to."""
        if name in self._schemas:
            return
        special = self.special(name)
        if special is not None:
            self._schemas[name] = special
            return
        source = self._definitions.get(name)
        self._schemas[name] = {}
        if source is not None:
            self._schemas[name] = self._plain(source)

    def special(self, name: str) -> Obj | None:
        """Return the schema of a type that has none of its own in this dialect."""
        if name == _INT_OR_STRING:
            return {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}
        if name == _QUANTITY:
            return {"oneOf": [{"type": "string"}, {"type": "number"}]}
        return None

    def _plain(self, source: Any) -> Any:
        """Return a JSON schema in this dialect: no null among types, references led here."""
        if isinstance(source, list):
            return [self._plain(item) for item in source]
        if not isinstance(source, dict):
            return source
        if "$ref" in source:
            name = source["$ref"].rpartition("/")[2]
            self.add(name)
            return self.refer(name, {k: v for k, v in source.items() if k != "$ref"})
        answer: dict[str, Any] = {}
        for key, value in source.items():
            if key == "properties":
                answer[key] = {name: self._plain(inner) for name, inner in value.items()}
            elif key == "type" and isinstance(value, list):
                answer[key] = next(t for t in value if t != "null")
            elif key in ("items", "additionalProperties", "oneOf", "allOf"):
                answer[key] = self._plain(value)
            elif key not in ("$schema", "$id", "enum") or (key == "enum" and None not in value):
                answer[key] = value
        return answer

    def refer(self, name: str, beside: Obj) -> Obj:
        """Return a reference; OpenAPI 3.0 allows nothing beside ``$ref``."""
        reference = {"$ref": self.prefix + name}
        return {**beside, "allOf": [reference]} if beside else reference

    def _custom(self, kind: Kind) -> Obj:
        self.add(_META + "ObjectMeta")
        made = dict(kind.schema or {})
        properties = dict(made.get("properties") or {})
        properties.setdefault("apiVersion", {"type": "string", "description": "The API version of this object."})
        properties.setdefault("kind", {"type": "string", "description": "The kind of this object."})
        properties["metadata"] = self.refer(_META + "ObjectMeta", {"description": "Standard object metadata."})
        made["properties"] = properties
        made[_GVK] = [_gvk(kind)]
        return made

    def body(self, reference: Obj, media_types: Iterable[str]) -> Obj:
        """Return the part of an operation that says what it takes."""
        return {"requestBody": {"content": {m: {"schema": reference} for m in media_types}}}

    def parameter(self, name: str, where: str, kind: str) -> Obj:
        """Return one parameter."""
        made: Obj = {"name": name, "in": where, "schema": {"type": kind, "uniqueItems": True}}
        return made | {"required": True} if where == "path" else made

    def response(self, reference: Obj) -> Obj:
        """Return the good answer of an operation."""
        return {"description": "OK", "content": {"application/json": {"schema": reference}}}


class _V2(_V3):
    """Swagger 2.0: schemas under definitions, the body as a parameter."""

    prefix = "#/definitions/"

    def document(self, paths: dict[str, Obj]) -> Obj:
        """Return the whole document."""
        info = {"title": "Kubernetes", "version": f"v{KUBERNETES_VERSION}"}
        return {"swagger": "2.0", "info": info, "paths": paths, "definitions": self._schemas}

    def special(self, name: str) -> Obj | None:
        """Return the schema of a type that has none of its own in this dialect."""
        if name == _INT_OR_STRING:
            return {"type": "string", "format": "int-or-string"}
        return {"type": "string"} if name == _QUANTITY else None

    def refer(self, name: str, beside: Obj) -> Obj:
        """Return a reference with what stands beside it."""
        return {**beside, "$ref": self.prefix + name}

    def _custom(self, kind: Kind) -> Obj:
        if (kind.schema or {}).get(_PRESERVES):
            return {"type": "object", _GVK: [_gvk(kind)]}
        return _simplified(super()._custom(kind))

    def body(self, reference: Obj, media_types: Iterable[str]) -> Obj:
        """Return the part of an operation that says what it takes."""
        return {"consumes": list(media_types), "_body": {"name": "body", "in": "body", "schema": reference}}

    def parameter(self, name: str, where: str, kind: str) -> Obj:
        """Return one parameter."""
        made: Obj = {"name": name, "in": where, "type": kind}
        return made | {"required": True} if where == "path" else made

    def response(self, reference: Obj) -> Obj:
        """Return the good answer of an operation."""
        return {"description": "OK", "schema": reference}


_BEYOND_V2 = frozenset({"oneOf", "anyOf", "allOf", "not", "nullable"})
_INNER = frozenset({"items", "properties", "additionalProperties", "required"})


def _simplified(source: Obj) -> Obj:
    """Return the schema of a custom resource as Swagger can say it.

    Clients of this document check objects before they send them, knowing neither null nor unknown fields that
    are kept nor either-or. Where the schema allows those, it says nothing here; the server judges.
    """
    gone = set(_BEYOND_V2)
    if source.get(_PRESERVES):
        gone |= _INNER
    if source.get("nullable") or source.get("x-kubernetes-int-or-string") or _is_bare_list(source, gone):
        gone |= _INNER | {"type"}
    answer = {key: value for key, value in source.items() if key not in gone}
    if "properties" in answer:
        answer["properties"] = {name: _simplified(inner) for name, inner in answer["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(answer.get(key), dict):
            answer[key] = _simplified(answer[key])
    return answer


def _is_bare_list(source: Obj, gone: Set[str]) -> bool:
    """Return whether nothing would be said of the list's items, which kubectl refuses to read."""
    return source.get("type") == "array" and ("items" in gone or not isinstance(source.get("items"), dict))


def _custom_name(kind: Kind) -> str:
    return ".".join([*reversed(kind.group.split(".")), kind.version, kind.kind])


def _gvk(kind: Kind) -> Obj:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


_WRITE_OPTIONS = ("dryRun", "fieldManager", "fieldValidation")
_LIST_OPTIONS = ("labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "watch", "timeoutSeconds")


def _operations(kind: Kind, dialect: _V3) -> Iterable[tuple[str, Obj]]:
    """Yield the paths of a kind with their operations."""
    reference = dialect.reference(kind)
    base = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    collection = f"{base}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"{base}/{kind.plural}"
    yield collection, _item(kind, dialect, reference, {"get": "list", "post": "post", "delete": "deletecollection"})
    if kind.verbs == ("create",):
        return
    if kind.namespaced:
        yield f"{base}/{kind.plural}", _item(kind, dialect, reference, {"get": "list"}, everywhere=True)
    one = {"get": "get", "put": "put", "patch": "patch", "delete": "delete"}
    yield f"{collection}/{{name}}", _item(kind, dialect, reference, one, named=True)
    if kind.has_status:
        status = {"get": "get", "put": "put", "patch": "patch"}
        yield f"{collection}/{{name}}/status", _item(kind, dialect, reference, status, named=True)


def _patches(kind: Kind) -> tuple[str, ...]:
    """Return what PATCH takes; ``kubectl apply`` sends a strategic merge patch wherever one is listed."""
    return tuple(p for p in _PATCHES if p != _STRATEGIC or kind.schema is None)


def _item(
    kind: Kind,
    dialect: _V3,
    reference: Obj,
    actions: Mapping[str, str],
    *,
    named: bool = False,
    everywhere: bool = False,
) -> Obj:
    parameters = [dialect.parameter("name", "path", "string")] if named else []
    if kind.namespaced and not everywhere:
        parameters.append(dialect.parameter("namespace", "path", "string"))
    item: Obj = {"parameters": parameters}
    for method, action in actions.items():
        if kind.verbs == ("create",) and method != "post":
            continue
        operation: Obj = {
            "operationId": f"{action}{kind.group.title().replace('.', '')}{kind.version.title()}{kind.kind}",
            "responses": {"200": dialect.response(reference)},
            "x-kubernetes-action": action,
            _GVK: _gvk(kind),
        }
        options = _LIST_OPTIONS if action == "list" else _WRITE_OPTIONS if method != "get" else ()
        operation["parameters"] = [dialect.parameter(name, "query", "string") for name in options]
        if method == "patch":
            operation["parameters"].append(dialect.parameter("force", "query", "boolean"))
        if method in ("post", "put", "patch"):
            operation |= dialect.body(reference, _patches(kind) if method == "patch" else ("application/json",))
            if "_body" in operation:
                operation["parameters"].append(operation.pop("_body"))
        item[method] = operation
    return item
