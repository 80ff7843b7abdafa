"""Having the effects of a batch: streams beside each other, each in order and up to the first that fails."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextvars import Context
from typing import Any, TypeAlias, TypeVar

from pydantic import ValidationError

from multidb.errors import DataError
from multidb.repositories.effects import Delivery, Effect, FencedEffect
from multidb.repositories.repository import Resources
from multidb.repositories.stream_fence import Fenced, Outcome, write_once
from multidb.stores.postgres.engine import Record
from multidb.stores.scope import EVERYBODY, Scope

__all__ = ["Deliveries", "Kinds"]

V = TypeVar("V")

#: By its name in the outbox, whose effect it is, and what.
Kinds: TypeAlias = Mapping[str, tuple[Any, Effect[Any, Any] | FencedEffect[Any, Any]]]

#: Rows of one stream in their order, or one of none.
Run: TypeAlias = Sequence[Record]


class Deliveries:
    """Has effects, by what is known of their kinds."""

    def __init__(self, resources: Resources, kinds: Kinds) -> None:
        self._resources = resources
        self._kinds = kinds

    async def have(self, runs: Sequence[Run]) -> list[tuple[Run, Outcome]]:
        """Have the effects of runs; return what became of each."""
        fenced = [run for run in runs if all(self._is_fenced(row) for row in run)]
        others = [run for run in runs if not all(self._is_fenced(row) for row in run)]
        loop = asyncio.get_running_loop()

        # In empty contexts: the transaction that holds them is not theirs.
        def begin(work: Coroutine[Any, Any, V]) -> asyncio.Task[V]:
            return loop.create_task(work, context=Context())

        one_by_one = [begin(self._one_by_one(run)) for run in others]
        together = begin(self._together(fenced))
        await asyncio.wait([*one_by_one, together])
        outcomes = [task.result() for task in one_by_one]
        return list(zip([*others, *fenced], [*outcomes, *together.result()], strict=True))

    async def have_one(self, row: Record) -> None:
        """Have one effect. Raises: whatever it does."""
        repository, effect = self._kinds[row["effect"]]
        if isinstance(effect, FencedEffect):
            (outcome,) = await self._together([[row]])
            if outcome.error is not None:
                raise outcome.error
        else:
            with Scope(row["tenant"] or EVERYBODY):
                await effect.apply(repository, _delivery(row, effect))

    def _is_fenced(self, row: Record) -> bool:
        return isinstance(self._kinds[row["effect"]][1], FencedEffect)

    async def _one_by_one(self, run: Run) -> Outcome:
        for place, row in enumerate(run):
            try:
                await self.have_one(row)
            except Exception as error:  # of an effect, whose own it is
                return Outcome(place, error)
        return Outcome(len(run))

    async def _together(self, runs: Sequence[Run]) -> list[Outcome]:
        """Make the writes of runs, those together that can be."""
        told = [self._writes(run) for run in runs]
        written = iter(await write_once(self._resources.mongo, [writes for writes, _ in told if writes]))
        made = [next(written) if writes else Outcome(0) for writes, _ in told]
        return [
            each if each.error is not None else Outcome(each.had, error)
            for each, (_, error) in zip(made, told, strict=True)
        ]

    def _writes(self, run: Run) -> tuple[list[Fenced], Exception | None]:
        """Return what is written for a run, up to what does not fit, and why that does not."""
        writes: list[Fenced] = []
        for row in run:
            repository, effect = self._kinds[row["effect"]]
            try:
                assert isinstance(effect, FencedEffect)
                with Scope(row["tenant"] or EVERYBODY):
                    write = effect.write(repository, _delivery(row, effect))
            except Exception as error:  # as above
                return writes, error
            writes.append(Fenced(row["stream"], row["version"], write))
        return writes, None


def _delivery(row: Record, effect: Effect[Any, Any] | FencedEffect[Any, Any]) -> Delivery[Any]:
    """Return what is to be had. Raises: DataError if it is not as this effect's are."""
    try:
        payload = effect.payload.model_validate(row["payload"], strict=False)
    except ValidationError as error:
        raise DataError(
            "what was written down of it is not what this effect has", operation=row["effect"]
        ) from error
    return Delivery(payload, row["version"], row["stream"], row["created_at"], row["document"])
