"""What became of what was emitted."""

from multidb.models.entity import Model

__all__ = ["Emitted"]


class Emitted(Model):
    """How many entries of one collection this process emitted, and where they are now.

    `emitted` is the sum of `stored`, of what `shed` adds up to, of `refused`, `spilled` and `pending`.
    """

    emitted: int
    #: By MongoDB, acknowledged.
    stored: int
    #: Lost for want of room or of time, by how grave they were.
    shed: dict[str, int]
    #: Of another class, with a value MongoDB has no type for, too large, or against the validator.
    refused: int
    #: In a file of this process, to be replayed by it or by the next.
    spilled: int
    #: In memory, or on their way.
    pending: int
    #: Stored from the files of processes that are gone; not of this one's `emitted`.
    recovered: int
