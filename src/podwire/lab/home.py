"""Where a cluster keeps what outlives its processes: one directory a cluster, owned by the user."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from podwire.lab import config as lab_config
from podwire.lab.config import LabConfig
from podwire.model.errors import BadInput, MachineError, Problem


def home() -> Path:
    """Return the directory of all clusters: $PODWIRE_HOME, else ~/.local/state/podwire."""
    chosen = os.environ.get("PODWIRE_HOME")
    if chosen:
        return Path(chosen).absolute()
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "podwire"


def cache() -> Path:
    """Return the directory of what can be made again at any time: $PODWIRE_CACHE, else ~/.cache/podwire."""
    chosen = os.environ.get("PODWIRE_CACHE")
    if chosen:
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "podwire"


@dataclass(frozen=True, slots=True)
class ClusterDir:
    """The paths of one cluster's state. Nothing here touches the disk but the methods that say so."""

    path: Path

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.path.name

    @property
    def config_file(self) -> Path:
        """What the cluster was made with."""
        return self.path / "cluster.json"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's way in."""
        return self.path / "kubeconfig"

    @property
    def control_socket(self) -> Path:
        """Where lab init listens."""
        return self.path / "control.sock"

    @property
    def pid_file(self) -> Path:
        """Lab init's pid and start time, as the host sees them."""
        return self.path / "init.pid"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.path / "log"

    @property
    def failed_logs(self) -> Path:
        """Where the logs go of an `up` that did not come up and left nothing else."""
        return self.path.with_name(f"{self.name}.failed")

    def node(self, name: str) -> Path:
        """Return the persistent directory of a node."""
        return self.path / "nodes" / name

    def exists(self) -> bool:
        """Return whether there is such a cluster, running or not."""
        return self.config_file.exists()

    def create(self, config: LabConfig) -> None:
        """Make the directory and write the configuration down. Raises MachineError."""
        try:
            for directory in (self.path, self.logs, self.path / "pki", *map(self.node, config.node_names)):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.save(config)
        except OSError as error:
            raise MachineError(
                "lab", "create the state directory", str(self.path), error.strerror or error,
                "free some space, or set PODWIRE_HOME to a directory that you can write to",
            ) from error  # fmt: skip

    def save(self, config: LabConfig) -> None:
        """Replace the configuration file atomically."""
        draft = self.config_file.with_suffix(".tmp")
        draft.write_text(lab_config.dump(config))
        draft.replace(self.config_file)

    def load(self) -> LabConfig:
        """Return the configuration. Raises BadInput when there is no such cluster."""
        try:
            return lab_config.load(self.config_file.read_text(), str(self.config_file))
        except FileNotFoundError:
            known = ", ".join(c.name for c in clusters()) or "none"
            raise BadInput(
                Problem(
                    f"cluster {self.name}",
                    "",
                    f"there is no such cluster; there are: {known}. `podwire up` makes one",
                )
            ) from None

    def remove(self) -> None:
        """Delete the cluster's state for good."""
        shutil.rmtree(self.path, ignore_errors=False, onerror=_make_writable)


def _make_writable(function: object, path: str, _: object) -> None:
    """Let rmtree through directories that a container left without permissions."""
    parent = os.path.dirname(path)
    for target in (parent, path):
        if not os.path.islink(target):
            try:
                os.chmod(target, 0o700)
            except FileNotFoundError:
                return
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def cluster(name: str) -> ClusterDir:
    """Return the paths of the cluster called ``name``, whether it exists or not."""
    return ClusterDir(home() / name)


def clusters() -> list[ClusterDir]:
    """Return every cluster of this user, by name."""
    if not home().is_dir():
        return []
    return sorted((c for p in home().iterdir() if (c := ClusterDir(p)).exists()), key=lambda c: c.name)
