"""The executable podwire-cni: compiled from one page of C where there is a compiler, else in Python."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from podwire.cni.spec import IO_FAILURE, CniError
from podwire.runtime.compiler import cached_path, compile_page, find_compiler

NAME = "podwire-cni"
SOURCE = Path(__file__).parent / "native" / "podwire-cni.c"
_SHIM = Path(__file__).parent / "shim.py"


def build(cache_directory: Path, *, compiler: str | None = None) -> Path:
    """Return the path of an executable podwire-cni in ``cache_directory``, making it where it is missing.

    ``compiler`` None: cc, gcc or clang, whichever is there; "": none, which gives the Python one. A
    compiler that fails (no libc headers) gives the Python one, too. Raises CniError(5) when the
    directory cannot be written.
    """
    path = cached_path(SOURCE, cache_directory)
    if compiler is None:
        if path.exists():
            return path
        compiler = find_compiler()
    try:
        cache_directory.mkdir(parents=True, exist_ok=True)
        if compiler and compile_page(compiler, SOURCE, path):
            return path
        return _write_shim(cache_directory / f"{NAME}-python")
    except OSError as error:
        raise CniError(IO_FAILURE, f"cannot write {path}: {error.strerror}") from error


def _write_shim(path: Path) -> Path:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    # A shebang passes at most one argument: both flags go into it.
    scratch.write_text(f"#!{os.path.realpath(sys.executable)} -IS\n{_SHIM.read_text()}")
    scratch.chmod(0o755)
    scratch.rename(path)
    return path


def install(executable: Path, directory: Path) -> Path:
    """Put the executable into a directory of CNI_PATH as podwire-cni; return its path there.

    A link where the file system allows it, else a copy; replaced at once, so that a runtime never finds
    half of it.
    """
    target = directory / NAME
    scratch = directory / f".{NAME}.{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        scratch.unlink(missing_ok=True)
        try:
            os.link(executable, scratch)
        except OSError:
            shutil.copy2(executable, scratch)
        os.rename(scratch, target)
        scratch.unlink(missing_ok=True)  # rename(2) leaves it when both are links of one file
    except OSError as error:
        raise CniError(IO_FAILURE, f"cannot write {target}: {error.strerror}") from error
    return target
