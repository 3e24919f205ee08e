import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from bi_experiments.analysis.design import Design
from bi_experiments.analysis.metrics import compare_phases
from bi_experiments.config.compose import compose
from bi_experiments.records import (
    Arm,
    Device,
    ExperimentResult,
    Finding,
    Invariance,
    NeedleCheck,
    PhaseResult,
    PhaseStatus,
    StepKind,
)
from bi_experiments.report.html import render as render_html
from bi_experiments.report.markdown import render as render_markdown
from bi_experiments.report.text import render, render_end
from tests import factories

RULE = "=" * 75


def configuration(*overrides: str) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(compose(["experiment=cpu_demo", "workload.num_trials=4", *overrides]))
    return plain


def result_of(phases: Sequence[PhaseResult]) -> ExperimentResult:
    """A result whose comparison is computed from its phases, as in the program."""
    metrics = compare_phases(phases, Design(equivalence_pct=1.0))
    comparison = factories.comparison(*metrics) if metrics else None
    return factories.experiment_result(phases, configuration=configuration(), comparison=comparison)


def section(text: str, title: str) -> str:
    """What stands under the heading of that title, up to the next one."""
    _, _, rest = text.partition(f"{RULE}\n{title}\n{RULE}\n")
    return rest.partition(RULE)[0]


def unwrapped(text: str) -> str:
    """The text with every line break and every run of spaces as one space."""
    return " ".join(text.split())


def test_one_launch_an_arm_has_the_structure_of_vllms_script() -> None:
    text = render(result_of(factories.phases([20.0], times_s=(2.0, 3.0, 2.5, 3.5))))
    expected = [
        RULE,
        "VLLM BATCH INVARIANCE BENCHMARK",
        RULE,
        "Configuration: demo CPU_ATTN tp1 needle",
        RULE,
        "PHASE 1: Running WITHOUT batch invariance (baseline)",
        RULE,
        "Engine initialization time: 12.00s",
        "Trial 1/4: batch_size=8, time=2.00s",
        "Trial 4/4: batch_size=8, time=3.50s",
        "Average time per trial: 2.75s",
        "Throughput: 46.55 tokens/s",
        "Min time: 2.00s",
        "Max time: 3.50s",
        "Total tokens: 512 generated, 2048 in the prompts",
        "Total prompts: 32",
        "Prompts per second: 2.91",
        RULE,
        "PHASE 2: Running WITH batch invariance",
        RULE,
        RULE,
        "COMPARISON: Batch Invariance vs Baseline",
        RULE,
        "Initialization Time:",
        "  Baseline:         12.00s",
        "  Batch Invariant:  12.00s",
        "  Overhead:         +0.00%",
        "Average Trial Time:",
        "  Baseline:         2.75s",
        "  Batch Invariant:  3.30s",
        "  Overhead:         +20.00%",
        "Throughput (tokens/s):",
        "  Baseline:         46.55",
        "  Batch Invariant:  38.79",
        "  Change:           -16.67%",
    ]
    lines = iter(text.splitlines())
    missing = [line for line in expected if line not in lines]  # `in` consumes: the order counts
    assert missing == []


def test_the_file_opens_with_the_answer_and_the_terminal_ends_with_it() -> None:
    finding = Finding(kind="warm_up", message="The first trial is slow.", remedy="Set protocol.warmup=2.")
    result = result_of(factories.phases([20.0]))
    assert result.comparison is not None
    result = replace(result, comparison=replace(result.comparison, findings=(finding,)))
    titles = re.findall(f"{RULE}\n(.*)\n{RULE}", text := render(result))
    assert titles[:3] == [
        "VLLM BATCH INVARIANCE BENCHMARK",
        "RESULT",
        "PHASE 1: Running WITHOUT batch invariance (baseline)",
    ]
    assert text.index("warm up: The first trial") < text.index("Configuration:")
    assert section(render_end(result), "RESULT").rstrip().endswith("Set protocol.warmup=2.")


