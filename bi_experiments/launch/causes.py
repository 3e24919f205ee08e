"""Why an engine failed, from its log: the engine core's or a worker's own last error, and what to do about it.

What reaches the phase is often only that something went wrong in another process ("Engine core initialization failed.
See root cause above"). The formats are those of vLLM 0.32 and 0.33: every line of another process begins with its name
and process id, and those of its log with level, time and place as well.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bi_experiments.errors import printable

MOST_CHARACTERS = 600
"""Longest cause, in characters."""

_ORIGIN = re.compile(r"^\((?P<name>[\w-]+) pid=\d+\) ?(?:[A-Z]+ \d\d-\d\d [\d:.]+ \[[^\]]*\] ?)?")
"""What vLLM writes before a line of another process."""
_ERROR = re.compile(r"^(?:[A-Za-z_][\w]*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Failure|Timeout)\b(?::|$)")
"""The last line of a traceback: the exception's class, then what it says."""
_SECOND_HAND = re.compile(
    r"root cause|Engine ?Core encountered an issue|Engine core initialization failed|EngineDeadError|Worker failed with"
    r"|One or more workers failed|WorkerProc initialization failed|^(?:KeyboardInterrupt|SystemExit)|cancelled"
    r"|without reporting a result|the engine's process|TimeoutError: RPC call"
)
"""What is said by a process that only learned of the failure."""
_OVER = re.compile(r"^(?:Traceback |During handling|The above exception|Process |\[rank|INFO |WARNING |ERROR |$)")
"""A line that is no longer of the message of an error."""


class Remedy(NamedTuple):
    """What to do about a failure."""

    advice: str
    of_the_mode: bool = False
    """Whether it concerns the batch-invariant arm alone."""


REMEDIES: tuple[tuple[str, Remedy], ...] = (
    (
        r"No available memory for the cache blocks|leaving none for the KV cache",
        Remedy("raise model.gpu_memory_utilization, or use a smaller model or a larger tp"),
    ),
    (
        r"max seq len|KV cache.*(?:larger than|is needed)|estimated maximum model length",
        Remedy("lower model.max_model_len, or raise model.gpu_memory_utilization"),
    ),
    (
        r"less than desired [CG]PU memory utilization|less than requested memory for kv",
        Remedy("something else uses the memory: end it, or lower model.gpu_memory_utilization"),
    ),
    (
        r"Error in memory profiling",
        Remedy("another engine started or ended on the device at the same time: let nothing else run there"),
    ),
    (r"out of memory|OutOfMemoryError|MemoryError", Remedy("use a smaller model, batch or model.max_model_len")),
    (
        r"gated repo|GatedRepo|401 Client Error|Access to model .* restricted|awaiting a review",
        Remedy("accept the model's licence on the hub, then log in (hf auth login) or export HF_TOKEN"),
    ),
    (
        r"couldn't connect to|Connection ?Error|Max retries exceeded|LocalEntryNotFound|offline mode"
        r"|Name or service not known|Temporary failure in name resolution",
        Remedy("the hub cannot be reached: download the model first, or set model.name to its folder"),
    ),
    (
        r"RepositoryNotFound|not a valid model identifier|404 Client Error|is not a local folder",
        Remedy("check model.name: there is no such model, or it is private"),
    ),
    (
        r"[Tt]okenizer",
        Remedy("the model has no tokenizer that vLLM can read: set model.name to a folder that has one"),
    ),
    (
        r"batch[-_ ]?invarian",
        Remedy("choose another attention backend (backend=flash_attn, triton_attn) or model", of_the_mode=True),
    ),
    (
        r"unexpected keyword argument",
        Remedy("backend.engine holds an argument that this vLLM does not have"),
    ),
    (r"divisible by tensor parallel size", Remedy("use a tp that divides the model's attention heads")),
    (r"NCCL", Remedy("the devices cannot communicate: +backend.environment.NCCL_DEBUG=INFO logs why")),
    (
        r"SIGKILL",
        Remedy("the system's memory may have run out (dmesg says so): reduce memory use, or use a larger machine"),
    ),
)
"""What is known of the most frequent failures; the first that is found in the error counts."""


def remedy(error: str) -> Remedy | None:
    """What to do about an error; None where that is not known."""
    return next((known for pattern, known in REMEDIES if re.search(pattern, error)), None)


def concerns_both_arms(error: str) -> bool:
    """Whether what kept one arm's engine from starting would keep the other's too."""
    known = remedy(error)
    return known is None or not known.of_the_mode


def cause(error: str, log: Sequence[str]) -> str:
    """The reason of a failure in one line: the error itself or, where that is second hand, the log's; with a remedy.

    Args:
        error: What the phase reported, or what was seen of its end.
        log: The last lines of its log.
    """
    said = error
    if _SECOND_HAND.search(error):
        first_hand = [one for one in _errors(log) if not _SECOND_HAND.search(one.text)]
        workers = [one for one in first_hand if "Worker" in one.origin]
        others = [one for one in first_hand if one.origin]
        found = next((group[-1] for group in (workers, others, first_hand) if group), None)
        said = found.text if found is not None else error
    said = printable(" ".join(said.split()), MOST_CHARACTERS)
    known = remedy(said)
    return said if known is None else f"{said.rstrip('.')}; {known.advice}"


class _Error(NamedTuple):
    """The end of a traceback in a log."""

    origin: str
    """Process that wrote it; empty for the phase itself."""
    text: str


def _errors(log: Sequence[str]) -> Iterator[_Error]:
    """Every error in a log, whole: with the lines on which its message continues."""
    lines = [_without_origin(line) for line in log]
    for number, (origin, text) in enumerate(lines):
        if not _ERROR.match(text):
            continue
        message = [text]
        for further_origin, further in lines[number + 1 :]:
            if further_origin != origin or _OVER.match(further) or _ERROR.match(further) or len(message) > 10:
                break
            message.append(further.strip())
        yield _Error(origin, " ".join(message))


def _without_origin(line: str) -> tuple[str, str]:
    match = _ORIGIN.match(line)
    return (match["name"], line[match.end() :]) if match else ("", line)
