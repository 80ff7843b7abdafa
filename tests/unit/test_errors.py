"""The error tree: as drawn, complete, and intact after a pickle."""

import pickle
import re

import pytest

from multidb import errors
from multidb.errors import (
    ConflictError,
    ConstraintError,
    InvalidSubmissionError,
    LockNotAcquiredError,
    MultiDBError,
    RateLimitExceededError,
    StoreTimeoutError,
    UnavailableError,
)

CLASSES = sorted(
    (c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, MultiDBError)),
    key=lambda c: c.__name__,
)
#: What a class knows beyond store, operation and retryable.
EXTRAS: dict[type[MultiDBError], dict[str, object]] = {
    ConstraintError: {
        "constraint": "users_email_key",
        "columns": ("email", "tenant_id"),
        "keys": (("a@b", 1),),
    },
    ConflictError: {"version": 7},
    InvalidSubmissionError: {"errors": {"address.street": ("must be answered",)}},
    RateLimitExceededError: {"decision": {"allowed": False, "retry_after": 3}},
}


def drawn_tree() -> dict[str, str]:
    """Return child -> parent, read from the drawing in the module's docstring."""
    tree: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if drawn := re.fullmatch(r" {4}((?:[│ ] )*)(?:[├└] )?([A-Z]\w+Error)\b.*", line):
            is_root = drawn[2] == "MultiDBError"
            depth = 0 if is_root else len(drawn[1]) // 2 + 1
            del path[depth:]
            if path:
                tree[drawn[2]] = path[-1]
            path.append(drawn[2])
    return tree


def test_the_tree_is_the_one_drawn() -> None:
    assert drawn_tree() == {
        c.__name__: c.__base__.__name__ for c in CLASSES if c is not MultiDBError and c.__base__
    }


def test_all_is_sorted_and_complete() -> None:
    assert errors.__all__ == sorted([*(c.__name__ for c in CLASSES), "StoreName"])


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_an_error_pickles_with_all_it_knows(cls: type[MultiDBError]) -> None:
    extras = next((known for base, known in EXTRAS.items() if issubclass(cls, base)), {})
    error = cls("it failed", store="mongo", operation="users.add", retryable=True, **extras)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert again.args == ("it failed",)
    assert vars(again) == vars(error)
    assert vars(error) == {"store": "mongo", "operation": "users.add", "retryable": True, **extras}
    assert str(again) == "users.add: it failed"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_an_error_needs_no_arguments(cls: type[MultiDBError]) -> None:
    error = cls()
    assert str(error) == ""
    assert error.store is None
    assert error.operation is None
    assert type(pickle.loads(pickle.dumps(error))) is cls


def test_retryable_unless_told_otherwise() -> None:
    retryable = {c for c in CLASSES if c().retryable}
    assert retryable == {UnavailableError, StoreTimeoutError, LockNotAcquiredError, RateLimitExceededError}
    assert not UnavailableError(retryable=False).retryable


def test_str_carries_the_operation() -> None:
    assert str(MultiDBError("it failed", operation="users.get")) == "users.get: it failed"
    assert str(MultiDBError("it failed")) == "it failed"
