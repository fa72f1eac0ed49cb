"""What containers see of the host's file systems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from podwire.node.runtime.rootfs import _resolve, find_file_systems

_MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:5 / /dev rw - devtmpfs devtmpfs rw
24 22 254:1 / /usr rw,relatime shared:1 - xfs /dev/vdb rw
25 24 254:2 / /usr/local rw - ext4 /dev/vdc rw
26 22 254:3 / /home rw - btrfs /dev/vdd rw
27 22 0:30 / /etc rw - overlay overlay rw,lowerdir=/etc,upperdir=/run/podwire/view/etc/upper
28 22 0:31 / /root rw - overlay overlay rw,lowerdir=/root,upperdir=/run/podwire/view/root/upper
29 22 0:32 / /srv/my\\040data rw - nfs4 server:/x rw
30 22 254:4 / /var rw - ext4 /dev/vde rw
31 22 254:5 / /secret/keys rw - ext4 /dev/vdf rw
32 22 0:33 / /mnt/x rw - ext4 /dev/vdg rw
"""


def test_the_hosts_own_file_systems_are_found() -> None:
    found = find_file_systems(_MOUNTS, "/run/podwire", ["/secret"])
    assert found == ["/usr", "/home", "/srv/my data"]


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        ("/a/b", "/a/b"),
        ("/link/x", "/real/x"),
        ("/up/etc", "/etc"),
        ("/loop/x", None),
        ("/run/link", "/run/link"),
        ("/etc/resolv.conf", "/etc/resolv.conf"),
        ("/real/../../..//a/./b", "/a/b"),
    ],
)
def test_paths_never_leave_the_root(tmp_path: Path, path: str, resolved: str | None) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "link").symlink_to("/real")
    (tmp_path / "up").symlink_to("../../../..")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "etc" / "resolv.conf").symlink_to("/run/elsewhere")
    got = _resolve(str(tmp_path), path)
    assert resolved is None or got == resolved
    assert os.path.normpath(got) == got
