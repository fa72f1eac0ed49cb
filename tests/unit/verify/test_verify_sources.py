"""Reading manifests: every field keeps its line, whatever shape the text has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from podwire.model.errors import BadInput
from podwire.verify import sources
from podwire.verify.located import field_of, overlay, steps

LIST = """\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: a}
  spec:
    containers:
    - name: x
      ports:
      - containerPort: 80
---
# nothing in this document
---
apiVersion: v1
kind: Namespace
metadata:
  name: 2020-01-01
  labels:
    a.b/c: d
"""


def test_lists_are_taken_apart_and_every_field_has_its_line() -> None:
    pod, namespace = sources.parse("f.yaml", LIST)
    assert str(pod.key) == "Pod default/a"
    assert str(pod.place()) == "f.yaml:4"
    assert pod.place("spec.containers[0].ports[0].containerPort").line == 11
    assert pod.place("spec.volumes[3].name").line == 7  # the nearest parent that is there
    assert str(namespace.key) == "Namespace 2020-01-01"  # a date stays a name
    assert namespace.place('metadata.labels["a.b/c"]').line == 20


def test_json_typed_lists_and_anchors() -> None:
    (pod,) = sources.parse("f.json", '{"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "p"}}]}')
    assert pod.object["kind"] == "Pod"
    text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  labels: &l {app: web}\n  annotations:\n    <<: *l\n"
    (merged,) = sources.parse("f.yaml", text)
    assert merged.object["metadata"]["annotations"] == {"app": "web"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: Pod\nmetadata: {name: a}\n", "apiVersion: is missing"),
        ("apiVersion: v1\nkind: Pod\n", "metadata.name: is missing"),
        ("- 1\n- 2\n", "is no mapping"),
        ("a: [1\n", "is no YAML"),
        ("apiVersion: v1\nkind: Pod\nmetadata: [x]\n", "metadata: is no mapping"),
    ],
)
def test_what_is_no_object_is_said_with_its_place(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=r"f\.yaml") as caught:
        sources.parse("f.yaml", text)
    assert words in str(caught.value)


def test_directories_leave_out_what_is_no_manifest(tmp_path: Path) -> None:
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\n"
    for name in ("b.yaml", "a.yml", "deep/c.json", ".hidden/d.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(pod % path.stem)
    (tmp_path / "Chart.yaml").write_text("name: chart\n")
    (tmp_path / "kustomization.yaml").write_text("resources: [a.yml]\n")
    (tmp_path / "template.yaml").write_text("{{- if .Values.on }}\nkind: Pod\n{{- end }}\n")
    assert [o.key.name for o in sources.read([str(tmp_path)])] == ["a", "b", "c"]


def test_a_git_revision_reads_what_was_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    file = tmp_path / "deploy" / "p.yaml"
    file.parent.mkdir()
    file.write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: old}\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    file.write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: new}\n")
    assert [str(o.place()) for o in sources.read(["git:HEAD:deploy"])] == ["HEAD:deploy/p.yaml:1"]
    assert [o.key.name for o in sources.read(["git:HEAD:deploy", "deploy"])] == ["old", "new"]
    with pytest.raises(BadInput, match="git says"):
        sources.read(["git:nowhere:deploy"])


def test_overlay_replaces_by_name_and_adds() -> None:
    below = sources.parse("old", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n")
    above = sources.parse(
        "new", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\n"
    )
    assert [(o.file, o.key.name) for o in overlay(below, above)] == [("new", "a"), ("new", "b")]


def test_field_paths() -> None:
    assert steps('a.b[0]["c.d/e"].f') == ("a", "b", 0, "c.d/e", "f")
    assert field_of({"a": [{"b": 1}]}, "a[0].b") == 1
    assert field_of({"a": [{"b": 1}]}, "a[1].b") is None
