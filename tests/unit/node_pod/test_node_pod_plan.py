"""What to do next, and the status it makes, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.node.pod.plan import Observation, decide, stop_order
from podwire.node.pod.status import View, pod_status, status_patch
from podwire.node.runtime.values import Container, ContainerSpec


def container(name: str, state: str = "running", code: int = 0, image: str = "i") -> Container:
    times = {"created_at": 1.0, "started_at": 1.0, "finished_at": 2.0 if state == "exited" else 0.0}
    return Container(ContainerSpec(f"id-{name}", "s-0", name, 0, image), state, exit_code=code, **times)  # type: ignore[arg-type]


UP = {"started": True, "ready": True}


def seen(**states: str) -> dict[str, Observation]:
    """up, starting (startup probe pending), ok (exited 0), bad (exited 1), ill (liveness failed)."""
    table = {
        "up": lambda n: Observation(container(n), **UP),
        "starting": lambda n: Observation(container(n)),
        "ok": lambda n: Observation(container(n, "exited")),
        "bad": lambda n: Observation(container(n, "exited", 1)),
        "ill": lambda n: Observation(container(n), **UP, unhealthy="ill"),
        "old": lambda n: Observation(container(n, image="before"), **UP),
    }
    return {name: table[state](name) for name, state in states.items()}


def pod(policy: str = "Always", inits: str = "", mains: str = "a b", **spec: Any) -> dict[str, Any]:
    """Init containers that end in "s" are sidecars."""
    init = [
        {"name": n, "image": "i", **({"restartPolicy": "Always"} if n.endswith("s") else {})} for n in inits.split()
    ]
    main = [{"name": n, "image": "i"} for n in mains.split()]
    spec |= {"restartPolicy": policy, "containers": main, "initContainers": init}
    return {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}


CASES = [
    # pod, what is there, to start, to kill, initialized, finished
    (pod(), {}, "a b", "", True, False),
    (pod(), {"a": "up", "b": "bad"}, "b", "", True, False),
    (pod(), {"a": "up", "b": "ill"}, "", "b", True, False),
    (pod(), {"a": "up", "b": "old"}, "", "b", True, False),
    (pod("OnFailure"), {"a": "ok", "b": "bad"}, "b", "", True, False),
    (pod("OnFailure"), {"a": "ok", "b": "ok"}, "", "", True, True),
    (pod("Never"), {"a": "bad", "b": "up"}, "", "", True, False),
    (pod("Never"), {"a": "bad", "b": "ok"}, "", "", True, True),
    (pod(inits="x y"), {}, "x", "", False, False),
    (pod(inits="x y"), {"x": "up"}, "", "", False, False),
    (pod(inits="x y"), {"x": "bad"}, "x", "", False, False),
    (pod(inits="x y"), {"x": "ok"}, "y", "", False, False),
    (pod(inits="x y"), {"x": "ok", "y": "ok"}, "a b", "", True, False),
    (pod("Never", inits="x"), {"x": "bad"}, "", "", False, True),
    (pod(inits="xs y"), {}, "xs", "", False, False),
    (pod(inits="xs y"), {"xs": "starting"}, "", "", False, False),
    (pod(inits="xs y"), {"xs": "up"}, "y", "", False, False),
    (pod(inits="xs y"), {"xs": "bad", "y": "ok"}, "xs", "", False, False),
    (pod(inits="xs y"), {"xs": "bad", "y": "ok", "a": "up", "b": "up"}, "xs", "", True, False),
    (pod(inits="xs y"), {"xs": "up", "a": "up", "b": "up"}, "", "", True, False),  # y was removed since
    (pod("Never", inits="xs ys"), {"xs": "up", "ys": "up", "a": "ok", "b": "ok"}, "", "ys", True, True),
    (pod("Never", inits="xs ys"), {"xs": "up", "ys": "ok", "a": "ok", "b": "ok"}, "", "xs", True, True),
    (pod(ephemeralContainers=[{"name": "e"}]), {"a": "up", "b": "up"}, "e", "", True, False),
    (pod(ephemeralContainers=[{"name": "e"}]), {"a": "up", "b": "up", "e": "bad"}, "", "", True, False),
]


@pytest.mark.parametrize(("p", "states", "start", "kill", "initialized", "finished"), CASES)
def test_decide(p, states, start, kill, initialized, finished):
    actions = decide(p, seen(**states))
    assert " ".join(n for _, n in actions.start) == start
    assert " ".join(n for n, _ in actions.kill) == kill
    assert (actions.initialized, actions.finished) == (initialized, finished)


def test_stop_order():
    assert stop_order(pod(inits="xs y zs")) == (("y", "a", "b"), ("zs",), ("xs",))


def status_of(p: dict[str, Any], states: dict[str, str], *, terminating: bool = False, **more: Any):
    actions = decide(p, seen(**states))
    facts: dict[str, Any] = {
        "waiting": {}, "messages": {}, "images": {"i": "sha"}, "restarts": {}, "initialized": actions.initialized,
        "finished": actions.finished, "failed_init": bool(actions.failed_init), "sandbox_ready": True,
        "pod_ips": (), "host_ips": (), "start_time": "t", "terminating": terminating,
    }  # fmt: skip
    return pod_status(p, View(seen=seen(**states), **(facts | more)), "now")


@pytest.mark.parametrize(
    ("p", "states", "terminating", "phase"),
    [
        (pod(), {}, False, "Pending"),
        (pod(), {"a": "up"}, False, "Pending"),
        (pod(), {"a": "up", "b": "up"}, False, "Running"),
        (pod(), {"a": "up", "b": "bad"}, False, "Running"),
        (pod(), {"a": "bad", "b": "bad"}, False, "Running"),
        (pod("Never"), {"a": "ok", "b": "ok"}, False, "Succeeded"),
        (pod("Never"), {"a": "ok", "b": "bad"}, False, "Failed"),
        (pod("OnFailure"), {"a": "ok", "b": "bad"}, False, "Running"),
        (pod(inits="x"), {"x": "up"}, False, "Pending"),
        (pod("Never", inits="x"), {"x": "bad"}, False, "Failed"),
        (pod("Never", inits="xs"), {"xs": "up", "a": "ok", "b": "ok"}, False, "Running"),
        (pod(), {"a": "ok", "b": "ok"}, True, "Succeeded"),
        (pod(), {"a": "ok", "b": "bad"}, True, "Failed"),
    ],
)
def test_phase(p, states, terminating, phase):
    assert status_of(p, states, terminating=terminating)["phase"] == phase


def test_conditions_name_what_is_missing():
    status = status_of(pod(inits="x y"), {"x": "ok", "y": "up"})
    conditions = {c["type"]: c for c in status["conditions"]}
    assert conditions["Initialized"]["message"] == "containers with incomplete status: [y]"
    assert conditions["Ready"]["message"] == "containers with unready status: [a b]"
    assert conditions["Ready"]["reason"] == "ContainersNotReady"


def test_waiting_shows_the_exit_as_last_state():
    status = status_of(pod(mains="a"), {"a": "bad"}, waiting={"a": ("CrashLoopBackOff", "back-off")})
    [a] = status["containerStatuses"]
    assert a["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    assert a["lastState"]["terminated"]["exitCode"] == 1


def test_others_conditions_are_kept_and_never_sent():
    p = pod()
    p["status"] = {"conditions": [{"type": "example.com/gate", "status": "True"}]}
    new = status_of(p, {"a": "up", "b": "up"})
    assert any(c["type"] == "example.com/gate" for c in new["conditions"])
    patch = status_patch("u", {}, new)
    assert all("/" not in c["type"] for c in patch["status"]["conditions"])


def test_patch_says_only_what_changed():
    old = status_of(pod(), {"a": "up", "b": "starting"})
    new = status_of(pod(), {"a": "up", "b": "up"})
    patch = status_patch("u", old, new)
    assert patch["metadata"] == {"uid": "u"}
    assert set(patch["status"]) == {"containerStatuses", "conditions"}
    assert {c["type"] for c in patch["status"]["conditions"]} == {"Ready", "ContainersReady"}
    assert status_patch("u", new, new) is None
    assert status_patch("u", {**new, "reason": "Evicted"}, new)["status"] == {"reason": None}
