"""The review kinds: SubjectAccessReview and its family, SelfSubjectReview, TokenReview. Pure.

Each function takes the request object and returns it with ``status`` filled in. Raises ApiStatusError (400).
"""

from __future__ import annotations

from typing import Any

from podwire.apiserver.authn import Authenticator, user_info
from podwire.apiserver.authz import Authorizer
from podwire.apiserver.errors import bad_request
from podwire.apiserver.values import Attributes, User
from podwire.model.objects import Obj


def subject_access(review: Obj, authorizer: Authorizer, namespace: str = "") -> Obj:
    """Answer a SubjectAccessReview, or a LocalSubjectAccessReview in ``namespace``."""
    spec = review.get("spec") or {}
    asked = _attributes(spec)
    if namespace and asked.namespace != namespace:
        raise bad_request(f"spec.resourceAttributes.namespace must match namespace: {namespace}")
    if not spec.get("user") and not spec.get("groups"):
        raise bad_request("at least one of spec.user and spec.groups must be specified")
    extra = {k: tuple(v) for k, v in (spec.get("extra") or {}).items()}
    user = User(spec.get("user", ""), spec.get("uid", ""), tuple(spec.get("groups") or ()), extra)
    return _answer(review, authorizer, user, asked)


def self_subject_access(review: Obj, authorizer: Authorizer, user: User) -> Obj:
    """Answer a SelfSubjectAccessReview: ``kubectl auth can-i``."""
    return _answer(review, authorizer, user, _attributes(review.get("spec") or {}))


def _answer(review: Obj, authorizer: Authorizer, user: User, asked: Attributes) -> Obj:
    decision = authorizer.allowed(user, asked)
    status: Obj = {"allowed": decision.allowed}
    if decision.reason:
        status["reason"] = decision.reason
    return _answered(review, status)


def _answered(review: Obj, status: Obj) -> Obj:
    return {**review, "metadata": review.get("metadata") or {}, "status": status}


def _attributes(spec: Obj) -> Attributes:
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if (resource is None) == (path is None):
        raise bad_request("exactly one of resourceAttributes and nonResourceAttributes must be specified")
    if path is not None:
        return Attributes(path.get("verb", ""), path=path.get("path", ""))
    resource = resource or {}
    return Attributes(
        resource.get("verb", ""),
        resource.get("group", ""),
        resource.get("version", ""),
        resource.get("resource", ""),
        resource.get("subresource", ""),
        resource.get("namespace", ""),
        resource.get("name", ""),
    )


def self_subject_rules(review: Obj, authorizer: Authorizer, user: User) -> Obj:
    """Answer a SelfSubjectRulesReview: ``kubectl auth can-i --list``."""
    namespace = (review.get("spec") or {}).get("namespace", "")
    if not namespace:
        raise bad_request("no namespace on request")
    resource_rules: list[Any] = []
    path_rules: list[Any] = []
    for rule in authorizer.rules(user, namespace):
        shown = rule.to_object()
        if rule.paths:
            path_rules.append({"verbs": shown["verbs"], "nonResourceURLs": shown["nonResourceURLs"]})
        else:
            resource_rules.append({k: v for k, v in shown.items() if k != "nonResourceURLs"})
    status = {"resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": False}
    return _answered(review, status)


def self_subject(review: Obj, user: User) -> Obj:
    """Answer a SelfSubjectReview: ``kubectl auth whoami``."""
    return _answered(review, {"userInfo": user_info(user)})


def token(review: Obj, authenticator: Authenticator) -> Obj:
    """Answer a TokenReview."""
    return _answered(review, authenticator.review(review.get("spec") or {}))
