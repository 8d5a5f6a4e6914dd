"""The page of `raygan report`: one HTML file that needs nothing beside it, no network and no script."""

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape

from pipelines.reports import tables
from pipelines.reports.words import directed, progress
from pipelines.results import Findings

finding = tables.finding

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5a636c; --line: #d9dee3; --stripe: #f5f7f9; --paper: #fff; --lead: #eef4fb;
  --caution: #fff6e0; --caution-line: #d9a400 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --soft: #a3acb5; --line: #3a4148; --stripe: #1f2429; --paper: #16191c;
  --lead: #1b2a3a; --caution: #332a12; --caution-line: #a87f00 } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; color: var(--ink);
  background: var(--paper); max-width: 1100px; margin: 0 auto; padding: 1.5rem 1.25rem 4rem }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem } h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem }
p { margin: .4rem 0 } .soft { color: var(--soft); font-size: .92rem } code { font: .92em ui-monospace, Menlo, Consolas, monospace }
.lead { background: var(--lead); border-radius: 6px; padding: .9rem 1.1rem; font-size: 1.12rem }
.cautions { background: var(--caution); border-left: 4px solid var(--caution-line); padding: .6rem 1rem .6rem 2rem; margin: 1rem 0 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; width: 100% }
th, td { padding: .32rem .55rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom } tbody tr:nth-child(even) { background: var(--stripe) }
.n { text-align: right }
td.n, .facts th { white-space: nowrap } .trials { font-size: .78rem }
.trials td, .trials th { padding: .26rem .34rem }
.facts { width: auto } .facts th { color: var(--soft); font-weight: 500; white-space: nowrap }
.reason { overflow-wrap: anywhere; min-width: 10rem }
.run { display: block; max-width: 8ch; overflow: hidden; white-space: nowrap; user-select: all }
figure { margin: 0 0 2rem } figure img { max-width: 100%; height: auto; display: block; background: #fff; border-radius: 4px }
figcaption { color: var(--soft); font-size: .92rem; margin-top: .5rem } details { margin: .35rem 0 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--stripe); border: 1px solid var(--line); border-radius: 4px;
  padding: .5rem .7rem; margin: .3rem 0 1rem; font: .8rem/1.4 ui-monospace, Menlo, Consolas, monospace }
@media print { body { max-width: none; padding: 0; font-size: 11pt } .wide { overflow: visible } .trials { font-size: 7pt }
  figure, tr { break-inside: avoid } h2 { break-after: avoid } thead { display: table-header-group } }
"""
FIGURES: dict[str, tuple[str, str]] = {
    "heatmap": (
        "Every combination that was tried",
        "The median {objective} of a square's complete trials, n of them, those of the screening and of the repeats; bright is good and "
        "the frame marks the best. Hatched squares in italics were stopped early, at the images behind the @, so their scores are not "
        "comparable with the others; red words say how trials ended that have no score to compare.",
    ),
    "confirmation": (
        "Repeated with fresh seeds",
        "Means of {objective} over fresh seeds with their intervals; wide ones that overlap say that seeds matter as much as the "
        "settings. A diamond is the score that had the configuration chosen: chosen for being good, it flatters and is not in the mean.",
    ),
    "spending": (
        "What a score costs",
        "For each loss variant its best complete trial, or its longest where none is complete (an open end). The same curves against "
        "images, generator steps and device time: a line that is lower for the same images can be higher for the same time.",
    ),
    "pareto": (
        "Quality against device time",
        "One point is one trial, so one seed. Trials on the line are beaten by no other in both {objective} and device time; all others "
        "could be had better or cheaper.",
    ),
    "best_of_n": (
        "How many trials would have been enough",
        "The best {objective} to expect had only n of the complete screening trials been run, exact over all subsets. Where the line is "
        "flat, more trials bought little. Trials that were stopped early are not among the n.",
    ),
    "grids": (
        "Samples of the best and the worst",
        "Samples of the best and of the worst complete trial. Numbers can hide what the eye sees at once: repeated images, noise, or one "
        "class only.",
    ),
}
NUMERIC = r"#?[\d.,]+|[-\N{MINUS SIGN}]?[\d.,]*(e[-+]?\d+)?"


def page(findings: Findings, figures: Mapping[str, bytes], facts: Mapping[str, str], cautions: Sequence[str]) -> str:
    """The whole page as HTML.

    `figures` are PNG files by the name of the function that draws them; they are shown in the order of FIGURES. `facts` are what the
    sweep ran with, by what they are; `cautions` are sentences that a reader must not miss.
    """
    ended, planned = progress(findings)
    name = f"Sweep {findings.name}" if findings.name else "Sweep"
    body = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="lead">{_text(finding(findings))}</p>',
        f'<p class="soft">Judged by {escape(directed(findings.objective, higher=findings.higher))}. {ended} of {planned} trials ended.</p>',
        _cautions(cautions),
        _facts(facts),
        _repeated(findings),
        *_figures(findings, figures),
        _trials(findings),
        _stopped(findings),
    ]
    parts = "\n".join(part for part in body if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{parts}\n</body>\n</html>\n"
    )


def _text(words: str) -> str:
    """Escaped, with what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(words))


