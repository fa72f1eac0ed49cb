"""RBAC evaluation: roles and bindings, indexed by subject. Pure: objects are handed in as they change.

Source: rbac.authorization.k8s.io/v1. Rules only ever allow; nothing that no rule allows is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from podwire.apiserver.values import Attributes, User
from podwire.model.objects import Obj, labels_of
from podwire.model.selectors import from_label_selector

_SERVICE_ACCOUNT = "system:serviceaccount:"


@dataclass(frozen=True, slots=True)
class Rule:
    """One PolicyRule: verbs on resources, or on paths."""

    verbs: frozenset[str]
    groups: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()

    def allows(self, asked: Attributes) -> bool:
        """Return whether this rule allows what is asked."""
        if "*" not in self.verbs and asked.verb not in self.verbs:
            return False
        if not asked.is_resource:
            return any(_path_matches(p, asked.path) for p in self.paths)
        if "*" not in self.groups and asked.group not in self.groups:
            return False
        if self.names and asked.name not in self.names:
            return False
        return self._has_resource(asked.resource, asked.subresource)

    def _has_resource(self, resource: str, subresource: str) -> bool:
        if "*" in self.resources:
            return True
        if not subresource:
            return resource in self.resources
        return f"{resource}/{subresource}" in self.resources or f"*/{subresource}" in self.resources

    def to_object(self) -> Obj:
        """Return it as a PolicyRule."""
        shown: Obj = {"verbs": sorted(self.verbs)}
        parts = (
            ("apiGroups", self.groups),
            ("resources", self.resources),
            ("resourceNames", self.names),
            ("nonResourceURLs", self.paths),
        )
        return shown | {k: sorted(v) for k, v in parts if v}


def _path_matches(pattern: str, path: str) -> bool:
    return pattern in ("*", path) or (pattern.endswith("*") and path.startswith(pattern.rstrip("*")))


def parse_rules(rules: Iterable[Mapping[str, Any]] | None) -> tuple[Rule, ...]:
    """Return a role's rules as values."""
    return tuple(
        Rule(
            frozenset(r.get("verbs") or ()),
            frozenset(r.get("apiGroups") or ()),
            frozenset(r.get("resources") or ()),
            frozenset(r.get("resourceNames") or ()),
            tuple(r.get("nonResourceURLs") or ()),
        )
        for r in rules or ()
    )


class Grant(NamedTuple):
    """A rule that a user has, and through which binding and role (for the decision's reason)."""

    rule: Rule
    binding: str
    role: str


class Subjects(NamedTuple):
    """A binding, as the index keeps it."""

    binding: str
    role_kind: str
    role: str


