"""The public surface: what is exported exists, is said what it is, and is called by keyword."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

import multidb
from multidb import MongoRepository, MultiDB, PostgresRepository, errors
from multidb.registry import BUILT_IN
from multidb.repositories.job_claims import JobClaims
from multidb.repositories.repository import Repository

#: The modules whose names applications import.
PUBLIC = ("multidb", "multidb.errors", "multidb.logging", "multidb.models", "multidb.testing")

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(multidb.__path__, "multidb.")
    # Importing it runs the command.
    if not module.name.endswith(".__main__")
)

#: What applications call methods of.
CALLED: tuple[type, ...] = (MultiDB, PostgresRepository, MongoRepository, JobClaims, *BUILT_IN)

#: Parameters that may be given by position although another stands before them.
BY_POSITION = {
    # One thought: what to change, and how.
    "PostgresRepository.update": ["changes"],
    # One thought: from when to when.
    "ApiRequestLogRepository.range": ["last"],
    "ApiRequestLogRepository.total": ["last"],
    "ApiRequestLogRepository.top": ["last"],
    "UserActivityLogRepository.active_users": ["last"],
    "UserActivityLogRepository.distinct_users": ["last"],
    "UserActivityLogRepository.retention": ["last"],
    # One thought: of what, from when to when.
    "UsageAnalyticsRepository.range": ["first", "last"],
    "UsageAnalyticsRepository.total": ["first", "last"],
    "UsageAnalyticsRepository.top": ["first", "last"],
    "MongoRepository.update": ["changes"],
    # One thought: which claim, and what became of it.
    "JobClaims.complete": ["result"],
    "JobClaims.fail": ["error"],
    "JobClaims.progress": ["share"],
    "JobClaims.snooze": ["delay"],
    # One thought: whose history.
    "AuditLogRepository.history": ["id"],
    # One thought: which counter, and which of them.
    "CounterRepository.get": ["day"],
    "CounterRepository.range": ["first", "last"],
    # One thought: who calls what.
    "MultiDB.request": ["endpoint"],
    # One thought: whose limit, at what, and which.
    "RateLimitRepository.hit": ["endpoint", "rate"],
    "RateLimitRepository.require": ["endpoint", "rate"],
    "RateLimitRepository.peek": ["endpoint", "rate"],
    "RateLimitRepository.refund": ["endpoint", "rate"],
    "RateLimitRepository.hit_all": ["limits"],
    "RateLimitRepository.reset": ["endpoint"],
    # One thought: what to keep under which key, and as what to read it.
    "DynamicConfigurationRepository.set": ["value"],
    "DynamicConfigurationRepository.value": ["kind"],
    # One thought: what to add to which.
    "AiProcessingResultRepository.log": ["lines"],
    "UploadRepository.append": ["chunk"],
}


def public_names(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    ]


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties of a class, those it inherits from ours included."""
    for name in dir(cls):
        member = inspect.getattr_static(cls, name)
        if not name.startswith("_") and isinstance(
            member, FunctionType | classmethod | staticmethod | property
        ):
            yield name, member


def functions(cls: type) -> Iterator[tuple[str, inspect.Signature]]:
    for name, member in methods(cls):
        if not isinstance(member, property):
            # Through the class, a class method has lost its first parameter and a method has not.
            signature = inspect.signature(getattr(cls, name))
            parameters = list(signature.parameters.values())
            bound = isinstance(member, classmethod | staticmethod)
            yield name, signature.replace(parameters=parameters if bound else parameters[1:])


# --- names


def test_all_is_complete() -> None:
    assert sorted(public_names(multidb)) == sorted(multidb.__all__)


@pytest.mark.parametrize("name", [each for each in errors.__all__ if each != "StoreName"])
def test_every_error_is_exported_at_the_top(name: str) -> None:
    assert getattr(multidb, name) is getattr(errors, name)


