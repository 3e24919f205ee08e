import argparse

import pytest

from bi_experiments.errors import ExitCode, OneLineParser


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