def _cautions(cautions: Sequence[str]) -> str:
    items = "".join(f"<li>{_text(caution)}</li>" for caution in cautions)
    return f'<ul class="cautions">{items}</ul>' if items else ""


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in facts.items())
    return f'<h2>What was run</h2>\n<table class="facts"><tbody>{rows}</tbody></table>' if rows else ""


def _repeated(findings: Findings) -> str:
    if not findings.estimates:
        return ""
    remark = (
        "Each was trained again with fresh seeds; the screening score is left out. Those with the most seeds come first, then the best. "
        "Scores beside the objective are means over the same seeds."
    )
    return f'<h2>Repeated configurations</h2>\n<p class="soft">{remark}</p>\n{_table(tables.repeated_rows(findings))}'


def _figures(findings: Findings, figures: Mapping[str, bytes]) -> list[str]:
    known = [name for name in FIGURES if name in figures]
    return [_figure(findings, name, figures[name]) for name in (*known, *(name for name in figures if name not in FIGURES))]


def _figure(findings: Findings, name: str, picture: bytes) -> str:
    heading, caption = FIGURES.get(name, (name, ""))
    caption = caption.format(objective=findings.objective)
    source = base64.b64encode(picture).decode()
    return (
        f'<h2>{escape(heading)}</h2>\n<figure><img alt="{escape(heading)}" src="data:image/png;base64,{source}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _trials(findings: Findings) -> str:
    if not findings.rows:
        return ""
    remark = (
        "Complete trials come first, from the best on: only they can be compared. Then those that ended early, the longest first. "
        "A run's name is copied whole when it is selected; standard errors of scores are in MLflow."
    )
    return f'<h2>All trials</h2>\n<p class="soft">{remark}</p>\n{_table(tables.trial_rows(findings), "trials")}'


def _stopped(findings: Findings) -> str:
    reasons, failed = tables.reason_rows(findings), tables.failures(findings)
    if len(reasons) == 1:
        return ""
    parts = ["<h2>What was stopped and why</h2>", _table(reasons)]
    if failed:
        parts.append("<h2>Failed, refused, or ended by an alarm</h2>")
        parts += [f"<p>{_text(name)}</p><pre>{escape(reason)}</pre>" for name, reason in failed]
    return "\n".join(parts)


def _table(rows: tables.Rows, style: str = "") -> str:
    """Columns of numbers to the right; a run's name cut by the style sheet, whole in the page."""
    header, *body = rows
    numeric = [all(re.fullmatch(NUMERIC, row[column]) for row in body) for column in range(len(header))]

    def line(row: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(_cell(cell, tag, name, right) for cell, name, right in zip(row, header, numeric, strict=True)) + "</tr>"

    lines = "\n".join(line(row, "td") for row in body)
    given = f' class="{style}"' if style else ""
    return f'<div class="wide"><table{given}><thead>{line(header, "th")}</thead>\n<tbody>\n{lines}\n</tbody></table></div>'


def _cell(cell: str, tag: str, name: str, right: bool) -> str:
    if tag == "th":
        content = re.sub(r"([_.])", r"\1<wbr>", escape(cell))  # a long name must not widen a column of short numbers
    elif name == tables.RUN:
        content = f'<code class="run">{escape(cell)}</code>'
    else:
        content = _text(cell)
    style = "n" if right else "reason" if name == tables.REASON else ""
    given = f' class="{style}"' if style else ""
    return f"<{tag}{given}>{content}</{tag}>"
