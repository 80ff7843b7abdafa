"""Answers, held against the JSON Schema of their form. Who makes forms need not be trusted with the process.

Nothing is fetched: a `$ref` leads into the form itself. The steps of one validation are counted, and
patterns are searched for by RE2, in a time that grows with the text, where Python's `re` can take for ever.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit
from uuid import UUID

from pydantic_core import to_json

from multidb.errors import ConfigurationError, DataError, InvalidSubmissionError
from multidb.models.forms import Form

if TYPE_CHECKING:
    from jsonschema import FormatChecker
    from jsonschema.exceptions import ValidationError

__all__ = ["FormValidators"]

#: A form's schema as JSON: characters it may have.
_LONGEST = 100_000
#: Keywords that may be applied in one validation. One takes some tens of microseconds.
_STEPS = 10_000
#: Messages in one error.
_MOST = 100
#: Compiled forms that are kept.
_KEPT = 256

#: The class of `jsonschema`, which has no name for it that a type checker knows.
Validator: TypeAlias = Any

#: What to say of each keyword. What was answered is not repeated.
_MESSAGES = {
    "type": "must be of type {}",
    "required": "must be answered",
    "enum": "must be one of the values the form offers",
    "const": "must be the value the form says",
    "minLength": "must have {} characters or more",
    "maxLength": "must have {} characters or fewer",
    "pattern": "does not have the form that is asked for",
    "format": "must be a valid {}",
    "minimum": "must be {} or more",
    "maximum": "must be {} or less",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
    "minItems": "must have {} items or more",
    "maxItems": "must have {} items or fewer",
    "uniqueItems": "must not have an item twice",
    "minProperties": "must have {} fields or more",
    "maxProperties": "must have {} fields or fewer",
    "additionalProperties": "has fields that the form does not ask for",
    "unevaluatedProperties": "has fields that the form does not ask for",
    "anyOf": "fits none of the ways the form allows",
    "oneOf": "must fit one of the ways the form allows, and one only",
}


class FormValidators:
    """The validators of forms, each compiled once for a version of its form."""

    def __init__(self) -> None:
        self._compiled: OrderedDict[tuple[UUID, int], _Compiled] = OrderedDict()

    def check(self, form: Form, answers: Mapping[str, Any], operation: str) -> None:
        """Raise: InvalidSubmissionError that tells for each field what is wrong; DataError if the form is."""
        key = form.id, form.version
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = _Compiled(form, operation)
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        errors = compiled.errors(answers, operation)
        if errors:
            field, (first, *_) = next(iter(errors.items()))
            more = f" (and {len(errors) - 1} other fields)" if len(errors) > 1 else ""
            raise InvalidSubmissionError(
                f"{f'`{field}`' if field else 'the whole'} {first}{more}", errors=errors, operation=operation
            )


class _Compiled:
    """One version of one form."""

    def __init__(self, form: Form, operation: str) -> None:
        try:
            import jsonschema
            import re2  # type: ignore[import-untyped]
            from jsonschema.validators import extend, validator_for
            from referencing import Registry
        except ImportError as error:
            problem = "forms need `pip install multidb[forms]`"
            raise ConfigurationError(problem, operation=operation) from error
        if len(to_json(form.definition)) > _LONGEST:
            raise self._unfit(f"it has more than {_LONGEST:,} characters", operation)
        latest: Any = jsonschema.Draft202012Validator
        draft = form.definition.get("$schema", latest.META_SCHEMA["$id"])
        cls: Any = isinstance(draft, str) and validator_for({"$schema": draft}, default=None)  # type: ignore[arg-type]
        if not cls:
            raise self._unfit("its `$schema` is no draft that is known", operation)
        self._steps = 0
        try:
            cls.check_schema(form.definition)
            _check_patterns(form.definition)
        except (jsonschema.SchemaError, RecursionError) as error:
            raise self._unfit("it is no JSON Schema", operation) from error
        except re2.error as error:
            raise self._unfit("a pattern in it is none that RE2 knows", operation) from error
        except ValueError as error:
            raise self._unfit(str(error), operation) from error
        counted = {name: self._counted(keyword) for name, keyword in cls.VALIDATORS.items()}
        counted["pattern"] = _pattern
        counted["uniqueItems"] = _unique
        self._validator: Validator = extend(cls, counted)(  # type: ignore[no-untyped-call]
            form.definition, registry=Registry(), format_checker=_formats(cls.FORMAT_CHECKER)
        )

    def errors(self, answers: Mapping[str, Any], operation: str) -> dict[str, tuple[str, ...]]:
        """Return what is wrong, by field."""
        from referencing.exceptions import Unresolvable

        self._steps = 0
        found: dict[str, dict[str, None]] = {}
        try:
            for error in self._validator.iter_errors(answers):
                for field, message in _told(error):
                    found.setdefault(field, {})[message] = None
                if len(found) >= _MOST:
                    break
        except (_TooMuchError, RecursionError) as error:
            raise self._unfit("it takes too long to hold these answers against it", operation) from error
        except Unresolvable as error:
            raise self._unfit("a `$ref` in it leads nowhere within it", operation) from error
        return {field: tuple(messages) for field, messages in found.items()}

    def _counted(self, keyword: Any) -> Any:
        def counted(validator: Validator, value: Any, instance: Any, schema: Any) -> Any:
            self._steps += 1
            if self._steps > _STEPS:
                raise _TooMuchError
            return keyword(validator, value, instance, schema)

        return counted

    @staticmethod
    def _unfit(problem: str, operation: str) -> DataError:
        return DataError(f"`definition` of the form: {problem}", operation=operation)


class _TooMuchError(Exception):
    """A validation that has taken too many steps."""


def _told(error: "ValidationError") -> Iterator[tuple[str, str]]:
    """Yield the fields an error is about, and what to say of them."""
    path = [str(part) for part in error.absolute_path]
    keyword, value = str(error.validator), error.validator_value
    if keyword == "required" and isinstance(value, list) and isinstance(error.instance, Mapping):
        for name in value:
            if name not in error.instance:
                yield ".".join([*path, name]), _MESSAGES[keyword]
        return
    said = " or ".join(map(str, value)) if isinstance(value, list) else str(value)
    yield ".".join(path), _MESSAGES.get(keyword, "does not fit the form").format(said)


def _check_patterns(schema: Any) -> None:
    """Raise: re2.error, or ValueError for patterns of names, which `jsonschema` gives to Python's `re`."""
    if isinstance(schema, list):
        for each in schema:
            _check_patterns(each)
    if isinstance(schema, Mapping):
        if isinstance(pattern := schema.get("pattern"), str):
            _searcher(pattern)
        if schema.get("patternProperties"):
            raise ValueError("`patternProperties` is not for forms: name the fields in `properties`")
        for each in schema.values():
            _check_patterns(each)


