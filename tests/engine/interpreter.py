"""Interpreters that run a script of the tests in place of a phase."""

import shlex
import sys
from pathlib import Path

from tests.conftest import REPOSITORY


def in_place_of_the_phase(script: str, folder: Path) -> Path:
    """An interpreter that runs that script of this folder where `-m bi_experiments.phase` is asked for.

    Anything else, as making the checkpoint, is done by this interpreter itself, without what the script imports.
    """
    interpreter = folder / "python"
    command = shlex.join([sys.executable, str(REPOSITORY / "tests" / "engine" / script)])
    others = f'[ "$2" = bi_experiments.phase ] || exec {shlex.quote(sys.executable)} "$@"'
    interpreter.write_text(f'#!/bin/sh\n{others}\nexec {command} "$@"\n')
    interpreter.chmod(0o755)
    return interpreter