def test_what_was_set_on_the_command_line_stands_first() -> None:
    result = replace(
        result_of(factories.phases([20.0])), command="python -m bi_experiments experiment=cpu_demo 'model.name=a b'"
    )
    lines = render(result).splitlines()
    first = lines.index("Configuration: demo CPU_ATTN tp1 needle")
    assert lines[first + 1] == "  set here  experiment=cpu_demo model.name=a b"


def test_the_comparison_uses_the_formula_of_vllms_script() -> None:
    """The change of the values that are shown, also where a wild trial moves means and their logs apart."""
    baseline = factories.phase(times_s=(0.456, 1.778))
    second = factories.phase(Arm.BATCH_INVARIANT, times_s=(0.45, 0.44))
    block = section(render(result_of([baseline, second])), "COMPARISON: Batch Invariance vs Baseline")
    lines = block.splitlines()
    assert lines[(first := lines.index("Average Trial Time:")) : first + 4] == [
        "Average Trial Time:",
        "  Baseline:         1.12s",
        "  Batch Invariant:  0.45s",
        "  Overhead:         -60.16%",
    ]


def test_the_comparison_says_where_the_changes_with_intervals_are() -> None:
    """Two numbers stand for nearly the same thing, and the first of them has no interval."""
    text = render(factories.whole_result(factories.phases([5.0, 8.0, 7.0, 9.5])))
    block, _, tables = text.partition("COMPARISON: ")[2].partition("Change: ")
    before = unwrapped(block.partition("Initialization Time:")[0])
    assert "plain means, without intervals" in before
    assert "The result is the change of total time in the table below, of geometric means, with its interval." in before
    assert re.search(r"^total time \[s\] .* \.\. ", tables, re.MULTILINE)


def test_several_launches_say_which_one_in_schedule_order() -> None:
    text = render(result_of(factories.phases([7.0, 7.5, 8.0])))
    assert re.findall(r"^PHASE .*$", text, re.MULTILINE) == [
        "PHASE 1: Running WITHOUT batch invariance (baseline), launch 1 of 3",
        "PHASE 2: Running WITH batch invariance, launch 1 of 3",
        "PHASE 3: Running WITH batch invariance, launch 2 of 3",
        "PHASE 4: Running WITHOUT batch invariance (baseline), launch 2 of 3",
        "PHASE 5: Running WITHOUT batch invariance (baseline), launch 3 of 3",
        "PHASE 6: Running WITH batch invariance, launch 3 of 3",
    ]


def test_the_comparison_agrees_with_the_record() -> None:
    result = result_of(factories.phases([7.0, 7.5, 8.0]))
    assert result.comparison is not None
    block = section(render(result), "COMPARISON: Batch Invariance vs Baseline")
    assert "  Overhead:         +7.50%" in block
    # Cold alone: 12 s, while the two warm ones took 8 s.
    assert "  Baseline:         12.00s" in block
    assert "9.33s" not in block


def test_of_the_users_caches_no_launch_is_called_cold() -> None:
    text = render(factories.whole_result(None, "protocol.caches=user"))
    assert "init time first launch [s]" in text
    assert "init time later launches [s]" in text
    assert re.findall(r"init\w*[ _]time[ _](?:cold|warm)", text) == []


def test_every_setting_is_shown() -> None:
    text = render(result_of(factories.phases([7.0])))
    head = text.partition("PHASE 1")[0]
    for group, settings in configuration().items():
        names = [f"{name}=" for name in settings] if isinstance(settings, dict) else [f"{group}="]
        for name in names:
            assert re.search(rf"(^|\s){re.escape(name)}", head), name
    assert f"needle={configuration()['workload']['needle']}" in unwrapped(head)


def test_a_value_that_ends_with_a_space_is_quoted_and_a_long_one_is_broken_into_lines() -> None:
    long = "many words " * 20 + "and an end"
    for needle, said in (("There once was a ", 'needle="There once was a "'), (long, f"needle={long}")):
        settings = configuration(f"workload.needle='{needle}'")
        text = render(replace(result_of(factories.phases([7.0])), configuration=settings))
        assert said in (text if len(said) < 60 else unwrapped(text))
        assert max(map(len, text.splitlines())) <= 100