@lru_cache(maxsize=1024)
def _searcher(pattern: str) -> Callable[[str], object]:
    import re2

    options = re2.Options()
    options.log_errors = False
    search: Callable[[str], object] = re2.compile(pattern, options).search
    return search


def _pattern(_: Validator, pattern: str, instance: Any, __: Any) -> Iterator["ValidationError"]:
    from jsonschema.exceptions import ValidationError

    if isinstance(instance, str) and not _searcher(pattern)(instance):
        yield ValidationError("does not match")


def _unique(_: Validator, wanted: bool, instance: Any, __: Any) -> Iterator["ValidationError"]:
    """Yield an error if an item is there twice. The library's own compares each with all others."""
    from jsonschema.exceptions import ValidationError

    if wanted and isinstance(instance, list) and len(set(map(_hashable, instance))) < len(instance):
        yield ValidationError("has an item twice")


def _hashable(value: Any) -> object:
    """Return what is equal for values that JSON Schema has equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, Mapping):
        return frozenset((name, _hashable(each)) for name, each in value.items())
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    return (bool, value) if isinstance(value, bool) else value


def _formats(known: "FormatChecker") -> "FormatChecker":
    """Return the formats that are checked: those of the library, and those it wants other packages for."""
    from jsonschema import FormatChecker

    formats = FormatChecker(formats=())
    formats.checkers = {
        **known.checkers,
        "date-time": (_is_moment, ValueError),
        "time": (_is_time, ValueError),
        "uri": (_is_uri, ValueError),
    }
    return formats


def _is_moment(value: object) -> bool:
    if not isinstance(value, str):
        return True
    return value[10:11] in {"T", "t"} and datetime.fromisoformat(value).tzinfo is not None


def _is_time(value: object) -> bool:
    return not isinstance(value, str) or time.fromisoformat(value).tzinfo is not None


def _is_uri(value: object) -> bool:
    return not isinstance(value, str) or (bool(urlsplit(value).scheme) and not any(map(str.isspace, value)))
