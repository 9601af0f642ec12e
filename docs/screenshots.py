"""Takes the pictures of the documents from a running local stack: `python -m docs.screenshots [--data DIR]`.

The stack should have published the sample (`make demo`); the report is one over the database of `bench/report.py`,
since one video makes no plots. Pictures are reduced to 256 colours, so that they stay small. A new one is a line in
`PICTURES`.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from bench.report import DAYS, fill
from hls_pipeline import clock, metadata_store
from hls_pipeline.reports import figures
from hls_pipeline.reports import page as report_page
from hls_pipeline.settings import Settings
from tests import services

IMAGES = Path(__file__).parent / "images"
CHROMIUM = "/usr/bin/chromium"
WIDTH, COLOURS = 1200, 256
VIDEOS = 3000  # in the report
_PATIENCE = 180_000  # milliseconds; a busy machine takes its time to show Dagster's pages

LAUNCH = """mutation($selector: JobOrPipelineSelector!) {
  launchRun(executionParams: {selector: $selector, runConfigData: {}}) {
    ... on LaunchRunSuccess {run {runId}} ... on PythonError {message}}}"""
STATUS = "query($id: ID!) {runOrError(runId: $id) {... on Run {status}}}"


@dataclass(frozen=True)
class Picture:
    name: str
    where: str
    """An address in the stack, with names of `stack.json` in braces."""
    shows: str
    """What must be on the page before it is taken."""
    height: int = 760
    press: str = ""
    """What is pressed once that is there."""


PICTURES = (
    Picture("videos", "{gateway}/", "text=/published|cleared/i"),
    Picture("video", "{gateway}/videos/{video}", "video"),
    Picture("lineage", "{dagster}/locations/hls_pipeline/asset-groups/path/lineage", "text=final_metadata", 520),
    Picture("inventory", "{dagster}/assets/inventory", "text=Show Markdown", 1000, press="text=Show Markdown >> nth=2"),
    Picture("report", "{report}", "svg", 1150),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(".local"))
    parser.add_argument("--video", default="sample", help="a published video")
    parser.add_argument("--only", choices=[picture.name for picture in PICTURES])
    options = parser.parse_args()
    places = json.loads((options.data / "stack.json").read_text())
    if options.only in (None, "inventory"):
        run_job(places["dagster"], "report")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        report = write_report(Path(folder)) if options.only in (None, "report") else Path()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        known = {**places, "video": options.video, "report": f"file://{report}"}
        for picture in PICTURES:
            if options.only not in (None, picture.name):
                continue
            page = browser.new_page(viewport={"width": WIDTH, "height": picture.height})
            take(page, picture, known)
            page.close()
        browser.close()


def write_report(folder: Path) -> Path:
    store = metadata_store.connect(f"sqlite:///{services.migrated_sqlite(folder / 'metadata.sqlite')}")
    fill(store, VIDEOS)
    now = clock.now()
    file = folder / "report.html"
    file.write_text(report_page.html(figures.make(store, Settings(), now - timedelta(days=DAYS), now)))
    return file


def take(page: Page, picture: Picture, known: dict[str, Any]) -> None:
    page.goto(picture.where.format(**known))
    page.wait_for_selector(picture.shows, timeout=_PATIENCE)
    if picture.press:
        page.click(picture.press)
    page.wait_for_timeout(4000)  # what fades in
    with Image.open(io.BytesIO(page.screenshot())) as image:
        reduced = image.convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / f"{picture.name}.png"
    reduced.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KiB")


def run_job(dagster: str, job: str) -> None:
    """Runs a job of the stack to its end."""
    selector = {
        "repositoryLocationName": "hls_pipeline",
        "repositoryName": "__repository__",
        "pipelineName": job,
    }
    launched = graphql(dagster, LAUNCH, selector=selector)["launchRun"]
    run_id = launched["run"]["runId"]
    while (status := graphql(dagster, STATUS, id=run_id)["runOrError"]["status"]) not in ("SUCCESS", "FAILURE"):
        time.sleep(1)
    assert status == "SUCCESS", f"run {run_id} of {job} failed"


def graphql(dagster: str, query: str, **variables: Any) -> dict[str, Any]:
    body = json.dumps({"query": query, "variables": variables}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{dagster}/graphql", body, headers)  # noqa: S310  # of our own stack
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)["data"]
        return found


if __name__ == "__main__":
    main()
