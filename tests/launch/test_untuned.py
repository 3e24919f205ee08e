"""What vLLM's log says of untuned paths is found in it."""

import re
from pathlib import Path

import pytest

from bi_experiments.analysis.findings.untuned import MESSAGES, Message
from bi_experiments.launch.untuned import MOST_MESSAGES, untuned_messages

EXPERTS = "Using default MoE config. Performance might be sub-optimal! Config file not found at E=8,N=64.json"


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.example[:30])
def test_every_message_is_found_in_a_line_of_another_process(message: Message, tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    text = message.example.replace("%s", "Something").replace("%d", "64")
    log.write_text(f"started\n(EngineCore pid=17) WARNING 11-25 12:00:00 [fused_moe.py:1164] {text}\nended\n")
    (said,) = untuned_messages(log)
    assert said.startswith(text[:50])
    assert next(one for one in MESSAGES if re.search(one.pattern, said)) is message


def test_a_message_counts_once_and_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    line = EXPERTS.replace("E=8", "/home/ada/venv/configs/E=8")
    log.write_text(f"{line}\n{line}\nall is well: nothing is tuned\n")
    assert untuned_messages(log) == (EXPERTS,)


def test_the_messages_of_a_log_are_bounded(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("".join(f"No tuning config found for shape {n}, {'x' * 1000}\n" for n in range(2 * MOST_MESSAGES)))
    assert len(untuned_messages(log)) == MOST_MESSAGES
    assert max(map(len, untuned_messages(log))) == 300
    assert untuned_messages(tmp_path / "none.log") == ()


def test_a_line_of_many_megabytes_is_not_searched_to_its_end(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text(f"{'falling back, x' * 1_000_000}{EXPERTS}\n{EXPERTS}\n")
    assert untuned_messages(log) == (EXPERTS,)
