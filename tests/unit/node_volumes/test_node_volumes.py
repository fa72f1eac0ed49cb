"""What volumes hold, and how it gets onto the disk."""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.node.pod.environment import PodFacts
from podwire.node.volumes import atomic
from podwire.node.volumes.payload import PayloadFile, TokenWanted, VolumeError, payload, references
from podwire.node.volumes.prepare import _host_path, mounted_path

FACTS = PodFacts("node-0", (), (ip_address("10.244.0.2"),), {"cpu": "2"})
OBJECTS = {
    ("ConfigMap", "cm"): {"kind": "ConfigMap", "data": {"a": "1", "b": "2"}, "binaryData": {"z": "AAE="}},
    ("Secret", "s"): {"kind": "Secret", "data": {"p": "aHVudGVyMg=="}},
}
TOKEN = TokenWanted("token", "", 3607)


def files(volume: dict[str, Any]) -> dict[str, tuple[bytes, int]]:
    pod = {
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": 'x"y'}},
        "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m"}}}]},
    }
    made = payload(pod, volume, lambda k, n: OBJECTS.get((k, n)), FACTS, {TOKEN: "jwt"})
    return {path: (f.content, f.mode) for path, f in made.items()}


@pytest.mark.parametrize(
    ("volume", "wanted"),
    [
        ({"configMap": {"name": "cm"}}, {"a": (b"1", 0o644), "b": (b"2", 0o644), "z": (b"\0\1", 0o644)}),
        ({"configMap": {"name": "cm", "defaultMode": 0o400, "items": [{"key": "a", "path": "x/y", "mode": 0o600}, {"key": "b", "path": "b"}]}},
         {"x/y": (b"1", 0o600), "b": (b"2", 0o400)}),
        ({"configMap": {"name": "none", "optional": True}}, {}),
        ({"secret": {"secretName": "s", "defaultMode": 0}}, {"p": (b"hunter2", 0)}),
        ({"secret": {"secretName": "s", "optional": True, "items": [{"key": "q", "path": "q"}]}}, {}),
        ({"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}}, {"l": (b'a="x\\"y"\nb="2"', 0o644)}),
        ({"downwardAPI": {"items": [{"path": "c", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu", "divisor": "1m"}}]}}, {"c": (b"1500", 0o644)}),
        ({"projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}, {"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca.crt"}]}}]}},
         {"token": (b"jwt", 0o644), "ca.crt": (b"1", 0o644)}),
    ],
)  # fmt: skip
def test_payload(volume: dict[str, Any], wanted: dict[str, tuple[bytes, int]]):
    assert files(volume) == wanted


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        ({"secret": {"secretName": "s", "items": [{"key": "q", "path": "q"}]}}, r"references non-existent secret key: q \(n/s\)"),
        ({"configMap": {"name": "cm", "items": [{"key": "a", "path": "../up"}]}}, "invalid path"),
        ({"configMap": {"name": "cm", "items": [{"key": "a", "path": "/abs"}]}}, "invalid path"),
        ({"configMap": {"name": "cm", "items": [{"key": "a", "path": "..data"}]}}, "invalid path"),
        ({"projected": {"sources": [{"clusterTrustBundle": {}}]}}, "clusterTrustBundle is not supported"),
    ],
)  # fmt: skip
def test_payload_refuses(volume: dict[str, Any], message: str):
    with pytest.raises(VolumeError, match=message):
        files(volume)


def test_references_finds_all():
    pod = {
        "spec": {
            "volumes": [
                {"name": "1", "configMap": {"name": "a"}},
                {"name": "2", "secret": {"secretName": "b"}},
                {"name": "3", "projected": {"sources": [{"secret": {"name": "c"}}, {"configMap": {"name": "d"}}]}},
                {"name": "4", "emptyDir": {}},
            ],
            "initContainers": [{"envFrom": [{"secretRef": {"name": "e"}}, {"prefix": "X", "configMapRef": {"name": "f"}}]}],
            "containers": [{"env": [
                {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "g", "key": "k"}}},
                {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "h", "key": "k"}}},
                {"name": "Z", "value": "plain"},
            ]}],
        }
    }  # fmt: skip
    kinds = {name: kind for kind, name in references(pod)}
    assert kinds == {
        "a": "ConfigMap", "b": "Secret", "c": "Secret", "d": "ConfigMap",
        "e": "Secret", "f": "ConfigMap", "g": "ConfigMap", "h": "Secret",
    }  # fmt: skip


def shown(directory: Path) -> dict[str, bytes]:
    """Return what a container sees below the volume: everything but the machinery."""
    found = {}
    for root, folders, names in os.walk(directory, followlinks=True):
        folders[:] = [f for f in folders if not f.startswith("..")]
        for name in names:
            path = Path(root, name)
            if not str(path.relative_to(directory)).startswith(".."):
                found[str(path.relative_to(directory))] = path.read_bytes()
    return found


_NAME = st.text("abc", min_size=1, max_size=2)
_PATH = st.one_of(_NAME.map(lambda n: "f" + n), st.tuples(_NAME, _NAME).map(lambda p: f"d{p[0]}/{p[1]}"))
_PAYLOAD = st.dictionaries(_PATH, st.binary(max_size=5).map(lambda b: PayloadFile(b, 0o644)), max_size=5)


@given(st.lists(_PAYLOAD, min_size=1, max_size=4))
def test_atomic_write_shows_exactly_the_newest(tmp_path_factory: pytest.TempPathFactory, payloads):
    directory = tmp_path_factory.mktemp("volume")
    for number, wanted in enumerate(payloads):
        atomic.write(directory, wanted, f"..{number}")
        assert shown(directory) == {p: f.content for p, f in wanted.items()}
        generations = [e.name for e in directory.iterdir() if e.name.startswith("..") and e.name != "..data"]
        assert len(generations) == 1
        assert atomic.write(directory, wanted, "..again") is False


def test_atomic_write_changes_by_one_rename(tmp_path: Path):
    atomic.write(tmp_path, {"k": PayloadFile(b"one", 0o600)}, "..1")
    assert os.readlink(tmp_path / "k") == "..data/k"
    assert os.readlink(tmp_path / "..data") == "..1"
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    atomic.write(tmp_path, {"k": PayloadFile(b"two", 0o600)}, "..2")
    assert os.readlink(tmp_path / "..data") == "..2"
    assert not (tmp_path / "..1").exists()


@pytest.mark.parametrize(
    ("kind", "make", "error"),
    [
        ("", None, ""),
        ("DirectoryOrCreate", None, ""),
        ("FileOrCreate", None, ""),
        ("Directory", None, "is not a directory"),
        ("File", "dir", "is not a file"),
        ("File", "file", ""),
        ("Socket", "file", "is not a socket"),
        ("CharDevice", "dir", "is not a character device"),
    ],
)
def test_host_path(tmp_path: Path, kind: str, make: str | None, error: str):
    path = tmp_path / "a" if make is None else tmp_path / make
    if make == "file":
        path.write_text("x")
    elif make == "dir":
        path.mkdir()
    if error:
        with pytest.raises(VolumeError, match=error):
            _host_path({"path": str(path), "type": kind})
    else:
        assert _host_path({"path": str(path), "type": kind}) == path
        assert path.exists()


def test_sub_path_stays_inside(tmp_path: Path):
    volume, outside = tmp_path / "v", tmp_path / "outside"
    volume.mkdir()
    outside.mkdir()
    (volume / "escape").symlink_to(outside)
    assert mounted_path(volume, "") == volume
    assert mounted_path(volume, "a/b").is_dir()
    for bad in ("../outside", "/etc", "escape", "escape/x"):
        with pytest.raises(VolumeError):
            mounted_path(volume, bad)