def test_a_control_experiment_does_not_speak_of_batch_invariance() -> None:
    text = render(result_of(factories.phases([0.5], second=Arm.CONTROL)))
    assert "PHASE 2: Running WITHOUT batch invariance (control)" in text
    assert "COMPARISON: Control vs Baseline" in text
    assert "  Control:          " in text
    assert "Batch Invariant:" not in text


def test_a_failed_phase_says_why_and_where_its_log_is() -> None:
    baseline, other = factories.phases([7.0])
    failed = replace(other, status=PhaseStatus.FAILED, error="OutOfMemoryError: out of memory", trials=other.trials[:1])
    result = replace(result_of([baseline, failed]), stopped="the batch-invariant phase of pair 1 failed")
    text = render(result)
    block = section(text, "PHASE 2: Running WITH batch invariance")
    assert "Trial 1/4: batch_size=8" in block
    assert "FAILED after 60.0s: OutOfMemoryError: out of memory" in block
    assert "No comparison: no pair is complete." in text
    assert "phases/01-batch_invariant/engine.log" in section(text, "RESULT")
    assert "It ended early, with 1 of 2 phases finished: the batch-invariant phase of pair 1 failed." in unwrapped(text)


def interrupted(one: PhaseResult, **changes: Any) -> PhaseResult:  # noqa: ANN401  fields of the record
    return replace(one, status=PhaseStatus.INTERRUPTED, error="interrupted", **changes)


def test_where_an_experiment_was_interrupted_is_said_once() -> None:
    """In the uncounted launch, the first trial, the probes: what finished, and how far the last one got."""
    baseline, other = factories.phases([7.0])
    probe = factories.invariance_report().arms[0].first
    assert probe is not None
    of_none = interrupted(replace(baseline, index=-1), trials=(), init_time_s=None)
    cases = (
        (replace(result_of([]), discarded=of_none), "0 of 2", "The uncounted launch (baseline)", "0 of 4 trials"),
        (result_of([interrupted(baseline, trials=())]), "0 of 2", "Phase 1 (baseline)", "0 of 4 trials"),
        (
            result_of([baseline, interrupted(other, probes=(probe,))]),
            "1 of 2",
            "Phase 2 (batch invariant)",
            "4 of 4 trials and 1 probe output",
        ),
    )
    for result, finished, which, got in cases:
        text = unwrapped(render(replace(result, planned_phases=2, stopped="it was interrupted")))
        assert f"It ended early, with {finished} phases finished: it was interrupted." in text
        assert f"{which} was interrupted after {got}; its log: phases/" in text
        assert "interrupted: interrupted" not in text
        assert "INTERRUPTED after 60.0s " in text


def test_probes_alone_again_is_counted_apart_as_in_the_verdict() -> None:
    probe = factories.invariance_report().arms[0].first
    assert probe is not None
    alone = replace(probe, composition="batch_1", equal=True)
    baseline, other = factories.phases([7.0])
    text = render(result_of([replace(baseline, probes=(alone, alone, probe)), other]))
    assert "Probes: 1 of 1 differ from the probe alone in other batches, 0 of 2 alone again" in text


def test_trials_out_of_order_are_explained_once() -> None:
    said = "Trials run in random order, the same in both arms; their table is sorted.\nTrial 4/4"
    phases = [replace(one, trials=one.trials[::-1]) for one in factories.phases([7.0, 7.0])]
    assert render(result_of(phases)).count(said) == 1
    assert "random order" not in render(result_of(factories.phases([7.0])))


@pytest.mark.parametrize(
    ("status", "word"), [(PhaseStatus.TIMED_OUT, "FAILED"), (PhaseStatus.INTERRUPTED, "INTERRUPTED")]
)
def test_a_phase_that_ended_before_its_engine_was_built_is_readable(status: PhaseStatus, word: str) -> None:
    phase = factories.phase(status=status, error="it had to end", init_time_s=None, trials=())
    block = section(render(result_of([phase])), "PHASE 1: Running WITHOUT batch invariance (baseline)")
    assert block == f"{word} after 60.0s: it had to end\n"