@pytest.mark.parametrize("name", ["multidb", *MODULES])
def test_a_modules_all_names_what_exists_once_each_and_in_order(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert [each for each in exported if not hasattr(module, each)] == []
    assert len(set(exported)) == len(exported)
    # Constants, then classes, then the rest: ruff's order.
    assert exported == sorted(exported, key=lambda each: (not each.isupper(), each[0].islower(), each))
    assert not [each for each in exported if each.startswith("_")]


@pytest.mark.parametrize("name", ["multidb", *MODULES])
def test_a_module_says_what_it_is_about(name: str) -> None:
    module = importlib.import_module(name)
    empty = not Path(module.__file__ or "").read_text(encoding="utf-8").strip()
    assert module.__doc__ or (empty and hasattr(module, "__path__"))


# --- docstrings


def documented() -> list[tuple[str, Any]]:
    found = []
    for name in PUBLIC:
        module = importlib.import_module(name)
        for each in getattr(module, "__all__", None) or public_names(module):
            value = getattr(module, each)
            if isinstance(value, type) or inspect.isroutine(value) or hasattr(value, "__wrapped__"):
                found.append((f"{name}.{each}", value))
    return found


@pytest.mark.parametrize(
    ("name", "value"), documented(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_public_class_and_function_says_what_it_is(name: str, value: Any) -> None:
    own = vars(value).get("__doc__") if isinstance(value, type) else inspect.getdoc(value)
    assert own, f"{name} has no docstring"
    assert not own.startswith(f"{name.rpartition('.')[2]}("), f"{name} has the docstring dataclasses generate"


@pytest.mark.parametrize("cls", CALLED, ids=lambda cls: cls.__name__)
def test_every_public_method_says_what_it_does(cls: type) -> None:
    silent = [name for name, _ in methods(cls) if not inspect.getdoc(getattr(cls, name))]
    assert silent == []


@pytest.mark.parametrize("cls", CALLED, ids=lambda cls: cls.__name__)
def test_every_method_says_its_types(cls: type) -> None:
    untyped = [
        f"{name}({parameter.name})"
        for name, signature in functions(cls)
        for parameter in signature.parameters.values()
        if parameter.annotation is parameter.empty
    ] + [name for name, signature in functions(cls) if signature.return_annotation is signature.empty]
    assert untyped == []


# --- signatures


def by_position(cls: type) -> list[str]:
    """Return the parameters past the first that a call may give by position."""
    found = []
    for name, signature in functions(cls):
        positional = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        owner = next(base.__name__ for base in cls.__mro__ if name in vars(base))
        excused = BY_POSITION.get(f"{owner}.{name}", [])
        found += [f"{owner}.{name}({each})" for each in positional[1:] if each not in excused]
    return found


@pytest.mark.parametrize("cls", CALLED, ids=lambda cls: cls.__name__)
def test_past_the_first_argument_all_is_by_keyword(cls: type) -> None:
    assert by_position(cls) == []


@pytest.mark.parametrize("excused", BY_POSITION)
def test_the_stated_exceptions_are_still_there(excused: str) -> None:
    owner, name = excused.split(".")
    signature = inspect.signature(getattr(next(each for each in CALLED if each.__name__ == owner), name))
    for each in BY_POSITION[excused]:
        assert signature.parameters[each].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD


def test_making_the_database_is_by_keyword_past_the_settings() -> None:
    assert [
        (each.name, each.kind.name)
        for each in list(inspect.signature(MultiDB.__init__).parameters.values())[1:]
    ] == [
        ("settings", "POSITIONAL_OR_KEYWORD"),
        ("repositories", "KEYWORD_ONLY"),
        ("redact", "KEYWORD_ONLY"),
    ]


def test_only_calls_about_many_take_any_number_of_filters() -> None:
    variadic = {
        name
        for cls in CALLED
        for name, signature in functions(cls)
        if any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values())
    }
    assert variadic <= {
        "find",
        "find_one",
        "stream",
        "count",
        "exists",
        "update_many",
        "delete_many",
        "search",
        # Channels, as many as there are.
        "subscribe",
    }


@pytest.mark.parametrize("cls", CALLED, ids=lambda cls: cls.__name__)
def test_a_duration_is_a_timedelta_and_never_a_number(cls: type) -> None:
    for name, signature in functions(cls):
        for parameter in signature.parameters.values():
            if parameter.name in {"ttl", "lease", "timeout", "wait", "per", "delay"}:
                assert "timedelta" in str(parameter.annotation), f"{name}({parameter.name})"


def test_names_keep_to_the_vocabulary() -> None:
    every = {name for cls in CALLED for name, _ in methods(cls)}
    assert not {name for name in every if name.startswith("a") and name[1:] in every}, "no sync twins"
    assert not {name for name in every if "async" in name}
    assert "list" not in every
    assert {"get", "fetch", "get_many", "find", "add", "add_many", "update", "delete", "restore"} <= {
        name for name, _ in methods(PostgresRepository)
    }


def test_every_repository_says_which_store_it_is_on() -> None:
    for cls in BUILT_IN:
        assert issubclass(cls, Repository)
        assert cls.store in {"postgres", "mongo", "redis"}
        assert cls.target() in (importlib.import_module(cls.__module__).__doc__ or "")
