"""Standard streams that may go away while an experiment runs."""

import contextlib
import io
import os
from typing import Any, TextIO


class SparedStream(io.TextIOBase):
    """A standard stream that may go away (`| head`, a closed terminal) without ending the experiment.

    Args:
        stream: The stream, which everything but writing is left to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever the stream has
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's."""
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """The stream's."""
        return self._stream.errors

    def isatty(self) -> bool:
        """Whether it is a terminal's."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Its file descriptor."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write to it, or to nothing once it is gone."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Write out what is buffered, or forget it once the stream is gone."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        """From now on everything goes nowhere, also what Python itself writes when the program ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
