"""The environment becomes one frozen value, or an error that names the variable."""

from __future__ import annotations

import os

import pytest
from pydantic import ValidationError

from hls_pipeline import settings
from hls_pipeline.commands import doctor
from hls_pipeline.errors import UsageError
from hls_pipeline.settings import Settings


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HLS_")]:
        monkeypatch.delenv(name)


def test_an_empty_environment_gives_the_local_defaults() -> None:
    found = settings.load()
    assert (found.s3_inbox, found.s3_media, found.s3_endpoint) == ("inbox", "media", None)
    assert (found.ipfs_rpc_urls, found.ipfs_quorum, found.ipfs_profile) == ((), 1, "unixfs-v1-2025")
    assert (found.inbox_quiet_seconds, found.s3_grace_seconds, found.keys) == (30, 0, "reject")


def test_variables_start_with_hls_and_lists_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HLS_IPFS_RPC_URLS", '["http://a:5001", "http://b:5001"]')
    monkeypatch.setenv("HLS_S3_GRACE_SECONDS", "86400")
    monkeypatch.setenv("S3_INBOX", "not ours")
    found = settings.load()
    assert found.ipfs_rpc_urls == ("http://a:5001", "http://b:5001")
    assert found.s3_grace_seconds == 86_400
    assert found.s3_inbox == "inbox"


def test_the_environment_is_read_again_when_it_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load() is settings.load()
    monkeypatch.setenv("hls_s3_inbox", "another")
    assert settings.load().s3_inbox == "another"
    monkeypatch.delenv("hls_s3_inbox")
    assert settings.load().s3_inbox == "inbox"


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HLS_IPFS_QUORUM", "")
    assert settings.load().ipfs_quorum == 1


def test_what_is_said_directly_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HLS_S3_MEDIA", "elsewhere")
    assert settings.load(s3_media="here").s3_media == "here"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HLS_IPFS_QUORUM", "0"),
        ("HLS_IPFS_QUORUM", "two"),
        ("HLS_S3_PARALLEL", "65"),
        ("HLS_IPFS_PROFILE", "unixfs-v9"),
        ("HLS_KEYS", "maybe"),
        ("HLS_LEASE_SECONDS", "1"),
        ("HLS_S3_GRACE_SECONDS", "-1"),
    ],
)
def test_a_bad_value_is_a_usage_error_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"setting {name}: "):
        settings.load()


def test_settings_do_not_change_and_can_be_looked_up_by() -> None:
    found = Settings(ipfs_rpc_urls=("http://a:5001",), s3_secret_key="s")
    assert hash(found) == hash(found.model_copy())
    with pytest.raises(ValidationError):
        found.s3_inbox = "other"  # type: ignore[misc]


def test_what_a_package_may_be_is_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HLS_SEVERITIES", '{"HLS_TARGETDURATION_EXCEEDED": "warning"}')
    monkeypatch.setenv("HLS_ROOT_RELATIVE", "1")
    monkeypatch.setenv("HLS_ALLOW_EXTERNAL_KEYS", "1")
    found = settings.load()
    assert hash(found) == hash(settings.load())
    policy = found.policy()
    assert policy.severities == {"HLS_TARGETDURATION_EXCEEDED": "warning"}
    assert policy.root_relative
    assert policy.allow_external_keys


@pytest.mark.parametrize("value", ['{"HLS_BOM": "warning"}', '{"NO_SUCH": "error"}', '{"HLS_NO_CODECS": "off"}', "x"])
def test_a_severity_that_no_rule_can_have_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HLS_SEVERITIES", value)
    with pytest.raises(UsageError):
        settings.load().policy()


def test_the_doctor_tells_of_rules_that_cannot_be_before_a_package_arrives() -> None:
    health = doctor._asked(*next(doctor._checks(settings.load(severities={"HLS_BOM": "warning"}))))
    assert (health.service, health.ok) == ("package rules", False)
    assert "HLS_BOM" in health.detail


def test_secrets_do_not_show() -> None:
    found = Settings(s3_secret_key="very secret", ipfs_auth="bearer:very secret")
    assert "very secret" not in f"{found!r} {found}"


def test_a_list_that_is_no_json_is_a_usage_error_that_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HLS_IPFS_RPC_URLS", "http://a:5001")
    with pytest.raises(UsageError, match=r"(?i)ipfs_rpc_urls"):
        settings.load()
