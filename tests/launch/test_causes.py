import pytest

from bi_experiments.launch.causes import REMEDIES, cause, concerns_both_arms

SECOND_HAND = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"


def core(*lines: str, name: str = "EngineCore") -> list[str]:
    return [f"({name} pid=17) ERROR 11-25 12:00:00 [core.py:1107] {line}" for line in lines]


def test_an_error_that_says_what_is_wrong_stays_as_it_is() -> None:
    assert cause("ValueError: the moon is full", core("KeyError: other")) == "ValueError: the moon is full"


def test_the_core_knows_what_the_phase_does_not() -> None:
    log = [*core("Traceback (most recent call last):", "  File x", "KeyError: 'n_group'"), SECOND_HAND]
    assert cause(SECOND_HAND, log) == "KeyError: 'n_group'"


def test_a_worker_knows_what_its_core_does_not() -> None:
    log = [
        *core("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", name="Worker_TP0"),
        *core("RuntimeError: Worker failed with error 'CUDA out of memory', please check the root cause"),
        *core("ValueError: something that follows from it"),
    ]
    assert cause(SECOND_HAND, log).startswith(
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB; use"
    )


@pytest.mark.parametrize(
    "said",
    [
        "RuntimeError: Worker failed with error 'no layer a', please check the stack trace above for the root cause",
        "RuntimeError: Worker failed with KV connector output",  # from vLLM 0.33 on, as the next
        "RuntimeError: One or more workers failed",
    ],
)
def test_what_a_core_says_of_its_workers_is_not_the_cause(said: str) -> None:
    log = [*core("ValueError: no layer a", name="Worker_TP0"), *core(said)]
    assert cause(said, log) == "ValueError: no layer a"


def test_of_several_errors_of_a_core_the_last_counts() -> None:
    log = core("KeyError: 'a'", "During handling of the above exception, another", "ValueError: no layer a")
    assert cause(SECOND_HAND, log) == "ValueError: no layer a"


def test_a_message_of_several_lines_is_whole() -> None:
    log = core("ValidationError: 1 validation error for ModelConfig", "  Value error, unknown model", "Traceback (most")
    assert cause(SECOND_HAND, log) == "ValidationError: 1 validation error for ModelConfig Value error, unknown model"


def test_without_a_cause_in_the_log_the_error_stays() -> None:
    assert cause(SECOND_HAND, []) == SECOND_HAND.replace("{}", "{}")


def test_a_core_that_was_killed_is_said_with_what_may_have_killed_it() -> None:
    said = cause("the engine's process ended while it was needed: EngineCore (SIGKILL)", [])
    assert "EngineCore (SIGKILL); the system's memory may have run out" in said


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("ValueError: No available memory for the cache blocks.", "model.gpu_memory_utilization"),
        (
            "ValueError: To serve at least one request with the model's max seq len (5120), (1 GiB KV cache is needed",
            "len",
        ),
        ("ValueError: Free memory on device cuda:0 is less than desired GPU memory utilization", "something else"),
        (  # vLLM 0.32
            "ValueError: Available memory on node 0 (1.0/9.0 GiB) on startup is less than desired CPU memory "
            "utilization (0.9, 8.1 GiB). On the CPU backend, the `--gpu-memory-utilization` flag controls the fraction",
            "or lower model.gpu_memory_utilization",
        ),
        (
            "ValueError: Available memory on node 0 (1.0/9.0 GiB) on kv cache allocation is less than requested memory "
            "for kv (2.0/8.1 GiB). Reduce CPU memory used by other processes.",
            "or lower model.gpu_memory_utilization",
        ),
        (  # vLLM 0.33
            "ValueError: The worker already uses 2.0 GiB (model weights and runtime), more than the 1.0 GiB of CPU "
            "memory reserved for it on node 0, leaving none for the KV cache. On the CPU backend, the",
            "raise model.gpu_memory_utilization",
        ),
        ("AssertionError: Error in memory profiling. Initial free memory 1, current free memory 2", "another engine"),
        ("torch.OutOfMemoryError: CUDA out of memory.", "smaller"),
        ("OSError: You are trying to access a gated repo.", "licence"),
        ("OSError: We couldn't connect to 'https://huggingface.co' to load the files", "cannot be reached"),
        ("OSError: x/y is not a local folder and is not a valid model identifier", "check model.name"),
        ("OSError: Can't load tokenizer for 'x/y'.", "no tokenizer"),
        (
            "ValueError: Backend X is not valid. Reason: ['batch invariance not supported']",
            "another attention",
        ),
        ("TypeError: EngineArgs.__init__() got an unexpected keyword argument 'nonsense'", "backend.engine"),
        ("ValueError: Total number of attention heads (9) must be divisible by tensor parallel size (2).", "tp"),
    ],
)
def test_the_most_frequent_failures_come_with_a_remedy(error: str, advice: str) -> None:
    said = cause(error, [])
    assert said.startswith(error.rstrip("."))
    assert advice in said.removeprefix(error.rstrip("."))


def test_only_what_the_mode_does_not_support_leaves_the_other_arm_a_chance() -> None:
    assert not concerns_both_arms("ValueError: batch invariance not supported")
    assert concerns_both_arms("ValueError: No available memory for the cache blocks.")
    assert concerns_both_arms("ValueError: never seen")


def test_every_remedy_is_one_line() -> None:
    assert all("\n" not in remedy.advice for _, remedy in REMEDIES)
