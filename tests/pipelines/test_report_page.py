"""The page of `raygan report`, its tables, and the sentence that says what was found."""

import math
import re
from html.parser import HTMLParser

import pytest

from pipelines.reports import tables
from pipelines.reports.page import finding, page
from pipelines.reports.words import kind, label, number, outcome, title
from pipelines.results import CONFIRM
from tests.pipelines.findings import curve, drawn, found, repeats, screened, stopped, trial


def test_a_trial_ends_in_a_word():
    words = [outcome(row) for row in screened()]
    assert words == ["complete", "complete", "complete", "stopped", "stopped", "collapse", "diverged", "refused"]
    assert outcome(trial(0, reason="", status="RUNNING")) == "running"
    assert outcome(trial(0, reason="", status="FAILED")) == "failed"
    assert outcome(trial(0, reason="", status="KILLED")) == "interrupted"
    assert outcome(trial(0, reason="ValueError: an alarm was refused", status="FAILED")) == "failed"
    assert kind("diverged: at 3 kimg") == "diverged"
    assert kind("alarm: collapse at 3.0 kimg: distance 0.01") == "alarm: collapse"
    assert kind("stopped at 1:2\nand so on") == "stopped at 1:2"


def test_numbers_have_three_digits_and_nan_is_a_dash():
    assert [number(value) for value in (0.81234, 0.8, 12345.6, 999.6, 7, 12345, 0.0)] == [
        "0.812",
        "0.8",
        "12,300",
        "1,000",
        "7",
        "12,345",
        "0",
    ]
    assert [number(value, padded=True) for value in (0.8, 12.0, 123.0, -0.5)] == ["0.800", "12.0", "123", "\N{MINUS SIGN}0.500"]
    assert {number(math.nan), number(math.inf)} == {"-"}


def test_names_say_what_was_searched():
    assert (label(trial(3)), title(trial(3))) == ("r1 1:1", "`r1` at 1:1")
    other = trial(3, point={"optimizer.lr": 2e-4, "variant": "r1"})
    assert (label(other), title(other)) == ("r1 1:1", "`r1` at 1:1 with optimizer.lr=0.0002")
    assert label(trial(3, point={"optimizer.lr": 2e-4})) == "lr=0.0002"


def test_a_clear_winner_is_told_with_interval_difference_and_p():
    rows = [
        trial(0, "r1", "1:1"),
        trial(1, "wgan_gp", "5:1"),
        *repeats(2, 0, "r1", "1:1", (0.80, 0.81, 0.82)),
        *repeats(6, 1, "wgan_gp", "5:1", (0.76, 0.78, 0.77)),
    ]
    assert finding(found(rows)) == (
        "`r1` at 1:1 is best by score: 0.810 (95 % interval 0.785 to 0.835, 3 seeds), 0.0400 better than `wgan_gp` at 5:1 "
        "(paired t-test over 3 seeds, p = 0.0202)."
    )


def test_less_can_be_better_in_the_finding():
    rows = [trial(0), trial(1, "wgan"), *repeats(2, 0, "r1", "1:1", (3.0, 3.1, 3.2)), *repeats(6, 1, "wgan", "1:1", (5.0, 5.1, 5.25))]
    assert "3.10 (95 % interval 2.85 to 3.35, 3 seeds), 2.02 better than `wgan` at 1:1 (paired t-test over 3 seeds, p < 0.001)." in finding(
        found(rows, higher=False)
    )
    assert finding(found(rows)).startswith("`wgan` at 1:1 is best by score: 5.12")


def test_a_difference_that_luck_explains_is_not_called_one():
    rows = [trial(0), trial(1, "wgan"), *repeats(2, 0, "r1", "1:1", (0.7, 0.8, 0.9)), *repeats(6, 1, "wgan", "1:1", (0.9, 0.7, 0.7))]
    text = finding(found(rows))
    assert "`r1` at 1:1 leads by score: 0.800" in text
    assert "is not distinguishable from `wgan` at 1:1 (difference 0.0333, 95 % interval \N{MINUS SIGN}0.484 to 0.550;" in text
    assert "better" not in text


def test_one_seed_has_no_interval_and_no_test():
    rows = [trial(0), trial(1, "wgan"), *repeats(2, 0, "r1", "1:1", (0.7,)), *repeats(6, 1, "wgan", "1:1", (0.6,))]
    assert finding(found(rows)) == (
        "`r1` at 1:1 leads by score: 0.700 (1 seed, no interval). It shares too few seeds with another configuration for a test."
    )


def test_where_all_complete_trials_are_equal_nothing_is_called_best():
    rows = [trial(number, score=0.0) for number in range(3)]
    assert finding(found(rows)) == (
        "Nothing can be told apart: all 3 complete trials have score 0. Give a larger total_kimg, or another sweep.objective."
    )


