"""A running lab as tests hold it: driven with the command and with kubectl, as a person would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podwire.lab import control

KUBECTL = shutil.which("kubectl") or "/usr/bin/kubectl"


@dataclass(frozen=True)
class Lab:
    """A running cluster and the two programs that drive it."""

    name: str
    home: Path
    prefix: tuple[str, ...] = ()  # before each command: how to become another user
    python: str = sys.executable

    @property
    def environment(self) -> dict[str, str]:
        """What the programs are started with."""
        return os.environ | {
            "PODWIRE_HOME": str(self.home),
            "KUBECONFIG": str(self.home / self.name / "kubeconfig"),
            "KUBECACHEDIR": str(self.home / "kubectl-cache"),
        }

    def podwire(
        self, *words: str, check: bool = True, timeout_s: float = 60, named: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `podwire` on this cluster."""
        name = ("--name", self.name) if named else ()
        command = [*self.prefix, self.python, "-m", "podwire", words[0], *name, *words[1:]]
        return _run(command, self.environment, check, timeout_s)

    def kubectl(
        self, *words: str, stdin: str | None = None, check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl on this cluster."""
        return _run([*self.prefix, KUBECTL, *words], self.environment, check, timeout_s, stdin)

    def out(self, *words: str, **more: Any) -> str:
        """Return what kubectl prints, stripped."""
        return self.kubectl(*words, **more).stdout.strip()

    def get(self, *words: str) -> Any:
        """Return `kubectl get ... -o json`, decoded."""
        return json.loads(self.kubectl("get", *words, "-o", "json").stdout)

    def apply(self, text: str) -> None:
        """Apply a manifest."""
        self.kubectl("apply", "-f", "-", stdin=text)

    def exec(self, pod: str, *command: str, check: bool = True, namespace: str = "default") -> str:
        """Return what a command in a pod prints."""
        return self.kubectl("exec", "-n", namespace, pod, "--", *command, check=check).stdout

    def node(self, name: str, *command: str, check: bool = True) -> str:
        """Return what a command on a node prints."""
        return self.podwire("node", name, "--", *command, check=check).stdout

    def kill(self, process: str) -> None:
        """Send SIGKILL to a process of the cluster, by its name in `podwire status`."""
        control.call(self.home / self.name / "control.sock", "kill", process=process)

    def process(self, name: str) -> dict[str, Any]:
        """Return a process's row of `podwire status`."""
        status = json.loads(self.podwire("status", "-o", "json").stdout)
        return next(p for p in status["processes"] if p["name"] == name)

    def wait(self, what: str, *words: str, timeout_s: int = 40) -> None:
        """Run `kubectl wait --for=WHAT ...`."""
        self.kubectl("wait", f"--for={what}", f"--timeout={timeout_s}s", *words, timeout_s=timeout_s + 10)

    def pod_ip(self, name: str, namespace: str = "default") -> str:
        """Return a pod's address."""
        return self.out("get", "pod", "-n", namespace, name, "-o", "jsonpath={.status.podIP}")


def _run(
    command: list[str], environment: dict[str, str], check: bool, timeout_s: float, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    feed: dict[str, Any] = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False, **feed
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} -> {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def eventually(act: Callable[[], Any], *, timeout_s: float = 20, every_s: float = 0.1) -> Any:
    """Return the first true answer of ``act``; fail with its last answer or error after ``timeout_s``."""
    end = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < end:
        try:
            last = act()
            if last:
                return last
        except AssertionError as error:
            last = error
        time.sleep(every_s)
    raise AssertionError(f"not within {timeout_s} s; last: {last}")
