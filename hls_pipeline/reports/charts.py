"""The plots of a report, drawn by matplotlib without a display: SVG for the page, PNG for Dagster's metadata.

A plot is a function that draws one frame of `figures.Report` into axes; `CHARTS` gives it a title. Numbers are made in
`figures.py`, words around the plots stand in the page's template.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hls_pipeline.reports.figures import MB, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, GREEN, ORANGE, RED, GREY = "#2f6f9f", "#3d8b63", "#d08a2e", "#b8433a", "#8a94a0"
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#c4cbd3",
    "axes.labelcolor": "#4a5560",
    "axes.grid": True,
    "grid.color": "#e8ebef",
    "axes.axisbelow": True,
    "xtick.color": "#4a5560",
    "ytick.color": "#4a5560",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small, and sharp at any size
    "svg.hashsalt": "hls-pipeline",
}


@dataclass(frozen=True)
class Chart:
    name: str
    title: str
    frame: str
    """The field of the report that it shows."""
    draw: Callable[[Axes, Any], None]


def svg(chart: Chart, report: Report) -> str:
    """An `<svg>` element for a page; the plot in words where there is nothing to draw is the page's business."""
    text = _saved(chart, report, "svg", 100).decode()
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text[text.index("<svg") :], count=1)


def png(chart: Chart, report: Report) -> bytes:
    """Small enough to be kept with every materialization."""
    return _saved(chart, report, "png", 72)


def _saved(chart: Chart, report: Report, kind: Literal["svg", "png"], dpi: int) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE), io.BytesIO() as file:
        figure: Figure = Figure(figsize=(6.2, 2.7), layout="constrained")
        axes = figure.subplots()
        frame = getattr(report, chart.frame)
        if len(frame):
            chart.draw(axes, frame)
        else:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "nothing yet", ha="center", va="center", color=GREY)
        figure.savefig(file, format=kind, dpi=dpi, transparent=kind == "svg", metadata=_undated(kind))
        return file.getvalue()


def _undated(kind: str) -> dict[str, None]:
    return {"Date": None} if kind == "svg" else {"Software": None}


# ---- the plots ---------------------------------------------------------------------------------------------------


def _volume(axes: Axes, frame: Any) -> None:
    width = _width(frame["time"])
    base = 0
    for name, colour in (("published", GREEN), ("refused", ORANGE), ("failed", RED)):
        axes.bar(frame["time"], frame[name], width, bottom=base, color=colour, label=name, align="edge")
        base = base + frame[name]
    axes.set_ylabel("uploads")
    axes.locator_params(axis="y", integer=True)
    _legend(axes, 3)
    _dates(axes, frame["time"])


def _bytes(axes: Axes, frame: Any) -> None:
    scale, unit = _unit(frame["bytes"].max())
    axes.bar(frame["time"], frame["bytes"] / scale, _width(frame["time"]), color=BLUE, align="edge")
    axes.set_ylabel(f"{unit} published")
    _dates(axes, frame["time"])


def _stages(axes: Axes, frame: Any) -> None:
    rows = list(range(len(frame)))[::-1]
    axes.barh(rows, frame["p90"], 0.62, color="#c5d9e7", label="9 of 10 within")
    axes.barh(rows, frame["p50"], 0.62, color=BLUE, label="half within")
    axes.set_yticks(rows, frame["stage"])
    axes.set_xlabel("seconds")
    axes.grid(visible=False, axis="y")
    for row, p50, p90 in zip(rows, frame["p50"], frame["p90"], strict=True):
        axes.annotate(f" {p50:.1f} s / {p90:.1f} s", (p90, row), va="center", color="#4a5560", fontsize=8)
    axes.margins(x=0.28)
    axes.set_xlim(left=0)
    _legend(axes, 2)


def _throughput(axes: Axes, frame: Any) -> None:
    few = len(frame) < 3
    axes.fill_between(frame["time"], frame["p10"] / MB, frame["p90"] / MB, color="#c5d9e7", label="middle 80 %")
    axes.plot(frame["time"], frame["median"] / MB, color=BLUE, marker="o" if few else None, ms=4, label="median")
    axes.set_ylabel("MB/s to proven on IPFS")
    axes.set_ylim(bottom=0)
    _legend(axes, 2)
    _dates(axes, frame["time"])


