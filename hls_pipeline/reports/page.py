"""A report as one HTML file that needs nothing else: plots are SVG inside it, there is no script and no address.

The words stand in `page.html`, which escapes whatever it is given. Numbers come from `figures.py`, plots
from `charts.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hls_pipeline.reports import charts
from hls_pipeline.reports.figures import Report

if TYPE_CHECKING:
    import pandas as pd

_HERE = Path(__file__).parent


def html(report: Report) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"size": size, "percent": percent, "seconds": seconds, "count": count, "code": code}
    return environment.get_template("page.html").render(
        at=f"{report.at:%d %B %Y %H:%M}",
        since=f"{report.since:%d %B %Y %H:%M}",
        totals=report.totals,
        plots={chart.name: Markup(charts.svg(chart, report)) for chart in charts.CHARTS},  # noqa: S704  # ours
        titles={chart.name: chart.title for chart in charts.CHARTS},
        **{
            name: _rows(getattr(report, name))
            for name in ("stages", "replication", "proof_age", "failures", "refusals", "content")
        },
    )


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return list(frame.to_dict("records"))


def code(text: str) -> str:
    """What stands between backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  # escaped just now


def size(value: float | None) -> str:
    """`1.2 GB`; decimal, as disks are sold."""
    if value is None:
        return "–"
    for scale, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}" if value < 999.5 * scale else f"{value / scale:.0f} {unit}"
    return f"{value:.0f} B"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}" if 0.0005 < value < 0.9995 else f"{value:.0%}"


def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 90:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"


def count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
