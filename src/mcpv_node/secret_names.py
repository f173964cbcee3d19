"""Which names are those of secrets: of variables, options, members of a query, fields of the log. Pure.

The one list of them. A name is taken apart into its words, so that `maxTokens`, `AUTHOR` and `MONKEY` are no secrets for
the letters in them. In doubt it is one: what is hidden for nothing can be looked up, what was shown cannot be taken back.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import Final

# What a secret's name ends in, also where it is written together with the word before it (`authtoken`).
ENDINGS: Final = ("token", "secret", "password", "passwd", "passphrase", "credential", "apikey")

_ALONE: Final = frozenset(
    {
        *("auth", "authorization", "oauth", "oauth2", "bearer", "jwt", "cookie", "cookies"),
        *("pass", "pwd", "pat", "secrets", "passwords", "credentials", "tokens", "dsn"),
    }
)

# Keys are many things; these are secret wherever they stand in a name, others where the name ends with them.
_KEYS: Final = frozenset({"api", "access", "private", "signing", "secret", "ssh", "encryption", "master"})

# Names of things that are not secret although they are about one: where it is, how long it is good, how many.
_ABOUT: Final = frozenset(
    {
        *("file", "path", "dir", "folder", "url", "uri", "endpoint", "host", "port"),
        *("type", "mode", "method", "scheme", "enabled", "required"),
        *("ttl", "seconds", "minutes", "expiry", "timeout", "limit", "count", "length", "size", "budget"),
    }
)
_QUANTITIES: Final = frozenset({"max", "min", "num", "count", "total", "limit", "per"})

_OPEN_KEYS: Final = frozenset({"public", "spec", "routing", "primary", "foreign", "sort"})
_NO_KEYS: Final = frozenset({"monkey", "donkey", "turkey", "hotkey", "whiskey", "jockey", "hockey"})

# The working directory has this name in every environment.
_WORKING_DIRECTORY: Final = frozenset({"pwd", "oldpwd"})

_WORD: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")

# The names that one configuration has, and the fields of our own log.
_REMEMBERED: Final = 4096


@lru_cache(_REMEMBERED)
def is_secret_name(name: str) -> bool:
    """Tell whether what stands under this name is probably a secret."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[-1] in _ABOUT or name.lower() in _WORKING_DIRECTORY:
        return False
    if words[-1] == "tokens" and _QUANTITIES.intersection(words):
        return False
    return any(_is_secret_word(word) for word in words) or _is_key(words)


def _is_secret_word(word: str) -> bool:
    return word in _ALONE or word.endswith(ENDINGS)


def _is_key(words: list[str]) -> bool:
    if any(word == "key" and before in _KEYS for before, word in pairwise(words)):
        return True
    last = words[-1]
    if last == "key":
        return len(words) == 1 or words[-2] not in _OPEN_KEYS
    return last.endswith("key") and last not in _NO_KEYS