def test_a_needle_that_differs_is_seen_at_its_trial() -> None:
    baseline, other = factories.phases([7.0])
    differing = factories.with_trial(baseline, 2, needle=NeedleCheck(equal=False, first_difference=5))
    text = render(result_of([differing, other]))
    assert "Trial 3/4: batch_size=8, time=2.50s, needle differs from token 6\n" in text
    assert "Needle: same output as alone in 3 of 4 trials" in text


def test_metrics_have_intervals_and_verdicts_where_there_are_pairs() -> None:
    lines = render_end(result_of(factories.phases([7.0, 7.5, 8.0]))).splitlines()
    total_time = next(line for line in lines if line.startswith("total time "))
    assert re.search(r"\+7\.50  \+6\.26 \.\. \+8\.75  3  slower$", total_time)
    cold = next(line for line in lines if line.startswith("init time cold "))
    assert cold.endswith(" -  1  no interval")


def test_a_withheld_change_says_why() -> None:
    metric = factories.metric(None, None, None, name="throughput", withheld="the arms generated different numbers")
    text = render_end(replace(result_of(factories.phases([7.0])), comparison=factories.comparison(metric)))
    assert "Change:           withheld: the arms generated different numbers" in text
    assert "Change of throughput withheld: the arms generated different numbers." in unwrapped(text)


def test_invariance_is_shown_for_both_arms() -> None:
    text = render_end(replace(result_of(factories.phases([7.0])), invariance=factories.invariance_report()))
    assert "Invariance is violated: 1 of 24 probes differed." in section(text, "RESULT")
    ragged = next(line for line in text.splitlines() if line.startswith("ragged"))
    assert ragged.split() == ["ragged", "20/24", "10", "0.01560", "1/24", "0", "0.01560"]
    needle = next(line for line in text.splitlines() if line.startswith("needle in the trials"))
    assert needle.split()[-2:] == ["2/12", "0/12"]
    assert (
        unwrapped(text).count("First difference with batch invariance: probe 4 at position 3 of batch 2 of ragged") == 1
    )


def test_the_proof_has_a_verdict_for_each_composition_and_says_what_was_left_out() -> None:
    text = render_end(replace(result_of(factories.phases([7.0])), invariance=factories.proof_report()))
    lines = text.splitlines()
    assert next(line for line in lines if line.startswith("trial  ") and "/" in line).endswith(" holds")
    assert next(line for line in lines if line.startswith("sizes ")).endswith(" no control")
    assert next(line for line in lines if line.startswith("batch_1 ")).endswith(" control")
    assert "Not run: long_prompt, borders: no phase got that far." in unwrapped(text)
    assert "the arms do not compute the same" in unwrapped(text)


def test_the_ledger_stands_under_the_verdict() -> None:
    text = render_end(replace(result_of(factories.phases([7.0])), invariance=factories.proof_report()))
    lines = text.splitlines()
    decodes = next(line for line in lines if line.startswith("1025 to 2048 tokens of context, 33 to 64 sequences "))
    assert decodes.split()[-6:] == ["97.0", "1,234", "56", "of", "112", "holds"]
    beside = next(line for line in lines if line.startswith("1025 to 2048 tokens of context, 33 to 64 sequences,"))
    assert beside.endswith("not probed")
    assert "first-come-first-served" in unwrapped(text)


