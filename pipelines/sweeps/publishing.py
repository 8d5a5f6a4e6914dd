"""The report of a sweep as files: one page that needs nothing beside it, and its pictures."""

from pathlib import Path

from pipelines.reports import curves, page, plots
from pipelines.sweeps import findings, ledger
from pipelines.sweeps.findings import Evidence
from pipelines.tracking import Tracker

PAGE = "report.html"


def write(tracker: Tracker, run_id: str, folder: Path) -> Path:
    """Write the page and its pictures to `folder`, and to the sweep's run; returns the folder."""
    files = render(findings.read(tracker, run_id))
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
        tracker.client.log_artifact(run_id, str(folder / name), ledger.REPORT_FOLDER)  # and nothing else that lies in the folder
    return folder


def render(evidence: Evidence) -> dict[str, bytes]:
    """The page, and each picture as a file of its own."""
    found = evidence.findings
    drawn = {
        "heatmap": plots.heatmap(found),
        "confirmation": plots.confirmation(found),
        "spending": curves.spending(found, evidence.curves),
        "pareto": curves.pareto(found),
        "best_of_n": plots.best_of_n(found),
        "grids": plots.grids(evidence.best_picture, evidence.worst_picture, evidence.captions),
    }
    figures = {name: plots.png(figure) for name, figure in drawn.items() if figure is not None}
    text = page.page(found, figures, evidence.facts, evidence.cautions)
    return {PAGE: text.encode(), **{f"{name}.png": content for name, content in figures.items()}}
