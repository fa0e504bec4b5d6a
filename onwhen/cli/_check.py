"""What `onwhen check` does: tell what is wrong with an app.

Belongs here: how findings are told, and the exit code. It must not know how they are found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from onwhen.analysis import SEVERITIES, Finding, Survey, check, facts_of_findings, survey
from onwhen.cli._app import find_app, make_bus
from onwhen.cli._forms import clean
from onwhen.cli._listing import say, show_json

__all__ = ["show_findings", "survey_of"]


def survey_of(app: str) -> Survey:
    """Return what the rules of an app do, read from their source.

    Args:
        app: where it is; see `find_app`.
    """
    return survey(make_bus(find_app(app)).rulebook)


def show_findings(app: str, format: str, *, strict: bool, closed: bool, external: Sequence[str]) -> int:
    """Tell what is wrong with an app, or worth knowing of it; return the exit code.

    Args:
        app: where it is; see `find_app`.
        format: text or json.
        strict: warnings fail, too.
        closed: no events come from outside or go there, but for the external ones.
        external: types, or globs, of events that do.
    """
    findings = check(survey_of(app), is_closed=closed, external=external)
    if format == "json":
        show_json(facts_of_findings(findings, app))
    else:
        for finding in findings:
            print(_line(finding))
        say(_summary(findings))
    fatal = SEVERITIES[:2] if strict else SEVERITIES[:1]
    return 1 if any(finding.severity in fatal for finding in findings) else 0


def _line(finding: Finding) -> str:
    place = f"{finding.place}: " if finding.place is not None else ""
    return clean(f"{place}{finding.severity}[{finding.code}] {finding.rule}: {finding.message}")


def _summary(findings: Sequence[Finding]) -> str:
    count = Counter(finding.severity for finding in findings)
    if not count:
        return "nothing found"
    words = {"error": ("error", "errors"), "warning": ("warning", "warnings"), "info": ("note", "notes")}
    return ", ".join(f"{count[one]:,} {words[one][count[one] != 1]}" for one in SEVERITIES if count[one])