def test_decode_against_prefill_has_no_verdict_and_says_whether_the_bits_are_the_same() -> None:
    report = factories.proof_report()
    for differing, word in ((4, " other bits"), (0, " same bits")):
        counts = tuple(
            replace(one, composition="prefill", differing=differing, verdict=None)
            for one in report.compositions
            if one.composition == "trial"
        )
        judged = replace(report, compositions=(*report.compositions, *counts))
        lines = render_end(replace(result_of(factories.phases([7.0])), invariance=judged)).splitlines()
        assert next(line for line in lines if line.startswith("prefill ") and "/" in line).endswith(word)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"control_tokens": 0, "control_of": 0, "control_behind": 7}, "none comparable"),
        ({"control_tokens": 0, "control_of": 0, "control_in_doubt": True}, "in doubt"),
        ({"control_tokens": None}, "not counted"),
    ],
)
def test_the_ledger_says_what_is_no_control_because_it_was_not_compared_or_counted(
    changes: dict[str, object], said: str
) -> None:
    report = factories.proof_report()
    first = replace(report.ledger[0], **changes)
    lines = render_end(
        replace(result_of(factories.phases([7.0])), invariance=replace(report, ledger=(first, *report.ledger[1:])))
    ).splitlines()
    row = next(line for line in lines if line.startswith("1025 to 2048 tokens of context, 33 to 64 sequences "))
    assert row.split()[-4:] == ["1,234", *said.split(), "holds"]


def test_small_classes_are_shown_one_by_one_where_they_violate_or_count_for_the_verdict() -> None:
    report = factories.proof_report()
    large = replace(report.ledger[0], verdict=Invariance.HOLDS, workload_tokens=1000)
    small = replace(large, workload_tokens=1)
    rows = (
        *(replace(large, sequences=2 + number) for number in range(12)),
        replace(small, context=4097, context_below=8193),
        replace(small, context=8193, context_below=16385, verdict=Invariance.VIOLATED),
        replace(
            small, context=129, context_below=513, sequences=0, kind=StepKind.PREFILL, workload_tokens=9, split=True
        ),
    )
    judged = replace(report, ledger=rows)
    text = render_end(replace(result_of(factories.phases([7.0])), invariance=judged))
    assert "8193 to 16384 tokens of context" in text
    assert "prefill of 129 to 512 tokens, in several steps" in text
    assert "4097 to 8192 tokens of context" not in text
    assert "1 smaller class " in text


def test_needles_alone_make_a_table_too() -> None:
    report = replace(factories.invariance_report(), arms=(), compositions=())
    text = render_end(replace(result_of(factories.phases([7.0])), invariance=report))
    needle = next(line for line in text.splitlines() if line.startswith("needle in the trials"))
    assert needle.split()[-2:] == ["2/12", "0/12"]


def test_findings_come_with_their_remedy() -> None:
    finding = Finding(kind="warm_up", message="The first trial is slow.", remedy="Set protocol.warmup=2.")
    comparison = factories.comparison(findings=(finding,))
    text = render_end(replace(result_of(factories.phases([7.0])), comparison=comparison))
    assert "warm up: The first trial is slow. Set protocol.warmup=2." in unwrapped(text)


def test_it_says_what_was_measured_and_on_what(tmp_path: Path) -> None:
    h100 = Device(index=0, name="NVIDIA H100", memory_bytes=80 * 2**30, compute_capability=(9, 0))
    environment = factories.environment(devices=(h100, h100))
    text = render_end(replace(result_of(factories.phases([7.0])), environment=environment), tmp_path)
    measured = next(line for line in text.splitlines() if line.startswith("baseline "))
    assert measured.split() == ["baseline", "32", "2,048", "512", "..", "512", "512"]
    assert "Ran on 2 x NVIDIA H100; 2 CPUs, 8 GiB memory, Linux; vllm 0.32.0" in unwrapped(text)
    assert f"Results: {tmp_path}\n" in text


def test_it_is_plain_text_of_at_most_100_columns_but_for_tables_and_commands() -> None:
    phases = factories.phases([107.0, 207.5, 108.0])
    text = render(
        replace(result_of(phases), invariance=factories.invariance_report()), Path("outputs/2025-01-01/12-00-00")
    )
    assert max(map(len, text.splitlines())) <= 100
    assert text.replace("\n", "").isprintable()


def test_what_was_taken_over_of_an_earlier_start_is_said_in_every_report() -> None:
    result = replace(factories.whole_result(), taken_over=4)
    for text in (render(result), render_markdown(result), render_html(result, ())):
        assert "4 launches of an earlier start, taken over" in " ".join(text.split())
