"""Where the time goes, in text, page, markdown, figure and MLflow."""

import pytest
from msgspec.structs import replace

from bi_experiments.analysis.profiles import profiled
from bi_experiments.records import Arm
from bi_experiments.report import markdown, profiles, text
from bi_experiments.report.figures import theme
from bi_experiments.report.figures.drawing import Drawing
from bi_experiments.report.figures.experiment import draw
from bi_experiments.report.html import render
from bi_experiments.tracking.runs import of_experiment
from tests import factories
from tests import profiles as profiled_trials
from tests.analysis.test_profiles import result

SENTENCE = "matrix multiplication +0.50, attention +0.050"


def test_the_text_report_has_sentence_classes_and_operations() -> None:
    said = text.render(result())
    assert SENTENCE in " ".join(said.split())
    lines = said.splitlines()
    assert "Profile: trial 1 again, observed by the profiler torch, 2.30s, counted nowhere" in lines
    assert max(map(len, lines)) <= 100
    row = next(line.split() for line in lines if line.startswith("matrix multiplication  "))
    assert row[2:] == ["1.250", "0.500", "0.750", "1.750", "0.700", "1.050", "+0.50"]
    assert next(line.split()[-1] for line in lines if line.startswith("together  ")) == "+0.60"
    kernel = next(line.split() for line in lines if line.startswith("matmul_kernel_persistent"))
    assert kernel[-4:] == ["-", "-", "68", "1,750"]
    assert "baseline 2.300 s (2.000 s when timed)" in " ".join(said.split())
    assert "phases/00-baseline/profile (1)" in " ".join(said.split())


def test_the_page_and_the_markdown_have_them_too() -> None:
    record = result()
    with theme.style():
        page = render(record, draw(record))
    for said in ("Where the time goes", "Kernels on the device", "matmul_kernel_persistent", SENTENCE):
        assert said in page
    short = markdown.render(record)
    assert len(short.encode()) <= markdown.LIMIT
    assert SENTENCE in short
    assert "|matrix multiplication|" in short


def test_the_figure_shows_every_class_with_its_difference() -> None:
    record = result()
    with theme.style():
        drawings = [one for one in draw(record) if isinstance(one, Drawing)]
        axes = next(one for one in drawings if one.name == "profile").figure.axes[0]
        assert [label.get_text() for label in axes.get_yticklabels()] == [
            "matrix multiplication",
            "attention",
            "host and idle",
            "memory",
        ]
        assert [one.get_text() for one in axes.texts] == [
            "+0.50 s",
            "+0.050 s",
            "-0.050 s",
            "+0.000 s",
        ]


def test_mlflow_has_the_classes_as_metrics() -> None:
    values = {point.key: point.value for point in of_experiment(result()).points}
    assert values["profile/baseline/matrix_multiplication_s"] == pytest.approx(1.25)
    assert values["profile/batch_invariant/the_profiler_itself_s"] == pytest.approx(0.4)
    assert values["profile/difference/attention_s"] == pytest.approx(0.05)


def test_without_a_profile_no_page_speaks_of_one() -> None:
    record = result(baseline=None, batch_invariant=None)
    assert profiled(record) is None
    assert profiles.sections(record) == ()
    assert "Where the time goes" not in text.render(record)
    assert not [key for point in of_experiment(record).points if (key := point.key).startswith("profile/")]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("matmul_kernel_persistent", "matmul_kernel_persistent"),
        (
            "void vllm::act_and_mul_kernel<c10::BFloat16>(c10::BFloat16*, int)",
            "vllm::act_and_mul_kernel<c10::BFloat16>",
        ),
        (f"void cutlass::Kernel2<gemm<{'x' * 90}>>(Params)", "cutlass::Kernel2<gemm<>>"),
        (
            "std::enable_if<(((8)>(0)))&&vllm::_typeConvert<c10::BFloat16>::exists, void>::type vllm::scale<8>(long)",
            "vllm::scale<8>",
        ),
        ("Memcpy DtoH (Device -> Pinned)", "Memcpy DtoH (Device -> Pinned)"),
        ("y" * 60, "y" * 37 + "..."),
    ],
)
def test_a_kernels_name_is_cut_where_it_says_least(name: str, short: str) -> None:
    assert profiles.short_name(name, 40) == short


def test_names_that_are_cut_alike_are_numbered() -> None:
    shapes = ("128, 1, 128", "1, 128, 128")
    own = tuple(
        profiled_trials.operation(
            f"void cutlass::device_kernel<vllm::cutlass_3x_gemm_fp8_blockwise<{shape}>>", profiled_trials.DECODE, 0.1
        )
        for shape in shapes
    )
    both = [replace(one, operations=own) for one in (profiled_trials.BASELINE, profiled_trials.SECOND)]
    phases = tuple(
        factories.phase(arm, profile=one) for arm, one in zip((Arm.BASELINE, Arm.BATCH_INVARIANT), both, strict=True)
    )
    comparison = profiled(factories.whole_result(phases))
    assert comparison is not None
    names = [row[0] for row in profiles.operations(comparison, 30).rows]
    assert [name[-4:] for name in names] == [" (1)", " (2)"]
    assert len({name[:-4] for name in names}) == 1
