"""The direction of our imports, and that importing does nothing: read from the source, and tried in a bare process."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hls_pipeline

PACKAGE = Path(hls_pipeline.__file__).parent
LAYERS = (
    {"errors", "clock", "keys", "documents", "uploads", "settings", "whole_file", "hls", "ipfs"},
    {"tables", "migrations"},
    {"claims", "receipts", "versions"},
    {"object_store", "metadata_store"},
    {"audit", "dagster_client", "drops", "estimate", "failures", "gateway_client", "lifecycle", "metrics", "reports"}
    | {"revisions", "submission", "tracing", "work"},
    {"archive", "archive_store", "evidence", "judging", "pinning", "rehydration", "remaking", "renderings", "replicas"}
    | {"staging", "temp_storage", "withdrawal"},
    {"steps"},
    {"resources", "assets", "jobs", "sensors", "schedules", "definitions"}
    | {"gateway", "cli", "commands", "local", "queue", "ui", "upkeep"},
)
"""Lowest first: a module imports from its own layer or from below."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
OUTER = LAYERS[-1]
WITHOUT_DAGSTER = ("gateway", "cli", "commands")
NETWORK = {"socket", "ssl", "http", "urllib.request", "urllib3", "requests", "boto3", "botocore", "httpx", "asyncio"}


def modules() -> Iterator[Path]:
    return (path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part(path: Path) -> str:
    """The first name below the package: `steps`, `hls`, `gateway`, …"""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """Every module named in an import, wherever it stands, but those for type checkers alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def ours(path: Path) -> Iterator[str]:
    """Parts of this package that a module imports."""
    for name in imports(path):
        if name.startswith("hls_pipeline."):
            yield name.split(".")[1]


def test_every_module_has_its_layer() -> None:
    assert {part(path) for path in modules()} - LEVEL.keys() == set()


def test_imports_point_one_way() -> None:
    upward = [
        f"{path.relative_to(PACKAGE)} imports {other}"
        for path in modules()
        for other in ours(path)
        if LEVEL[other] > LEVEL[part(path)]
    ]
    assert upward == []


def test_no_two_parts_import_each_other() -> None:
    arrows = {(part(path), other) for path in modules() for other in ours(path) if part(path) != other}
    assert [pair for pair in sorted(arrows) if pair[::-1] in arrows] == []


def test_what_starts_the_path_is_imported_by_nothing_inside() -> None:
    inner = [path for path in modules() if part(path) not in OUTER]
    assert {other for path in inner for other in ours(path)} & OUTER == set()


@pytest.mark.parametrize("name", WITHOUT_DAGSTER)
def test_gateway_and_commands_import_no_dagster(name: str) -> None:
    found = [path for path in modules() if part(path) == name]
    assert found
    assert [path for path in found for module in imports(path) if module.split(".")[0].startswith("dagster")] == []


def test_the_rules_of_hls_know_nothing_of_ours_but_errors_and_names() -> None:
    assert {other for path in modules() if part(path) == "hls" for other in ours(path)} == {"errors", "hls", "keys"}


def test_ipfs_knows_nothing_of_ours_but_errors() -> None:
    assert {other for path in modules() if part(path) == "ipfs" for other in ours(path)} == {"errors", "ipfs"}


def test_the_rules_of_hls_and_the_values_open_no_connection() -> None:
    pure = {"hls", "keys", "clock", "documents", "uploads", "errors", "settings", "tables"}
    used = {(part(path), module) for path in modules() if part(path) in pure for module in imports(path)}
    assert [use for use in used if any(f"{use[1]}.".startswith(f"{name}.") for name in NETWORK)] == []


def test_only_settings_reads_variables_of_ours() -> None:
    """The outer layers hand the environment on to processes they start; the inner ones never look at it."""
    looks = {"environ", "getenv", "environb"}
    names = {
        path: {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        for path in modules()
        if part(path) not in OUTER | {"settings"}
    }
    assert [path for path, used in names.items() if used & looks] == []


def bare(code: str) -> str:
    """What `code` prints in a process without any environment."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ALL_MODULES = """
import importlib, pkgutil, sys
import hls_pipeline
LOUD = {"socket.connect", "socket.getaddrinfo", "sqlite3.connect", "subprocess.Popen", "os.system", "os.mkdir"}
def tell(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if (event in LOUD or writes) and arguments[0] != "file":  # a library asks `file` what Python is built for
        print(event, arguments)
sys.addaudithook(tell)
for found in pkgutil.walk_packages(hls_pipeline.__path__, "hls_pipeline."):
    if ".migrations." not in found.name:  # run by Alembic, inside a transaction
        importlib.import_module(found.name)
"""


def test_importing_every_module_with_an_empty_environment_opens_nothing() -> None:
    assert bare("import sys; sys.dont_write_bytecode = True" + ALL_MODULES) == ""


def test_the_command_line_starts_without_what_few_commands_need() -> None:
    """It is also what every role and every run begins with."""
    slow = ("boto3", "celery", "dagster", "fastapi", "grpc", "ipfshttpclient", "pandas", "requests", "uvicorn")
    names = f"[name for name in {slow} if name in sys.modules]"
    assert bare(f"import sys, hls_pipeline.cli; print({names})").strip() == "[]"


CHECK_THE_SAMPLE = """
import sys
from pathlib import Path
from hls_pipeline.hls.package import check
from hls_pipeline.hls.policy import Policy
from hls_pipeline.hls.sources import FolderSource
sys.addaudithook(lambda event, arguments: event.startswith("socket") and sys.exit(event))
package, report = check(FolderSource(Path("examples/sample")), Policy())
print(report.accepted)
"""


def test_checking_a_package_needs_no_socket() -> None:
    assert bare(CHECK_THE_SAMPLE).strip() == "True"
