"""The pytest plugin: the worked example of docs/testing.md, run as a user would run it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SHOP = ROOT / "tests" / "scenarios" / "shop" / "shop.yaml"


def example(name: str) -> str:
    """Return a Python example of the page by the file name in its first line."""
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", (ROOT / "docs" / "testing.md").read_text(), re.S)
    return dict(blocks)[name]


def run(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in ``directory`` with the plugin and nothing of this project's own settings."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(directory)]
    if not installed():
        command += ["-p", "podwire.testing.plugin"]
    return subprocess.run([*command, *words], cwd=directory, capture_output=True, text=True, check=False, timeout=60)


def installed() -> bool:
    """Return whether the installed package announces the plugin (an older installation may not)."""
    from importlib.metadata import entry_points

    return any(e.value == "podwire.testing.plugin" for e in entry_points(group="pytest11"))


def test_the_worked_example_passes(tmp_path: Path) -> None:
    shutil.copy(SHOP, tmp_path)
    (tmp_path / "test_shop.py").write_text(example("test_shop.py"))
    done = run(tmp_path, "test_shop.py")
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_a_failing_assertion_explains_itself(tmp_path: Path) -> None:
    shutil.copy(SHOP, tmp_path)
    (tmp_path / "test_it.py").write_text(
        'PODWIRE_MANIFESTS = ["shop.yaml"]\n\n\ndef test_it(manifests):\n    assert manifests.pod("frontend", "shop").reaches("db:5432")\n'
    )
    done = run(tmp_path, "test_it.py")
    assert done.returncode == 1
    assert "<not reached: DENIED: pod" in done.stdout or "<not reached: DENIED: deploy" in done.stdout
    assert "isolated by NetworkPolicy" in done.stdout
    assert "to fix: add to NetworkPolicy shop/frontend spec.egress" in done.stdout


def test_settings_name_the_manifests_of_all_modules(tmp_path: Path) -> None:
    shutil.copy(SHOP, tmp_path)
    (tmp_path / "settings.ini").write_text("[pytest]\npodwire_manifests = shop.yaml\n")
    (tmp_path / "test_it.py").write_text(
        'def test_it(manifests):\n    assert manifests.pod("backend", "shop").reaches("db:5432")\n'
    )
    done = run(tmp_path, "-c", "settings.ini", "test_it.py")
    assert done.returncode == 0, done.stdout


def test_loading_the_plugin_imports_nothing_heavy() -> None:
    code = "import sys, podwire.testing.plugin; print(sorted({m.split('.')[0] for m in sys.modules} & {'aiohttp', 'yaml', 'cryptography', 'orjson', 'uvloop', 'asyncio'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded_by_pytest = subprocess.run(
        [sys.executable, "-c", code.replace("podwire.testing.plugin", "pytest")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == loaded_by_pytest.stdout
