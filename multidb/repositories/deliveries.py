"""Having the effects of a batch: streams beside each other, each in order and up to the first that fails."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from typing import Any, TypeAlias

from pydantic import ValidationError

from multidb.errors import DataError
from multidb.repositories.effects import Delivery, Effect, FencedEffect
from multidb.repositories.repository import Resources
from multidb.repositories.stream_fence import Fenced, Outcome, write_once
from multidb.stores.postgres.engine import Record
from multidb.stores.scope import EVERYBODY, Scope

__all__ = ["Deliveries", "Kinds"]

#: By its name in the outbox, whose effect it is, and what.
Kinds: TypeAlias = Mapping[str, tuple[Any, Effect[Any, Any] | FencedEffect[Any, Any]]]

#: Rows of one stream in their order, or one of none.
Run: TypeAlias = Sequence[Record]

#: Has runs, and returns what became of each.
Way: TypeAlias = Callable[[Sequence[Run]], Coroutine[Any, Any, list[Outcome]]]


class Deliveries:
    """Has effects, by what is known of their kinds."""

    def __init__(self, resources: Resources, kinds: Kinds) -> None:
        self._resources = resources
        self._kinds = kinds

    async def have(self, runs: Sequence[Run]) -> list[tuple[Run, Outcome]]:
        """Have the effects of runs; return what became of each."""
        parts: dict[Way, list[Run]] = {}
        for run in runs:
            parts.setdefault(self._way(run), []).append(run)
        loop = asyncio.get_running_loop()
        # In empty contexts: the transaction that holds them is not theirs.
        tasks = [loop.create_task(way(some), context=Context()) for way, some in parts.items()]
        await asyncio.wait(tasks)
        return [
            each
            for some, task in zip(parts.values(), tasks, strict=True)
            for each in zip(some, task.result(), strict=True)
        ]

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

    def _way(self, run: Run) -> Way:
        """Return what has such runs: with others like them, if all of a run's effects can be had so."""
        effects = {row["effect"]: self._kinds[row["effect"]][1] for row in run}.values()
        if all(isinstance(effect, FencedEffect) for effect in effects):
            return self._together
        if all(isinstance(effect, Effect) and effect.apply_all is not None for effect in effects):
            return self._by_place
        return self._alone

    async def _alone(self, runs: Sequence[Run]) -> list[Outcome]:
        return await asyncio.gather(*(self._one_by_one(run) for run in runs))

    async def _one_by_one(self, run: Run) -> Outcome:
        for place, row in enumerate(run):
            try:
                await self.have_one(row)
            except Exception as error:  # of an effect, whose own it is
                return Outcome(place, error)
        return Outcome(len(run))

    async def _by_place(self, runs: Sequence[Run]) -> list[Outcome]:
        """Have of all runs the first, then of those that go on the second, and so on."""
        outcomes = [Outcome(len(run)) for run in runs]
        for place in range(max(map(len, runs))):
            by_effect: dict[str, list[int]] = {}
            for number, run in enumerate(runs):
                if place < outcomes[number].had:
                    by_effect.setdefault(run[place]["effect"], []).append(number)
            for name, numbers in by_effect.items():
                failed = await self._in_one_go(name, [runs[number][place] for number in numbers])
                for at, error in failed.items():
                    outcomes[numbers[at]] = Outcome(place, error)
        return outcomes

    async def _in_one_go(self, name: str, rows: Sequence[Record]) -> dict[int, Exception]:
        """Have effects of one kind; return by place what went wrong."""
        repository, effect = self._kinds[name]
        assert isinstance(effect, Effect)
        assert effect.apply_all is not None
        failed: dict[int, Exception] = {}
        deliveries: dict[int, Delivery[Any]] = {}
        for place, row in enumerate(rows):
            try:
                deliveries[place] = _delivery(row, effect)
            except DataError as error:
                failed[place] = error
        places = list(deliveries)
        try:
            refused = await effect.apply_all(repository, list(deliveries.values()))
        except Exception as error:  # of all of them
            return failed | dict.fromkeys(places, error)
        return failed | {places[at]: error for at, error in refused.items()}

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
