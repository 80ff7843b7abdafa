"""One way in which the server is not as a file says, and what is done about it."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from multidb.ops.schemas.obstacles import Misfits, Obstacle, Probe
from multidb.ops.schemas.server import Command

__all__ = ["Difference", "Permission"]

#: What is done only when told: dropping an index, and refusing from now on what is stored already.
Permission: TypeAlias = Literal["drop_indexes", "accept_misfits"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference. What cannot be changed in place has no commands, and its remedy says what to do."""

    collection: str
    problem: str
    #: What `apply` does, or what whoever runs it must do: "it …".
    remedy: str
    commands: tuple[Command, ...] = ()
    #: Without these it is not done.
    needs: Permission | None = None
    #: What would be lost by it.
    danger: str = ""
    #: Whether the collection serves all the files ask for although nothing is done.
    harmless: bool = False

    #: Looks for documents in its way: before anything, and between `preparation` and `commands`.
    probe: Probe | None = None
    preparation: tuple[Command, ...] = ()
    #: What takes the preparation back.
    undoing: tuple[Command, ...] = ()
    #: What the probe found.
    obstacle: Obstacle | None = None

    def may_be_done(self, permissions: Collection[Permission]) -> bool:
        """Tell whether `apply` does it, given these permissions."""
        return bool(self.commands) and all(each in permissions for each in self._wanted)

    @property
    def _wanted(self) -> list[str]:
        wanted: list[str] = [] if self.needs is None else [self.needs]
        if self.obstacle is not None:
            # No permission makes a value unique.
            wanted.append("accept_misfits" if isinstance(self.probe, Misfits) else "")
        return wanted

    def __str__(self) -> str:
        parts = [f"{self.collection}: {self.problem}", f"it {self.remedy}"]
        if self.danger:
            parts.append(self.danger)
        if self.obstacle is not None:
            parts.append(f"but {self.obstacle}")
        if flags := [f"--{each.replace('_', '-')}" for each in self._wanted if each]:
            parts.append(f"only with {' and '.join(flags)}")
        return "; ".join(parts)

    def described(self) -> dict[str, Any]:
        """Return it for programs."""
        obstacle = self.obstacle and {
            "problem": self.obstacle.problem,
            "count": self.obstacle.count,
            "samples": list(self.obstacle.samples),
        }
        return {
            "collection": self.collection,
            "problem": self.problem,
            "remedy": self.remedy,
            "danger": self.danger or None,
            "obstacle": obstacle,
            "needs": [each for each in self._wanted if each],
            "blocked": not self.commands or "" in self._wanted,
        }
