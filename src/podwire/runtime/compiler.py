"""Compile a page of C on the user's machine, once, where there is a compiler."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path


def find_compiler() -> str:
    """Return the path of a C compiler; "" when there is none."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), "")


def cached_path(source: Path, directory: Path) -> Path:
    """Return where the executable of this very source lies, or will lie, in the cache."""
    return directory / f"{source.stem}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"


def compile_page(compiler: str, source: Path, path: Path) -> bool:
    """Compile ``source`` to ``path``; return whether that worked. Raises OSError when ``path`` cannot be written.

    Static where the libraries are there: without the dynamic linker it starts in a third of the time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    for mode in (("-static",), ()):
        command = [compiler, "-O2", *mode, "-o", str(scratch), str(source)]
        if subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0:
            scratch.rename(path)
            return True
    scratch.unlink(missing_ok=True)
    return False
