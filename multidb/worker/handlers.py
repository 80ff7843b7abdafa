"""Handlers: the async functions that do jobs, by the kind of job they do."""

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias, TypeVar

from pydantic import PydanticSchemaGenerationError, TypeAdapter
from pydantic_core import to_json

from multidb.errors import ConfigurationError
from multidb.models.jobs import Backoff, Job, is_word
from multidb.worker.declared import check, is_span
from multidb.worker.run import Run
from multidb.worker.schedule import Schedule

__all__ = ["Discard", "Handler", "Handlers", "Snooze"]

#: What does a job; given its payload, the job, the run, or several of these.
Function: TypeAlias = Callable[..., Awaitable[Any]]
FunctionT = TypeVar("FunctionT", bound=Function)

_DEFAULT = Backoff()
_SHORTEST = timedelta(microseconds=1)


class Snooze(Exception):  # noqa: N818 - it is no error
    """Raised by a handler to have its job put back for `delay`, which counts as no attempt."""

    def __init__(self, delay: timedelta) -> None:
        super().__init__(delay)
        self.delay = delay


class Discard(Exception):  # noqa: N818 - it says what is to be done, and why
    """Raised by a handler whose job no further attempt would help: the job has failed at once."""


@dataclass(frozen=True, slots=True)
class Handler:
    """What does the jobs of a kind, and how it is treated."""

    kind: str
    function: Function
    #: By place, what each parameter is given.
    parameters: tuple["type[Job | Run] | TypeAdapter[Any]", ...]
    timeout: timedelta | None = None
    backoff: Backoff = _DEFAULT

    @classmethod
    def of(cls, kind: str, function: Function, **options: Any) -> "Handler":
        """Return a function as a handler. Raises: ConfigurationError if it cannot be one."""
        timeout = options.get("timeout")
        check(
            f"the handler of {kind!r}",
            ("kind", "a text of 1 to 200 characters", is_word(kind)),
            (
                "timeout",
                "a timedelta of more than zero, or None",
                timeout is None or is_span(timeout, _SHORTEST),
            ),
            ("backoff", "a Backoff", isinstance(options.get("backoff", _DEFAULT), Backoff)),
        )
        called = function.func if isinstance(function, partial) else function
        if not (inspect.iscoroutinefunction(called) or inspect.iscoroutinefunction(type(called).__call__)):
            raise ConfigurationError(f"the handler of {kind!r} must be an async function")
        try:
            given = inspect.signature(function, eval_str=True).parameters.values()
        except NameError as error:
            raise ConfigurationError(f"the handler of {kind!r}: {error}") from error
        needed = [each for each in given if each.default is each.empty and each.kind is not each.VAR_KEYWORD]
        if any(each.kind not in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD} for each in needed):
            raise ConfigurationError(f"the handler of {kind!r} must take its parameters by position")
        return cls(kind, function, tuple(_given(kind, each) for each in needed), **options)

    def arguments(self, job: Job, run: Run) -> list[Any]:
        """Return what to call it with. Raises: ValidationError if the payload is not what it takes."""
        return [
            each.validate_json(to_json(job.payload))
            if isinstance(each, TypeAdapter)
            else (job if each is Job else run)
            for each in self.parameters
        ]


def _given(kind: str, parameter: inspect.Parameter) -> "type[Job | Run] | TypeAdapter[Any]":
    """Return what a parameter is given: what its annotation says or, without one, its name."""
    annotation = parameter.annotation
    if annotation in {Job, Run}:
        return annotation  # type: ignore[no-any-return]
    if annotation is parameter.empty:
        annotation = {"job": Job, "run": Run}.get(parameter.name, dict[str, Any])
        return TypeAdapter(annotation) if annotation == dict[str, Any] else annotation
    try:
        return TypeAdapter(annotation)
    except PydanticSchemaGenerationError as error:
        raise ConfigurationError(
            f"the handler of {kind!r}: `{parameter.name}` has a type that no payload can be read as"
        ) from error


class Handlers(Mapping[str, Handler]):
    """Handlers by kind::

    handlers = Handlers()


    @handlers.job("summarise", timeout=timedelta(minutes=5))
    async def summarise(payload: Summarise, run: Run) -> Summary: ...

    The payload is read as what its parameter is annotated with, a pydantic model as a rule; a
    parameter annotated `Job` is given the job, one annotated `Run` the run. What it returns is
    the job's result: a model, which is stored as its JSON, a mapping or None.
    """

    def __init__(self, functions: Mapping[str, Function] | None = None) -> None:
        self._handlers: dict[str, Handler] = {}
        #: What is enqueued at certain times.
        self.schedules: list[Schedule] = []
        for kind, function in (functions or {}).items():
            self._add(Handler.of(kind, function))

    def job(
        self, kind: str, *, timeout: timedelta | None = None, backoff: Backoff = _DEFAULT
    ) -> Callable[[FunctionT], FunctionT]:
        """Have the function do the jobs of a kind.

        `timeout` is for jobs that have none of their own; `backoff` tells how long a job waits after a
        failed attempt.

        Raises: ConfigurationError, when decorating, if there is one for this kind, or the function
        cannot be a handler.
        """

        def decorate(function: FunctionT) -> FunctionT:
            self._add(Handler.of(kind, function, timeout=timeout, backoff=backoff))
            return function

        return decorate

    def periodic(
        self,
        cron: str,
        *,
        queue: str,
        kind: str,
        timezone: str = "UTC",
        grace: timedelta = timedelta(minutes=10),
        timeout: timedelta | None = None,
        backoff: Backoff = _DEFAULT,
    ) -> Callable[[FunctionT], FunctionT]:
        """Have the function called at the times that `cron` tells, once each, whatever number of workers.

        A job of this kind is enqueued at each, with an empty payload. A time that passed while no worker
        was there is made up for within `grace`, if it was the last. Needs `multidb[jobs]`.

        Raises: ConfigurationError, as `job` does, and if `cron` or `timezone` says nothing.
        """
        schedule = Schedule(cron, queue=queue, kind=kind, timezone=timezone, grace=grace)

        def decorate(function: FunctionT) -> FunctionT:
            self._add(Handler.of(kind, function, timeout=timeout, backoff=backoff))
            self.schedules.append(schedule)
            return function

        return decorate

    def _add(self, handler: Handler) -> None:
        if handler.kind in self._handlers:
            raise ConfigurationError(f"there are two handlers of {handler.kind!r}")
        self._handlers[handler.kind] = handler

    def __getitem__(self, kind: str) -> Handler:
        return self._handlers[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)
