import re

import matplotlib
from matplotlib.figure import Figure

from bi_experiments.records import Arm
from bi_experiments.report.figures import theme

VIRIDIS = "viridis"


def drawn(title: str = "Title") -> Figure:
    figure = theme.new_figure(theme.NARROW, 3.0)
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4], color=theme.BASELINE, marker="o", label="<baseline> & other")
    theme.head(figure, title)
    theme.lay_out(figure)
    return figure


def test_an_svg_takes_its_colours_from_the_page() -> None:
    with theme.style():
        svg = theme.svg(drawn(), "one", "what it shows")
    assert "var(--baseline)" in svg
    assert "var(--ink)" in svg
    # Whatever stays a fixed colour would be lost on a dark page.
    assert re.findall(r"#[0-9a-f]{6}\b", svg) == []


def test_an_svg_is_one_element_with_a_description_and_no_outside() -> None:
    with theme.style():
        svg = theme.svg(drawn("<script>alert(1)</script>"), "one", 'a "quoted" <b>')
    assert svg.startswith('<svg role="img" aria-label="a &quot;quoted&quot; &lt;b>" viewBox="0 0 ')
    assert svg.endswith("</svg>")
    assert "<script" not in svg
    assert "<style" not in svg
    assert "http" not in svg


def test_two_figures_in_a_page_share_no_id_and_refer_to_their_own() -> None:
    with theme.style():
        first, second = (theme.svg(drawn(), name, "") for name in ("first", "second"))
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in (first, second)]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    for own, svg in zip(ids, (first, second), strict=True):
        assert set(re.findall(r"""(?:href="|url\()#([^")]+)""", svg)) == set(own)


def test_the_same_figure_gives_the_same_bytes() -> None:
    with theme.style():
        assert theme.svg(drawn(), "one", "") == theme.svg(drawn(), "one", "")
        assert theme.png(drawn()) == theme.png(drawn())


def test_a_dollar_sign_is_no_formula() -> None:
    with theme.style():
        assert "cost of $x^2$ and $y" in theme.svg(drawn("cost of $x^2$ and $y"), "one", "")


def test_the_users_settings_are_put_back_and_do_not_matter() -> None:
    with matplotlib.rc_context({"axes.facecolor": "#123456", "image.cmap": VIRIDIS}):
        with theme.style():
            assert "#123456" not in theme.svg(drawn(), "one", "")
        assert matplotlib.rcParams["axes.facecolor"] == "#123456"


def test_the_arms_differ_in_more_than_their_colour() -> None:
    baseline, other = theme.arm_style(Arm.BASELINE), theme.arm_style(Arm.BATCH_INVARIANT)
    assert baseline.marker != other.marker
    assert baseline.line != other.line
    assert baseline.hatch != other.hatch
    assert theme.arm_style(Arm.CONTROL) == other