def test_before_repeats_the_finding_warns_of_luck():
    assert finding(found(screened())) == (
        "`r1` at 1:1 leads by score: 0.800 (one seed, no interval). It is the best of 3 complete trials by one seed of each, so luck may "
        "have chosen it."
    )


def test_an_unfinished_sweep_says_how_far_it_is():
    assert finding(found(screened(), planned=30)).endswith(" 8 of 30 trials ended so far.")
    repeated = [trial(0), *repeats(1, 0, "r1", "1:1", (0.7, 0.8)), trial(9, phase=CONFIRM, configuration=0, reason="", status="KILLED")]
    assert finding(found(repeated, planned=1)).endswith(" 3 of 4 trials ended so far.")
    assert "so far" not in finding(found(repeated[:-1], planned=1))
    running = found([trial(0, reason="", status="RUNNING")], planned=30)
    assert finding(running) == "No trial has finished yet: 0 of 30 trials ended so far."
    assert finding(found([], planned=30)) == "No trial has finished yet: 0 of 30 trials ended so far."
    early = finding(found(screened()[3:]))
    assert early == (
        "No trial spent its whole budget with a finite score, so there is no best one (2 stopped, 1 collapse, 1 diverged, 1 refused)."
    )


def test_trials_are_listed_complete_ones_first_and_reasons_are_counted():
    findings = found([*screened(), trial(8, score=math.nan), trial(9, reason="", status="RUNNING")])
    assert [row.number for row in tables.trial_order(findings)] == [0, 1, 2, 8, 3, 5, 6, 4, 7, 9]
    header, first, *_ = tables.trial_rows(findings)
    assert dict(zip(header, first))["score"] == "0.800"
    assert dict(zip(header, first))["run"] == f"{0:032x}"
    counted = {row[0]: int(row[1]) for row in tables.reason_rows(findings)[1:]}
    assert counted == {
        "asha at 10 kimg": 1, "asha at 5 kimg": 1, "alarm: collapse": 1, "diverged": 1, "refused": 1
    }  # fmt: skip
    assert [name.partition(" ")[0] for name, _ in tables.failures(findings)] == ["#5", "#6", "#7"]


def test_other_scores_of_repeated_configurations_are_means_over_their_seeds():
    rows = [trial(0), *repeats(2, 0, "r1", "1:1", (0.7, 0.8))]
    header, row = tables.repeated_rows(found(rows))
    assert header == ("trial", "configuration", "score", "95 % interval", "seeds", "kid_lenet")
    assert row == ("#0", "`r1` at 1:1", "0.750", "0.115 to 1.39", "2", "0.0350")


class Addresses(HTMLParser):
    """What a page would load, and the names of its elements."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.elements, self.words = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_one_file_with_all_text_escaped():
    rows = [*screened(), *repeats(10, 0, "r1", "1:1", (0.7, 0.8)), *repeats(20, 2, "wgan", "1:1", (0.5, 0.7))]
    findings = found(rows)._replace(name="<b>&")
    figures = drawn(findings, {0: curve(100), 2: curve(100, 0.5), 4: curve(5)})
    assert list(figures) == ["heatmap", "spending", "pareto", "best_of_n", "confirmation"]
    text = page(findings, figures, {"Data": "<i>digits</i>"}, ["Mind the `gap` & <u>this</u>"])
    read = Addresses(text)
    assert len(read.loaded) == 5
    assert all(address.startswith("data:image/png;base64,iVBOR") for address in read.loaded)
    assert not re.search(r"url\(|@import|https?://", text)
    assert not read.elements & {"script", "link", "b", "i", "u"}
    assert "refused: r1 here: &lt;script&gt;x&lt;/script&gt;" in text
    assert "Mind the <code>gap</code> &amp; &lt;u&gt;this&lt;/u&gt;" in text
    assert not re.search(r"\bnan\b", " ".join(read.words), re.IGNORECASE)


@pytest.mark.parametrize("rows", [[], [trial(0)], [stopped(0, score=math.nan)], [trial(0, reason="", status="RUNNING", scores={})]])
def test_a_sweep_with_no_trial_or_one_has_a_page(rows):
    findings = found(rows, planned=4)
    text = page(findings, drawn(findings, {0: curve(100)} if rows else {}), {}, [])
    read = Addresses(text)
    assert finding(findings).replace("`", "") in "".join(read.words)
    assert f"#{0}" in read.words if rows else "table" not in read.elements
    assert not re.search(r"\bnan\b", " ".join(read.words), re.IGNORECASE)