def _promises(axes: Axes, frame: Any) -> None:
    colours = [GREEN if start < 0 else ORANGE for start in frame["from_seconds"]]
    axes.bar(range(len(frame)), frame["uploads"], 0.86, color=colours)
    axes.set_xticks(range(len(frame)), _promise_labels(), fontsize=7.5)
    axes.set_ylabel("publications")
    axes.set_xlabel("← earlier than promised     ·     later →")
    axes.locator_params(axis="y", integer=True)
    axes.grid(visible=False, axis="x")


def _promise_labels() -> list[str]:
    return [">10 min", "1–10 min", "10–60 s", "3–10 s", "0–3 s", "0–3 s", "3–10 s", "10–60 s", "1–10 min", ">10 min"]


def _storage(axes: Axes, frame: Any) -> None:
    scale, unit = _unit((frame["ipfs_only"] + frame["also_s3"]).max())
    step: Any = "post" if len(frame) > 1 else None
    if step:
        axes.stackplot(
            frame["time"],
            frame["ipfs_only"] / scale,
            frame["also_s3"] / scale,
            colors=[GREEN, ORANGE],
            labels=["on IPFS alone", "also still in S3"],
            step=step,
        )
    else:
        axes.bar([0], frame["ipfs_only"] / scale, 0.4, color=GREEN, label="on IPFS alone")
        axes.bar([0], frame["also_s3"] / scale, 0.4, frame["ipfs_only"] / scale, color=ORANGE, label="also still in S3")
        axes.set_xticks([0], [f"{frame['time'].iloc[0]:%d %b %H:%M}"])
        axes.set_xlim(-1.5, 1.5)
    axes.set_ylabel(unit)
    _legend(axes, 2)
    if step:
        _dates(axes, frame["time"])


def _proof_age(axes: Axes, frame: Any) -> None:
    scale, unit = _unit(frame["bytes"].max())
    colours = [RED if name == "never" else BLUE for name in frame["proof"]]
    axes.bar(range(len(frame)), frame["bytes"] / scale, 0.6, color=colours)
    axes.set_xticks(range(len(frame)), frame["proof"])
    axes.set_ylabel(f"{unit}, by age of the newest proof")
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.8, max(2.8, len(frame) - 0.2))


def _replication(axes: Axes, frame: Any) -> None:
    scale, unit = _unit(frame["bytes"].max())
    colours = [RED if nodes == 0 else GREEN for nodes in frame["nodes"]]
    axes.bar(range(len(frame)), frame["bytes"] / scale, 0.6, color=colours)
    axes.set_xticks(range(len(frame)), [f"{nodes} node{'s' * (nodes != 1)}" for nodes in frame["nodes"]])
    axes.set_ylabel(f"{unit}, by nodes that proved it")
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.8, max(2.8, len(frame) - 0.2))


CHARTS = (
    Chart("volume", "Uploads", "volume", _volume),
    Chart("bytes", "Bytes published", "volume", _bytes),
    Chart("stages", "Time per stage", "stages", _stages),
    Chart("throughput", "Throughput", "throughput", _throughput),
    Chart("promises", "Promised and real completion", "promises", _promises),
    Chart("storage", "Bytes moved out of S3", "storage", _storage),
    Chart("replication", "Copies proven", "replication", _replication),
    Chart("proof_age", "Age of proof", "proof_age", _proof_age),
)


# ---- shared by the plots -----------------------------------------------------------------------------------------


def _unit(largest: float) -> tuple[float, str]:
    for scale, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if largest >= scale:
            return scale, unit
    return 1e3, "kB"


def _width(times: Any) -> Any:
    """Of a bar: most of the distance between two points in time."""
    import pandas as pd

    return (times.iloc[1] - times.iloc[0] if len(times) > 1 else pd.Timedelta(minutes=5)) * 0.86


def _dates(axes: Axes, times: Any) -> None:
    from matplotlib import dates

    axes.grid(visible=False, axis="x")
    if len(times) < 3:
        axes.margins(x=1.5)
        axes.set_xticks(list(times), [f"{time:%d %b %H:%M}" for time in times], ha="left")
        return
    untyped: Any = dates
    locator = untyped.AutoDateLocator(maxticks=8, tz="UTC")
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(untyped.ConciseDateFormatter(locator, tz="UTC"))


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, fontsize=8, borderaxespad=0, handlelength=1)
