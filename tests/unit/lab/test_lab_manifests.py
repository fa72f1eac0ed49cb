"""Manifests of `podwire up -f`: read whole, checked before anything is made, every problem named."""

from __future__ import annotations

from pathlib import Path

import pytest

from podwire.lab import manifests
from podwire.model.errors import BadInput

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: nginx}]}\n"


def write(directory: Path, name: str, text: str) -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


def test_documents_lists_and_directories(tmp_path: Path) -> None:
    write(tmp_path, "b.yaml", POD + "---\n---\n" + POD.replace("name: p", "name: q"))
    write(
        tmp_path,
        "a.json",
        '{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}]}',
    )
    write(tmp_path, "notes.txt", "not: read")
    found = manifests.read([str(tmp_path)])
    assert [m.object["metadata"]["name"] for m in found] == ["c", "p", "q"]
    assert found[2].source.endswith("b.yaml, document 3")
    manifests.check(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is no YAML"),
        ("just text", "is no mapping"),
        ("kind: Pod\nmetadata: {name: x}", "apiVersion: is missing"),
        ("apiVersion: v1\nkind: Pod", "metadata.name: is missing"),
        (POD.replace("image: nginx", "imagge: nginx"), 'unknown field "spec.containers[0].imagge"'),
        (POD.replace("name: c,", "name: C_1,"), "spec.containers[0].name"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 0}]}", "spec.ports[0].port"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: a}]}", "spec.ports.port"),
    ],
)
def test_refused(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, "bad.yaml", text)
    with pytest.raises(BadInput) as refused:
        manifests.check(manifests.read([path]))
    assert words in str(refused.value)
    assert "bad.yaml" in str(refused.value)


def test_kinds_that_a_crd_brings_are_left_to_the_server(tmp_path: Path) -> None:
    path = write(
        tmp_path, "cr.yaml", "apiVersion: example.org/v1\nkind: Widget\nmetadata: {name: w}\nspec: {any: thing}"
    )
    manifests.check(manifests.read([path]))


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        manifests.read([str(tmp_path / "none.yaml")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no"):
        manifests.read([str(tmp_path / "empty")])
