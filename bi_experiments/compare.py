"""What changed between two experiments: the baseline, the mode, or the ratio of both? For the two sides of a change.

    python -m bi_experiments.compare A B [--gate mode|ratio] [--max-change-pct 2]

A is the reference, B is what changed; each is an output folder or an MLflow run id, or several with commas between
them. Three changes are shown with their intervals: of the baseline's total time, of the second arm's (batch-invariant
mode's), and of their ratio, (1 + overhead B) / (1 + overhead A) - 1. A machine that got slower is in the first two and
cancels in the ratio; a mode that got faster while the baseline got faster still is a win in the second and none in the
ratio.

With prompts of its own in every pair (`workload.fresh_prompts`), a pair is compared with those of its number, which
have the same prompts; pairs that not all experiments have are left out.

With one experiment on a side the launches are the unit, and the intervals say nothing of what differs from one
experiment to the next, which a line of the output says too: `--gate mode` can then end with 4 for a slower day of the
machine. `--gate ratio` is the better choice there: what slows both arms cancels in it. With two or more on both sides
the experiments are the unit.

The exit code follows from the quantity that `--gate` names and the margin, which is the larger of `--max-change-pct`
and the experiments' `protocol.equivalence_pct` (a change within which counts as none):

* 0: the whole interval is at or below the margin: B takes no longer than A, beyond what is accepted;
* 4: otherwise, and the whole interval is over `--max-change-pct`: B takes longer;
* 5: neither: too few pairs, no interval, or different numbers of tokens;
* 3: whatever the times say, the mode was probed in both, and is violated in B and not in A (`verify.strict`);
* 2: the two cannot be compared.

A job that stops at 4 stops at shown regressions only; one that stops at anything but 0 also demands enough pairs to
rule one out.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bi_experiments.analysis.agreement import outputs_agree
from bi_experiments.analysis.changes import Changes, changes_between, equal_work, have_fresh_prompts, overhead_pct
from bi_experiments.analysis.design import Design
from bi_experiments.analysis.engines import engine_settings
from bi_experiments.analysis.estimates import Estimate
from bi_experiments.analysis.invariance import judged_anew
from bi_experiments.analysis.metrics import UNEQUAL_TOKENS
from bi_experiments.analysis.outcome import VIOLATIONS
from bi_experiments.analysis.pairs import complete_pairs, equal_tokens, second_arm, total_time_logs
from bi_experiments.claim import read_ended
from bi_experiments.config.plain import leaves, setting
from bi_experiments.errors import ConfigurationError, ExitCode, ExperimentError, OneLineParser, complain
from bi_experiments.paths import OutputFolder, read_result
from bi_experiments.records import Arm, ExperimentResult, Invariance
from bi_experiments.report.several import differing, settings_that_differ
from bi_experiments.signals import ends_in_order
from bi_experiments.tracking import store
from bi_experiments.wording import NO_INTERVAL, band, device, invariance_word, signed, unsigned

RUN_ID = re.compile(r"[0-9a-f]{32}")


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Run the program; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.max_change_pct >= 0:
        parser.error(f"--max-change-pct {options.max_change_pct:g} is not possible: use 0 or more")
    try:
        first = load_side(options.first, options.tracking_uri)
        second = load_side(options.second, options.tracking_uri)
        _refuse_twice(first, second)
        if not options.anyway:
            for other in (*first[1:], *second):
                require_alike(first[0], other)
        changes = changes_between(first, second)
    except ExperimentError as error:
        return complain(str(error), error.exit_code)
    withheld = not all(equal_tokens(complete_pairs(result.phases)) for result in (*first, *second))
    equal = equal_work([*first, *second])
    change = changes.mode if options.gate == "mode" else changes.ratio
    margins = options.max_change_pct, _equivalence_pct(*first, *second)
    code = decide(change, *margins) if equal else ExitCode.GATE_UNDECIDED
    shown = [
        _table([*first, *second], len(first)),
        _settings(first, second),
        _engines(first, second),
        "" if withheld else _changes_table(changes),
    ]
    moved = f"Changes in time are withheld: {UNEQUAL_TOKENS}." if withheld else describe(changes)
    lines = [moved, describe_gate(options.gate, code, equal, interval=change.low_pct is not None)]
    if max(len(first), len(second)) > 1 and not withheld:  # else they stand in the table
        lines.insert(0, describe_overheads(first, second))
    if min(len(first), len(second)) == 1:
        lines.insert(-1, describe_single(options.gate))
    answer = "\n".join(lines)
    sys.stdout.write("\n\n".join(part for part in (*shown, answer) if part) + "\n")
    if said := outputs_agree(first, second):
        sys.stdout.write(f"{said}\n")
    if said := describe_invariance(first, second):
        sys.stdout.write(f"{said}\n")
    strict = any(setting(result.configuration, "verify.strict") is not False for result in second)
    held_before = bool(_verdicts(first)) and not _violated(first)
    return ExitCode.INVARIANCE_VIOLATED if strict and held_before and _violated(second) else code


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="python -m bi_experiments.compare",
        description="What changed from experiment A to experiment B: the baseline, the mode, or the ratio of both?",
        epilog="Exit code 0: B takes no longer than A; 4: B takes longer; 5: undecided; 3: the mode is violated in B "
        "and not in A; 2: they cannot be compared.",
    )
    parser.add_argument("first", metavar="A", help="reference: output folders or MLflow run ids, with commas")
    parser.add_argument("second", metavar="B", help="what changed: output folders or MLflow run ids, with commas")
    parser.add_argument("--anyway", action="store_true", help="compare even if workload, model or machine differ")
    parser.add_argument(
        "--gate", choices=("mode", "ratio"), default="mode", help="whose change decides the exit code (mode)"
    )
    parser.add_argument(
        "--max-change-pct", type=float, default=0.0, metavar="X", help="accepted rise of it in per cent (0)"
    )
    parser.add_argument(
        "--tracking-uri",
        default="sqlite:///mlflow.db",
        metavar="URI",
        help="store that run ids belong to (sqlite:///mlflow.db)",
    )
    return parser


# --- Reading --------------------------------------------------------------------------------------------------------


def load_side(sources: str, tracking_uri: str) -> tuple[ExperimentResult, ...]:
    """The results of one side, whose sources have commas between them unless a folder's own name has.

    Raises:
        ConfigurationError: One of them is not there, or cannot be read.
    """
    names = [sources] if _is_folder(sources) else [name.strip() for name in sources.split(",")]
    if not all(names):
        raise ConfigurationError(f"{sources!r} has an empty name in it: is a variable of the shell not set?")
    return tuple(load(name, tracking_uri) for name in names)


def load(source: str, tracking_uri: str) -> ExperimentResult:
    """The result in an output folder, or among the artifacts of an MLflow run.

    Raises:
        ConfigurationError: There is no result, it cannot be read, or the experiment still runs.
    """
    if _is_folder(source):
        return judged_anew(read_ended(Path(source)))
    if RUN_ID.fullmatch(source):
        with tempfile.TemporaryDirectory() as temporary:
            return judged_anew(read_result(_download(source, tracking_uri, temporary)))
    raise ConfigurationError(f"{source} is neither a folder nor an MLflow run id: pass the output folder of a run")


def _is_folder(name: str) -> bool:
    try:
        return bool(name) and Path(name).is_dir()
    except OSError:  # too long to be a name
        return False


def _download(run_id: str, tracking_uri: str, folder: str) -> Path:
    database = Path(tracking_uri.removeprefix("sqlite:///"))
    if tracking_uri.startswith("sqlite:///") and not database.is_file():  # MLflow would make an empty one
        raise ConfigurationError(f"the MLflow database {database} does not exist: pass --tracking-uri or a folder")
    from bi_experiments.config.credentials import without_credentials, without_secrets

    name = OutputFolder(Path()).result.name
    try:
        with store.connection(tracking_uri) as client:
            return Path(client.download_artifacts(run_id, name, folder)).parent
    except Exception as error:  # whatever MLflow, a driver or the network raise
        reason = without_secrets(tracking_uri, store.reason(error))
        raise ConfigurationError(
            f"{name} of run {run_id} cannot be downloaded from {without_credentials(tracking_uri)}: {reason}; "
            "pass --tracking-uri or a folder"
        ) from error


def _refuse_twice(first: Sequence[ExperimentResult], second: Sequence[ExperimentResult]) -> None:
    """Refuse one experiment under two names: as two it would agree with itself."""
    for name, side in (("A", first), ("B", second)):
        for at, result in enumerate(side):
            if result in side[:at]:
                raise ConfigurationError(f"the same experiment ({result.name}) is twice in {name}: name it once")
    for result in first:
        if result in second:
            raise ConfigurationError(f"the same experiment ({result.name}) is in A and in B: name two experiments")


# --- Deciding -------------------------------------------------------------------------------------------------------


def require_alike(first: ExperimentResult, second: ExperimentResult) -> None:
    """Refuse to compare experiments that did not ask the same of the same machine.

    Raises:
        ConfigurationError: Naming everything that differs.
    """
    differences = [
        f"{name} ({one} and {other})"
        for name, one, other in (
            ("record version", first.version, second.version),
            ("workload", first.workload_digest[:12], second.workload_digest[:12]),
            ("fresh prompts", have_fresh_prompts([first]), have_fresh_prompts([second])),
            ("model", setting(first.configuration, "model.name"), setting(second.configuration, "model.name")),
            ("dtype", setting(first.configuration, "model.dtype"), setting(second.configuration, "model.dtype")),
            ("tp", setting(first.configuration, "tp"), setting(second.configuration, "tp")),
            ("pp", setting(first.configuration, "pp"), setting(second.configuration, "pp")),
            ("second arm", second_arm(first.phases), second_arm(second.phases)),
            ("machine", _machine(first), _machine(second)),
        )
        if one != other
    ]
    if differences:
        raise ConfigurationError(
            f"A and B differ in {', '.join(differences)}: pass --anyway to compare them nevertheless"
        )


def decide(change: Estimate, max_change_pct: float, equivalence_pct: float) -> ExitCode:
    """The exit code, by the rule at the top of this module."""
    if change.low_pct is None or change.high_pct is None:
        return ExitCode.GATE_UNDECIDED
    if change.high_pct <= max(max_change_pct, equivalence_pct):
        return ExitCode.DONE
    return ExitCode.OVER_GATE if change.low_pct > max_change_pct else ExitCode.GATE_UNDECIDED


def _equivalence_pct(*results: ExperimentResult) -> float:
    """The stricter of the two, where they were measured by different rules."""
    values = [setting(result.configuration, "protocol.equivalence_pct") for result in results]
    return min((value for value in values if isinstance(value, int | float)), default=0.0)


# --- Showing --------------------------------------------------------------------------------------------------------


def describe_overheads(first: Sequence[ExperimentResult], second: Sequence[ExperimentResult]) -> str:
    """What the mode costs on each side, in one sentence: the two that the ratio compares."""
    in_a, in_b = signed(overhead_pct(first)), signed(overhead_pct(second))
    return f"The second arm's overhead is {in_a} in A and {in_b} in B."


def describe_invariance(first: Sequence[ExperimentResult], second: Sequence[ExperimentResult]) -> str:
    """Whether batch invariance held on either side, in one sentence; nothing where no mode was probed."""
    sides = [(name, _verdicts(side)) for name, side in (("A", first), ("B", second))]
    if not any(verdicts for _, verdicts in sides):
        return ""
    said = [f"{' and '.join(map(invariance_word, verdicts)) or 'not probed'} in {name}" for name, verdicts in sides]
    return f"Batch invariance: {', '.join(said)}."


def _verdicts(results: Sequence[ExperimentResult]) -> list[Invariance]:
    """What the proofs of a side say of the mode, each once."""
    found = [result.invariance.verdict(Arm.BATCH_INVARIANT) for result in results if result.invariance is not None]
    return list(dict.fromkeys(verdict for verdict in found if verdict is not None))


def _violated(results: Sequence[ExperimentResult]) -> bool:
    return any(verdict in VIOLATIONS for verdict in _verdicts(results))


def describe(changes: Changes) -> str:
    """Which of the three moved, in one sentence."""
    if changes.ratio.low_pct is None:
        return (
            f"Mode {signed(changes.mode.change_pct)}, baseline {signed(changes.baseline.change_pct)} from A to B: "
            f"{NO_INTERVAL}, since one of them has only one launch an arm, and so which of them moved is undecided."
        )
    named = changes._asdict().items()
    moved = _listed([_how_far(name, change) for name, change in named if _has_moved(change)], "and")
    still = _listed([f"the {name}" for name, change in named if not _has_moved(change)], "or")
    return f"From A to B {'; '.join(part for part in (moved, still and f'no change is shown in {still}') if part)}."


def _listed(parts: Sequence[str], last: str) -> str:
    """The parts with commas, and a word before the last; empty without any."""
    return f" {last} ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def describe_single(quantity: str) -> str:
    """What no interval contains where a side has one experiment, and what to do about it."""
    instead = "pass several a side" if quantity == "ratio" else "pass several a side, or --gate ratio"
    return f"With one experiment on a side, how much experiments differ from one to the next is not known: {instead}."


def describe_gate(quantity: str, code: ExitCode, equal: bool, *, interval: bool = True) -> str:
    """The decision in one sentence."""
    if not equal:
        return f"Gate ({quantity}): undecided, since not all of them generated the same number of tokens."
    if not interval:
        return f"Gate ({quantity}): undecided without an interval: run both with protocol.pairs=4 or more."
    match code:
        case ExitCode.OVER_GATE:
            return f"Gate ({quantity}): B takes longer than A."
        case ExitCode.DONE:
            return f"Gate ({quantity}): B takes no longer than A, beyond what is accepted."
        case _:
            return f"Gate ({quantity}): undecided, more pairs narrow the interval."


def _has_moved(change: Estimate) -> bool:
    return change.low_pct is not None and change.high_pct is not None and change.low_pct * change.high_pct > 0


def _how_far(name: str, change: Estimate) -> str:
    what = "the ratio" if name == "ratio" else f"the {name}'s total time"
    return f"{what} {'rose' if change.change_pct > 0 else 'fell'} by {unsigned(change.change_pct)} {_interval(change)}"


def _machine(result: ExperimentResult) -> str:
    environment = result.environment
    devices = [device(environment)] if environment.devices else []
    return ", ".join([*devices, f"{environment.cpu_count} x {environment.cpu}"])


def _table(results: Sequence[ExperimentResult], of_a: int) -> str:
    heads = ("", "name", "machine", "vLLM", "commit", "pairs", "overhead")
    columns = [("A" if at < of_a else "B", *_column(result)) for at, result in enumerate(results)]
    widths = [max(map(len, column)) for column in columns]
    rows = zip(heads, *columns, strict=True)
    return "\n".join(
        f"{head:<10}{'  '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))}".rstrip()
        for head, *cells in rows
    )


def _column(result: ExperimentResult) -> tuple[str, ...]:
    pairs = complete_pairs(result.phases)
    overhead = Design.recorded(result).estimate(*total_time_logs(pairs), pairs)
    return (
        result.name,
        _machine(result),
        pairs[0].second.versions.get("vllm", "unknown"),
        (result.environment.commit or "unknown")[:12] + (" with local changes" if result.environment.dirty else ""),
        str(len(pairs)),
        f"{signed(overhead.change_pct)} {_interval(overhead)}" if equal_tokens(pairs) else "withheld",
    )


def _settings(first: Sequence[ExperimentResult], second: Sequence[ExperimentResult]) -> str:
    """The settings in which the experiments are not all alike, one a line; empty where there is none."""
    return _differences("Settings that differ:", len(first), settings_that_differ([*first, *second], leaves))


def _engines(first: Sequence[ExperimentResult], second: Sequence[ExperimentResult]) -> str:
    """What vLLM reports of the engines where they are not all alike: where a setting is null, it chose."""
    ran = [engine_settings(one.phases) for one in (*first, *second)]
    texts = [{field.replace("_", " "): text for field, text in one.items()} for one in ran]
    return _differences("Engines that differ:", len(first), differing(texts))


def _differences(title: str, first: int, different: Sequence[Mapping[str, str]]) -> str:
    """A key a line with every experiment's value; the `first` experiments are A's."""
    names = ["A"] * first + ["B"] * (len(different) - first)
    lines = [
        f"  {key}: " + ", ".join(f"{name} {one[key]}" for name, one in zip(names, different, strict=True))
        for key in different[0]
    ]
    return "\n".join([title, *lines]) if lines else ""


def _changes_table(changes: Changes) -> str:
    lines = [
        f"  {name:<10}{signed(change.change_pct):>9} {_interval(change)}" for name, change in changes._asdict().items()
    ]
    return "\n".join(["Change of total time from A to B:", *lines])


def _interval(estimate: Estimate) -> str:
    if estimate.low_pct is None or estimate.high_pct is None:
        return f"({NO_INTERVAL})"
    return band(estimate.low_pct, estimate.high_pct)


if __name__ == "__main__":
    sys.exit(ends_in_order(lambda _: main()))
