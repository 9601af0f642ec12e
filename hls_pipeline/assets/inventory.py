"""Every published file as one Parquet table in S3, and the plots of the last 30 days."""

import base64
from datetime import timedelta

import dagster as dg

from hls_pipeline import clock, settings
from hls_pipeline.assets.frame import as_failure
from hls_pipeline.resources.metadata import MetadataResource
from hls_pipeline.resources.s3 import ObjectStoreResource

_DAYS = 30


@dg.asset(name="inventory", group_name="operations", kinds={"parquet", "s3"}, code_version="1")
def inventory(s3: ObjectStoreResource, metadata: MetadataResource) -> dg.MaterializeResult[None]:
    """What is published, where it lies and when that was proven; read it with pandas or DuckDB."""
    from hls_pipeline import keys
    from hls_pipeline.reports import charts, figures
    from hls_pipeline.reports import inventory as files

    store, config, now = metadata.store(), settings.load(), clock.now()
    with as_failure():
        key, written = files.export(store, s3.object_store(), config, now)
        report = figures.make(store, config, now - timedelta(days=_DAYS), now)
    plots = {f"plot: {chart.title.lower()}": _image(charts.png(chart, report), chart.title) for chart in charts.CHARTS}
    totals = {
        name.replace("_", " "): round(value, 3) if isinstance(value, float) else value
        for name, value in report.totals.items()
        if value is not None
    }
    return dg.MaterializeResult(
        data_version=dg.DataVersion(clock.text(now)),
        metadata={
            "table": dg.MetadataValue.path(keys.s3_uri(config.s3_media, key)),
            "dagster/row_count": written.files,
            **totals,
            **plots,
        },
    )


def _image(png: bytes, title: str) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")
