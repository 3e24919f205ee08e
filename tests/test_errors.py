import argparse

import pytest

from bi_experiments.errors import ExitCode, OneLineParser, complain, say, warn


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--secnod"], "error: --secnod is not an option: did you mean --second?; command --help explains it\n"),
        (["--first=3"], "error: --first is not an option; command --help explains it\n"),
        (["--second", "x"], "error: argument --second: invalid int value: 'x'; command --help explains it\n"),
    ],
)
def test_a_mistyped_option_is_one_line_with_the_one_that_was_meant(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser: argparse.ArgumentParser = OneLineParser(prog="command")
    parser.add_argument("--second", type=int)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(arguments)
    assert ended.value.code == ExitCode.CANNOT_RUN
    assert capsys.readouterr().err == said


def test_what_is_said_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    say("waits\nfor it")
    warn("it is late")
    assert complain("x" * 2000) is ExitCode.CANNOT_RUN
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"waits\\nfor it\nwarning: it is late\nerror: {'x' * 997}...\n"
