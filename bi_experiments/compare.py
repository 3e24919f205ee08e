"""Is the overhead of one experiment different from that of another? For the two sides of a kernel change.

    python -m bi_experiments.compare A B [--max-change-pct 2]

A is the reference, B is what changed; each is an output folder or an MLflow run id. Each experiment's overhead is
against its own baseline, so what is compared is the ratio of the ratios, (1 + overhead B) / (1 + overhead A) - 1, with
Welch's t interval over the pairs of both. Whatever else changed between the two runs is in both arms and cancels.

The exit code follows from that interval and the margin, which is the larger of `--max-change-pct` and the experiments'
`protocol.equivalence_pct` (a change within which counts as none):

* 0: the whole interval is at or below the margin: B does not cost more than A, beyond what is accepted;
* 4: otherwise, and the whole interval is over `--max-change-pct`: B costs more;
* 5: neither: too few pairs, or no interval;
* 2: the two cannot be compared.

A job that stops at 4 stops at shown regressions only; one that stops at anything but 0 also demands enough pairs to
rule one out.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bi_experiments.analysis.agreement import outputs_agree
from bi_experiments.analysis.estimates import Estimate, paired_estimate, welch_estimate
from bi_experiments.analysis.invariance import judged_anew
from bi_experiments.analysis.pairs import complete_pairs, second_arm, trial_time_differences
from bi_experiments.config.plain import setting
from bi_experiments.errors import ConfigurationError, ExitCode, ExperimentError, complain
from bi_experiments.paths import OutputFolder, read_result
from bi_experiments.records import ExperimentResult
from bi_experiments.tracking import store
from bi_experiments.wording import band, signed, unsigned

RUN_ID = re.compile(r"[0-9a-f]{32}")


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Run the program; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.max_change_pct >= 0:
        parser.error(f"--max-change-pct {options.max_change_pct:g} is not possible: use 0 or more")
    try:
        first = load(options.first, options.tracking_uri)
        second = load(options.second, options.tracking_uri)
        if not options.anyway:
            require_alike(first, second)
        change = change_of_overhead(first, second)
    except ExperimentError as error:
        return complain(str(error), error.exit_code)
    code = decide(change, options.max_change_pct, _equivalence_pct(first, second))
    sys.stdout.write(f"{_table(first, second)}\n\n{describe(change, code)}\n")
    if said := outputs_agree(first, second):
        sys.stdout.write(f"{said}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bi_experiments.compare",
        description="Is the overhead of experiment B different from that of experiment A?",
        epilog="Exit code 0: B costs no more than A; 4: B costs more; 5: undecided; 2: they cannot be compared.",
    )
    parser.add_argument("first", metavar="A", help="reference: an output folder or an MLflow run id")
    parser.add_argument("second", metavar="B", help="what changed: an output folder or an MLflow run id")
    parser.add_argument("--anyway", action="store_true", help="compare even if workload, model or machine differ")
    parser.add_argument(
        "--max-change-pct", type=float, default=0.0, metavar="X", help="accepted rise of the overhead in per cent (0)"
    )
    parser.add_argument(
        "--tracking-uri",
        default="sqlite:///mlflow.db",
        metavar="URI",
        help="store that run ids belong to (sqlite:///mlflow.db)",
    )
    return parser


# --- Reading --------------------------------------------------------------------------------------------------------


def load(source: str, tracking_uri: str) -> ExperimentResult:
    """The result in an output folder, or among the artifacts of an MLflow run.

    Raises:
        ConfigurationError: There is no result, or it cannot be read.
    """
    folder = Path(source)
    if folder.is_dir():
        return judged_anew(read_result(folder))
    if RUN_ID.fullmatch(source):
        with tempfile.TemporaryDirectory() as temporary:
            return judged_anew(read_result(_download(source, tracking_uri, temporary)))
    raise ConfigurationError(f"{source} is neither a folder nor an MLflow run id: type the output folder of a run")


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


# --- Comparing ------------------------------------------------------------------------------------------------------


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
            ("model", setting(first.configuration, "model", "name"), setting(second.configuration, "model", "name")),
            ("dtype", setting(first.configuration, "model", "dtype"), setting(second.configuration, "model", "dtype")),
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


def change_of_overhead(first: ExperimentResult, second: ExperimentResult) -> Estimate:
    """(1 + overhead of the second) / (1 + overhead of the first) - 1, in per cent, with Welch's interval.

    Raises:
        ConfigurationError: One of them has no complete pair.
    """
    for name, result in (("A", first), ("B", second)):
        if not complete_pairs(result.phases):
            raise ConfigurationError(f"{name} ({result.name}) has no complete pair: run it again")
    return welch_estimate(_differences(first), _differences(second))


def decide(change: Estimate, max_change_pct: float, equivalence_pct: float) -> ExitCode:
    """The exit code, by the rule at the top of this module."""
    if change.low_pct is None or change.high_pct is None:
        return ExitCode.GATE_UNDECIDED
    if change.high_pct <= max(max_change_pct, equivalence_pct):
        return ExitCode.DONE
    return ExitCode.OVER_GATE if change.low_pct > max_change_pct else ExitCode.GATE_UNDECIDED


def describe(change: Estimate, code: ExitCode) -> str:
    """The answer in one sentence."""
    if change.low_pct is None or change.high_pct is None:
        size = signed(change.change_pct)
        return f"The overhead changed by {size} from A to B: undecided, since one of them has only one launch an arm."
    low, high = change.low_pct, change.high_pct
    more, less = f"[{unsigned(low)}, {unsigned(high)}]", f"[{unsigned(high)}, {unsigned(low)}]"
    match code:
        case ExitCode.OVER_GATE:
            return f"Batch invariance costs {unsigned(change.change_pct)} more in B than in A {more}."
        case ExitCode.DONE if high < 0:
            return f"Batch invariance costs {unsigned(change.change_pct)} less in B than in A {less}."
        case ExitCode.DONE:
            answer = "Batch invariance costs no more in B than in A, beyond what is accepted"
        case _:
            answer = "Whether batch invariance costs more in B than in A is undecided (more pairs narrow the interval)"
    return f"{answer}: {signed(change.change_pct)} {band(low, high)}."


def _differences(result: ExperimentResult) -> tuple[float, ...]:
    return trial_time_differences(complete_pairs(result.phases))


def _equivalence_pct(*results: ExperimentResult) -> float:
    """The stricter of the two, where they were measured by different rules."""
    values = [setting(result.configuration, "protocol", "equivalence_pct") for result in results]
    return min((value for value in values if isinstance(value, int | float)), default=0.0)


def _machine(result: ExperimentResult) -> str:
    environment = result.environment
    return ", ".join([*(device.name for device in environment.devices), f"{environment.cpu_count} x {environment.cpu}"])


# --- Showing --------------------------------------------------------------------------------------------------------


def _table(first: ExperimentResult, second: ExperimentResult) -> str:
    heads = ("", "name", "machine", "vLLM", "commit", "pairs", "overhead")
    columns = [("A", *_column(first)), ("B", *_column(second))]
    width = max(len(cell) for cell in columns[0])
    rows = zip(heads, *columns, strict=True)
    return "\n".join(f"{head:<10}{one:<{width}}  {other}".rstrip() for head, one, other in rows)


def _column(result: ExperimentResult) -> tuple[str, ...]:
    pairs = complete_pairs(result.phases)
    overhead = paired_estimate(_differences(result))
    return (
        result.name,
        _machine(result),
        pairs[0].second.versions.get("vllm", "unknown"),
        (result.environment.commit or "unknown")[:12] + (" with local changes" if result.environment.dirty else ""),
        str(len(pairs)),
        f"{signed(overhead.change_pct)} {_interval(overhead)}",
    )


def _interval(estimate: Estimate) -> str:
    if estimate.low_pct is None or estimate.high_pct is None:
        return "(one launch an arm: no interval)"
    return band(estimate.low_pct, estimate.high_pct)


if __name__ == "__main__":
    sys.exit(main())