class Rbac:
    """Every role and binding of the cluster, and who has which rules where.

    ``generation`` grows with each change, for caches of decisions.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._roles: dict[tuple[str, str], tuple[Rule, ...]] = {}
        self._cluster_roles: dict[str, Obj] = {}
        self._cluster_rules: dict[str, tuple[Rule, ...]] = {}  # made on first use
        self._bindings: dict[tuple[str, str], Obj] = {}
        self._by_subject: dict[tuple[str, str], list[Subjects]] | None = None

    def observe(self, plural: str, namespace: str, name: str, obj: Obj | None) -> None:
        """Take in the present state of a role or binding; None when it is deleted. Others are ignored."""
        match plural:
            case "roles":
                self._put(self._roles, (namespace, name), None if obj is None else parse_rules(obj.get("rules")))
            case "clusterroles":
                self._put(self._cluster_roles, name, obj)
                self._cluster_rules.clear()  # any other may aggregate this one
            case "rolebindings" | "clusterrolebindings":
                self._put(self._bindings, (namespace, name), obj)
                self._by_subject = None
            case _:
                return
        self.generation += 1

    @staticmethod
    def _put(table: dict[Any, Any], key: Any, value: Any) -> None:
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value

    def rules_of(self, role: Obj) -> list[Obj]:
        """Return a cluster role's rules, aggregated ones collected (two levels deep, as admin needs)."""
        return self._collect(role, 0)

    def _collect(self, role: Obj, depth: int) -> list[Obj]:
        rules = list(role.get("rules") or ())
        aggregation = role.get("aggregationRule")
        if not aggregation or depth > 4:
            return rules
        for given in aggregation.get("clusterRoleSelectors") or ():
            try:
                selector = from_label_selector(given)
            except (ValueError, KeyError):
                continue
            for other in self._cluster_roles.values():
                if other is not role and selector.matches(labels_of(other)):
                    rules += [r for r in self._collect(other, depth + 1) if r not in rules]
        return rules

    def role(self, kind: str, namespace: str, name: str) -> tuple[Rule, ...] | None:
        """Return a role's rules; None when there is no such role."""
        if kind != "ClusterRole":
            return self._roles.get((namespace, name))
        rules = self._cluster_rules.get(name)
        if rules is None and name in self._cluster_roles:
            rules = self._cluster_rules[name] = parse_rules(self.rules_of(self._cluster_roles[name]))
        return rules

    def grants(self, user: User, namespace: str) -> Iterator[Grant]:
        """Yield the rules that ``user`` has cluster-wide, then those in ``namespace``."""
        index = self._index()
        subjects = [f"User:{user.name}", *(f"Group:{g}" for g in user.groups)]
        for where in ("", namespace) if namespace else ("",):
            for subject in subjects:
                for bound in index.get((where, subject), ()):
                    rules = self.role(bound.role_kind, where, bound.role)
                    for rule in rules or ():
                        yield Grant(rule, bound.binding, f"{bound.role_kind} {bound.role!r}")

    def _index(self) -> dict[tuple[str, str], list[Subjects]]:
        if self._by_subject is None:
            self._by_subject = {}
            for (namespace, name), binding in self._bindings.items():
                role = binding.get("roleRef") or {}
                kind = "RoleBinding" if namespace else "ClusterRoleBinding"
                shown = f"{kind} {f'{name}/{namespace}' if namespace else name!r}"
                entry = Subjects(shown, role.get("kind", ""), role.get("name", ""))
                for subject in binding.get("subjects") or ():
                    self._by_subject.setdefault((namespace, _subject(subject, namespace)), []).append(entry)
        return self._by_subject


def _subject(subject: Mapping[str, Any], namespace: str) -> str:
    if subject.get("kind") == "ServiceAccount":
        return f"User:{_SERVICE_ACCOUNT}{subject.get('namespace') or namespace}:{subject.get('name')}"
    return f"{subject.get('kind')}:{subject.get('name')}"


def uncovered(wanted: Iterable[Rule], held: Iterable[Rule]) -> list[Rule]:
    """Return the single permissions in ``wanted`` that no rule in ``held`` gives: what would escalate."""
    owned = list(held)
    return [one for rule in wanted for one in _singles(rule) if not any(_covers(h, one) for h in owned)]


def _singles(rule: Rule) -> Iterator[Rule]:
    for verb in sorted(rule.verbs):
        for path in rule.paths:
            yield Rule(frozenset({verb}), paths=(path,))
        for group in sorted(rule.groups):
            for resource in sorted(rule.resources):
                for name in sorted(rule.names) or [""]:
                    names = frozenset({name}) if name else frozenset()
                    yield Rule(frozenset({verb}), frozenset({group}), frozenset({resource}), names)


def _covers(held: Rule, one: Rule) -> bool:
    if "*" not in held.verbs and not one.verbs <= held.verbs:
        return False
    if one.paths:
        return any(_path_matches(p, one.paths[0]) for p in held.paths)
    if "*" not in held.groups and not one.groups <= held.groups:
        return False
    if held.names and not (one.names and one.names <= held.names):
        return False
    (wanted,) = one.resources
    resource, _, subresource = wanted.partition("/")
    return held._has_resource(resource, subresource)
