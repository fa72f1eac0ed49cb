"""What can go wrong, and how it is said.

A bad *object* is a value, ``Problem``: it becomes a condition or an event on that object.
A bad *machine* is an exception, ``MachineError``: caught only in an ``agent.py`` or at a command's door.

    PodwireError
    ├── MachineError          room, act, object, cause, hint
    │   ├── NotPermitted      the kernel refused: missing privilege
    │   ├── Unsupported       this kernel or machine lacks a feature
    │   └── AlreadyInUse      a port, name or address is taken
    └── BadInput              what a person typed or wrote in a file
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one object: which object, which field, and why."""

    object: str  # "Kind namespace/name", or a file name
    field: str  # a path such as "spec.ports[0].port"; "" when the object as a whole is meant
    why: str

    def __str__(self) -> str:
        where = f"{self.object}: {self.field}" if self.field else self.object
        return f"{where}: {self.why}"


class PodwireError(Exception):
    """The root of podwire's exceptions."""


class MachineError(PodwireError):
    """The machine could not do what was asked of it.

    The message reads ``room: act object: cause; hint``.
    """

    def __init__(self, room: str, act: str, object: str, cause: object, hint: str = "") -> None:
        self.room, self.act, self.object, self.cause, self.hint = room, act, object, cause, hint
        tail = f"; {hint}" if hint else ""
        super().__init__(f"{room}: {act} {object}: {cause}{tail}")


class NotPermitted(MachineError):
    """The kernel refused for want of a privilege; the hint names the command that allows it."""


class Unsupported(MachineError):
    """This kernel or machine lacks a feature; the hint names an alternative."""


class AlreadyInUse(MachineError):
    """A port, a name or an address is taken; the hint says by whom, where that is known."""


class BadInput(PodwireError):
    """A person's input cannot be used. Carries one or more problems, all of them shown."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("\n".join(str(p) for p in problems))
