"""Passwords and tokens in settings: refused where they are set, since Hydra writes settings into the output folder.

What comes from environment variables (`${oc.env:NAME}`) is written down by its name alone; where the resolved value is
written or shown, it reads `***`.
"""

import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

from bi_experiments.errors import ConfigurationError

_CREDENTIALS = re.compile(r"(?<=://)[^/].*@")
"""Greedy: a password may hold any character, and what is cut too much was no part of a host's name."""


_SECRET_PARAMETER = re.compile(
    r"(?<=[?&#])(user|username|pwd|auth|sig|[^?&#=]*(?:passw|token|secret|credential|key|signature)[^?&#=]*)=([^&#]*)&?",
    re.IGNORECASE,
)


def without_credentials(uri: str) -> str:
    """A tracking URI as it may be shown and written down: without user name, password or token."""
    return _SECRET_PARAMETER.sub("", _CREDENTIALS.sub("", uri)).rstrip("?&#")


def refuse_credentials(uri: str) -> None:
    """Refuse a URI that was set with a user name or password: Hydra writes what is set into the output folder.

    Raises:
        ConfigurationError: It has some, and is not the value of MLFLOW_TRACKING_URI.
    """
    if without_credentials(uri) != uri and uri != os.environ.get("MLFLOW_TRACKING_URI"):
        raise _error("tracking.uri")


def without_secrets(uri: str, text: str) -> str:
    """The text without the credentials of a URI, as they stand there and as a driver reads them."""
    user = _CREDENTIALS.search(uri)
    passwords = [user[0].rstrip("@").partition(":")[2]] if user else []
    passwords += [found[2] for found in _SECRET_PARAMETER.finditer(uri)]
    text = text.replace(uri, without_credentials(uri))
    for secret in (user[0] if user else "", *passwords, *map(unquote, passwords)):
        text = text.replace(secret, "***") if secret else text
    return text


MASK = "***"

_SECRET_NAME = re.compile(r"token(?!s|i[sz])|secret|passw|credential|key(?!s)", re.IGNORECASE)
"""Names of engine arguments and variables that hold a credential; `max_tokens`, `tokenizer` do not."""
_OPEN = ("backend.engine.", "backend.environment.", "hydra.")
"""Where any name may be set: the schema's own keys hold no credential, but for a URI's."""
_IN_URI = re.compile(r"://[^\s/@\"']+@")
"""User info of a URI, in any text."""


def holds_credentials(text: str) -> bool:
    """Whether a text has a URI with a user name, a password or a token in it."""
    return _IN_URI.search(text) is not None or ("://" in text and _SECRET_PARAMETER.search(text) is not None)


def is_secret(key: str, value: object) -> bool:
    """Whether a setting looks like a credential.

    Args:
        key: Dotted key.
        value: Its value; numbers and switches are none, nor is what names an environment variable, unless its default
            is one.
    """
    text = str(value).strip().strip("\"'")
    if isinstance(value, Mapping | list | tuple | bool | int | float):
        return False
    if text.startswith("${"):
        text = text.partition(",")[2].removesuffix("}").strip().strip("\"'")
    if holds_credentials(text) or (key == "tracking.uri" and without_credentials(text) != text.rstrip("?&#")):
        return True
    plain = (
        not text
        or text.lower() in {"null", "none", "true", "false"}
        or text.removeprefix("-").replace(".", "", 1).isdecimal()
    )
    return key.startswith(_OPEN) and not plain and _SECRET_NAME.search(key.rpartition(".")[2]) is not None


def refuse_secrets(value: object, key: str = "") -> None:
    """Refuse a configuration, or a part of it, that holds what looks like a credential, which is not repeated.

    Args:
        value: Plain values; what is not resolved yet does not count.
        key: Dotted key of the part.

    Raises:
        ConfigurationError: Naming the first key that holds one.
    """
    secret = next(_secrets_in(value, key), None)
    if secret is not None:
        raise _error(secret)


def _secrets_in(value: object, key: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _secrets_in(entry, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _secrets_in(entry, key)
    elif is_secret(key, value):
        yield key


def _error(key: str) -> ConfigurationError:
    if key == "tracking.uri":
        return ConfigurationError(
            f"tracking.uri={MASK} contains credentials: leave them out, and export MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD (or, for a database, MLFLOW_TRACKING_URI)"
        )
    name = key.rpartition(".")[2]
    return ConfigurationError(
        f"{key}={MASK} looks like a credential, and would be written into the output folder: leave it out, and export "
        f"it as an environment variable ({name.upper()}), which the phases inherit"
    )


def masked(value: object, key: str = "") -> object:
    """A configuration, or a part of it, in which what looks like a credential reads `***`."""
    if isinstance(value, Mapping):
        return {name: masked(entry, f"{key}.{name}".lstrip(".")) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [masked(entry, key) for entry in value]
    if key != "tracking.uri" and is_secret(key, value):
        return MASK
    return value
