"""docs/reference/findings.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from hls_pipeline.hls.rules import RULES, as_markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "findings.md"


def test_the_page_lists_every_rule_as_it_is() -> None:
    assert PAGE.read_text().endswith(as_markdown()), "put the output of rules.as_markdown() there"


def test_every_rule_says_what_it_means_and_what_to_do() -> None:
    for rule in RULES.values():
        assert rule.meaning.endswith((".", ").")), rule.code
        assert rule.advice.endswith((".", "}.")), rule.code
