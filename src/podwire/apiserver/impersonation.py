"""Acting as somebody else: ``kubectl --as`` and its headers. Pure.

Who may do so is the authorizer's to say: the verb is ``impersonate``, on users, groups, serviceaccounts,
and in the group authentication.k8s.io on userextras and uids.
"""

from __future__ import annotations

from urllib.parse import unquote

from multidict import CIMultiDictProxy

from podwire.apiserver.authn import AUTHENTICATED, UNAUTHENTICATED, service_account_groups
from podwire.apiserver.errors import bad_request
from podwire.apiserver.values import Attributes, User

_USER, _GROUP, _UID, _EXTRA = (
    "Impersonate-User",
    "Impersonate-Group",
    "Impersonate-Uid",
    "Impersonate-Extra-",
)
_SERVICE_ACCOUNT = "system:serviceaccount:"
_GROUP_NAME = "authentication.k8s.io"


def requested(headers: CIMultiDictProxy[str]) -> User | None:
    """Return whom the request wants to act as; None when it does not. Raises ApiStatusError (400)."""
    name = headers.get(_USER, "")
    groups = tuple(headers.getall(_GROUP, ()))
    uid = headers.get(_UID, "")
    extra: dict[str, tuple[str, ...]] = {}
    for key in set(headers):
        if key.lower().startswith(_EXTRA.lower()):
            extra[unquote(key[len(_EXTRA) :]).lower()] = tuple(headers.getall(key))
    if not name:
        if groups or uid or extra:
            raise bad_request(f"requested {groups or uid or extra} without impersonating a user")
        return None
    return User(name, uid, _with_implied(name, groups), extra)


def _with_implied(name: str, groups: tuple[str, ...]) -> tuple[str, ...]:
    if name == "system:anonymous":
        return groups or (UNAUTHENTICATED,)
    if not groups and name.startswith(_SERVICE_ACCOUNT):
        groups = service_account_groups(name[len(_SERVICE_ACCOUNT) :].partition(":")[0])
    return groups if AUTHENTICATED in groups else (*groups, AUTHENTICATED)


def permissions(headers: CIMultiDictProxy[str]) -> list[Attributes]:
    """Return everything that the *real* user must be allowed, for the request to go on as another."""
    name = headers.get(_USER, "")
    needed: list[Attributes] = []
    if name.startswith(_SERVICE_ACCOUNT) and name.count(":") == 3:
        namespace, _, account = name[len(_SERVICE_ACCOUNT) :].partition(":")
        needed.append(Attributes("impersonate", resource="serviceaccounts", namespace=namespace, name=account))
    else:
        needed.append(Attributes("impersonate", resource="users", name=name))
    for group in headers.getall(_GROUP, ()):
        needed.append(Attributes("impersonate", resource="groups", name=group))
    if headers.get(_UID):
        needed.append(Attributes("impersonate", _GROUP_NAME, resource="uids", name=headers[_UID]))
    for key in sorted(set(headers)):
        if key.lower().startswith(_EXTRA.lower()):
            extra = unquote(key[len(_EXTRA) :]).lower()
            for value in headers.getall(key):
                needed.append(
                    Attributes("impersonate", _GROUP_NAME, resource="userextras", subresource=extra, name=value)
                )
    return needed
