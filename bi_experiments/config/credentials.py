"""User names, passwords and tokens in URIs: refused on the command line, cut out of what is shown."""

import os
import re
from urllib.parse import unquote

from bi_experiments.errors import ConfigurationError

_CREDENTIALS = re.compile(r"(?<=://)[^/].*@")
"""Greedy: a password may hold any character, and what is cut too much was no part of a host's name."""


_SECRET_PARAMETER = re.compile(
    r"(?<=[?&])(user|username|password|passwd|pwd|token|sslpassword)=([^&#]*)&?", re.IGNORECASE
)


def without_credentials(uri: str) -> str:
    """A tracking URI as it may be shown and written down: without user name, password or token."""
    return _SECRET_PARAMETER.sub("", _CREDENTIALS.sub("", uri)).rstrip("?&")


def refuse_credentials(uri: str) -> None:
    """Refuse a URI that was set with a user name or password: Hydra writes what is set into the output folder.

    Raises:
        ConfigurationError: It has some, and is not the value of MLFLOW_TRACKING_URI.
    """
    if without_credentials(uri) != uri and uri != os.environ.get("MLFLOW_TRACKING_URI"):
        raise ConfigurationError(
            f"tracking.uri={without_credentials(uri)} contains credentials: leave them out, and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or, for a database, MLFLOW_TRACKING_URI)"
        )


def without_secrets(uri: str, text: str) -> str:
    """The text without the credentials of a URI, as they stand there and as a driver reads them."""
    user = _CREDENTIALS.search(uri)
    passwords = [user[0].rstrip("@").partition(":")[2]] if user else []
    passwords += [found[2] for found in _SECRET_PARAMETER.finditer(uri)]
    text = text.replace(uri, without_credentials(uri))
    for secret in (user[0] if user else "", *passwords, *map(unquote, passwords)):
        text = text.replace(secret, "***") if secret else text
    return text
