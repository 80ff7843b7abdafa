"""Redaction: secrets and personal data taken out of log entries before they leave the process."""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, TypeAlias

__all__ = ["REDACTED", "Redact", "Redactor"]

#: Returns what may be stored of an entry, given and returned as a document: a mapping of JSON-like
#: values. It may change what it was given. Called from worker threads.
Redact: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]

#: What stands in the place of what was taken out.
REDACTED = "[redacted]"

#: What the end of a key, one word or two, tells of its value: `client_secret`, `X-Api-Key`,
#: `userPassword`. A `primary_key` opens nothing.
_NAMES = frozenset(
    """
    authorization cookie credential csrf cvc cvv email iban jwt otp passcode passphrase passwd password
    phone pin pwd secret signature ssn token xsrf
    accesskey accountnumber apikey authkey cardnumber creditcard encryptionkey firstname fullname lastname
    passportnumber postaladdress privatekey secretkey sessionid sessionkey signingkey streetaddress taxid
    """.split()  # noqa: SIM905
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_A-Za-z]+")

_NUMBERS = frozenset({int, float})
_MAY_HOLD = frozenset({str, dict, list})

#: `token=x`; what is shorter holds nothing to take out.
_SHORTEST = 7

#: A login in a URL, a bearer's token, and what stands after `password=` in a text.
_LOGIN = re.compile(r"(://[^\s/:@]{0,200}:)[^\s/@]{1,200}@")
_BEARER = re.compile(r"\b(bearer|basic) +[\w.~+/=-]{8,}", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"((?:password|passwd|secret|token|api[_-]?key)\s?[=:]\s?)[^\s&;,\"']{1,500}", re.IGNORECASE
)
_DIGITS = re.compile(r"[0-9](?:[ -]?[0-9]){12}")
_CARD = re.compile(r"(?<![\w.-])[0-9](?:[ -]?[0-9]){12,18}(?![\w-])")


class Redactor:
    """The redaction that a `MultiDB` has if it is given no other.

    Taken out are values whose keys, at any depth, end in a word for a secret or for personal data
    (`password`, `x-api-key`, `userEmail`, `card_number`; `keys` adds the application's own), of a
    list of pairs such as headers likewise, and within texts logins in URLs, bearers' tokens, what
    is assigned to a password, and the numbers of payment cards. A count is no secret: numbers
    under a plural (`tokens`) stay. The cost grows with the entry, and with nothing else.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        names = _NAMES | {"".join(_words(key)) for key in keys}

        @lru_cache(maxsize=4096)
        def is_secret(key: str) -> bool:
            words = _words(key)
            ends = {"".join(words[place:]) for place in range(len(words))}
            singular = {end if end.endswith("ss") else end.removesuffix("s") for end in ends}
            return not (ends | singular).isdisjoint(names)

        self._is_secret = is_secret

    def __call__(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return what may be stored of a document; it is changed in place.

        Its own fields are its model's choice, and only what is in them is looked at.
        """
        for key, value in document.items():
            if type(value) in _MAY_HOLD:
                document[key] = self._cleared(value)
        return document

    def _cleared(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return _text(value)
        if kind is dict:
            is_secret = self._is_secret
            for key, inner in value.items():
                if type(key) is str and is_secret(key):
                    value[key] = _withheld(key, inner)
                elif type(inner) in _MAY_HOLD:
                    value[key] = self._cleared(inner)
        elif kind is list:
            if len(value) == 2 and self._names_a_secret(value[0]):
                value[1] = REDACTED
            else:
                value[:] = map(self._cleared, value)
        return value

    def _names_a_secret(self, value: Any) -> bool:
        if type(value) is bytes and len(value) < 100:
            value = value.decode("latin-1")
        return type(value) is str and len(value) < 100 and self._is_secret(value)


def _withheld(key: str, value: Any) -> Any:
    """Return what may be stored as the value of a key that tells of a secret."""
    is_count = type(value) in _NUMBERS and key[-1:] in {"s", "S"}
    return value if value is None or type(value) is bool or is_count else REDACTED


def _words(key: str) -> list[str]:
    """Return the words of a key, however it joins them; of a very long one the last."""
    return [word.lower() for word in _WORD.findall(key[-100:])]


def _text(text: str) -> str:
    # What is cheap to rule out is ruled out first: most texts hold none of it.
    if len(text) < _SHORTEST:
        return text
    if "://" in text and "@" in text:
        text = _LOGIN.sub(rf"\1{REDACTED}@", text)
    if "earer" in text or "asic " in text or "EARER" in text:
        text = _BEARER.sub(rf"\1 {REDACTED}", text)
    if "=" in text or ":" in text:
        text = _ASSIGNED.sub(rf"\1{REDACTED}", text)
    return _CARD.sub(_card, text) if _DIGITS.search(text) else text


def _card(found: re.Match[str]) -> str:
    """Return a number, or nothing of it if its check digit is that of a card."""
    digits = [int(each) for each in found[0] if each.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return REDACTED if (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 else found[0]
