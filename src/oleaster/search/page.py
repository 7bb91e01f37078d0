"""The search as one HTML page that needs nothing else: no network, no script of others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from oleaster.search.charts import bars, course, history, parallel, pareto
from oleaster.search.papers import Findings, Trial, rounded

_STYLE = """
:root { --ink: #1c2321; --soft: #65706b; --line: #d8ded9; --good: #2f6b4f; --paper: #fbfcfa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebe7; --soft: #9aa59f; --line: #3a4440; --good: #7cc4a0; --paper: #171c1a; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1080px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; } svg text { fill: var(--ink); }
svg .axis { stroke: var(--line); } svg .soft { fill: var(--soft); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } td.why { text-align: left; color: var(--soft); min-width: 16rem; }
div { overflow-x: auto; }
tr.best td { font-weight: 600; color: var(--good); }
.trial { transition: opacity .1s; } .dimmed { opacity: .08; }
pre { background: color-mix(in srgb, var(--line) 40%, transparent); padding: .7rem; overflow-x: auto; }
"""
_SCRIPT = """
for (const mark of document.querySelectorAll('[data-trial]')) {
  const same = document.querySelectorAll('[data-trial="' + mark.dataset.trial + '"]');
  mark.addEventListener('mouseenter', () => {
    document.querySelectorAll('.trial').forEach(other => other.classList.add('dimmed'));
    same.forEach(other => other.classList.remove('dimmed'));
  });
  mark.addEventListener('mouseleave', () =>
    document.querySelectorAll('.dimmed').forEach(other => other.classList.remove('dimmed')));
}
"""


def page(findings: Findings) -> str:
    """The whole page."""
    title = f"Search {findings.folder.name}"
    parts = [f"<h1>{escape(title)}</h1>", *_summary(findings)]
    for heading, chart in _charts(findings):
        if chart:
            parts.append(f"<h2>{heading}</h2>\n{chart}")
    parts.append(f"<h2>All trials</h2>\n{_table(findings)}")
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><meta name="viewport" content="width=device-width">'
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}<style>{_STYLE}</style></head>\n'
        f"<body>\n{body}\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _summary(findings: Findings) -> Iterator[str]:
    states = ("complete", "pruned", "failed", "running")
    counts = ", ".join(f"{findings.count(state)} {state}" for state in states if findings.count(state))
    seconds = sum(trial.seconds for trial in findings.trials)
    yield f"<p>{counts or 'no trial yet'} of {findings.wanted} trials; {seconds:,.0f} s of training in all.</p>"
    aims = [f"{'more' if o.maximize else 'less'} <b>{escape(o.name)}</b>" for o in findings.objectives]
    yield f"<p>Aim: {', '.join(aims)}.</p>"
    if not findings.best:
        return
    best = findings.best[0]
    figures = ", ".join(f"{escape(name)} {value:.5g}" for name, value in best.values.items())
    yield f"<p>Best: trial {best.number} ({figures}); its run and recipe are in <code>best/</code>.</p>"
    yield f"<pre>{escape(chr(10).join(f'{name}: {value}' for name, value in best.settings.items()))}</pre>"
    if len(findings.objectives) > 1:
        numbers = ", ".join(str(trial.number) for trial in findings.best)
        yield f"<p>No other trial beats these in all objectives: {numbers}.</p>"


def _charts(findings: Findings) -> Iterator[tuple[str, str]]:
    objective = findings.objectives[0]
    yield f"History: {escape(objective.name)} by trial", history(findings)
    if len(findings.objectives) > 1:
        yield f"{escape(objective.name)} against {escape(findings.objectives[1].name)}", pareto(findings)
    yield f"What mattered: share of the variation of {escape(objective.name)}", bars(findings.importance)
    yield "Parallel coordinates: one line a trial, the darker the better", parallel(findings)
    yield "Validation loss on the way", course(findings.trials)


def _table(findings: Findings) -> str:
    names = list(dict.fromkeys(name for trial in findings.trials for name in trial.settings))
    measured = list(dict.fromkeys(name for trial in findings.trials for name in trial.values))
    head = "".join(f"<th>{escape(name)}</th>" for name in ["trial", "state", *measured, *names, "seconds", ""])
    best = {trial.number for trial in findings.best}
    rows = [_row(trial, measured, names, trial.number in best) for trial in findings.trials]
    return f"<div><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def _row(trial: Trial, measured: Sequence[str], names: Sequence[str], is_best: bool) -> str:
    figures = [f"{trial.values[name]:.5g}" if name in trial.values else "" for name in measured]
    cells = [str(trial.number), trial.state, *figures, *(rounded(trial.settings.get(name, "")) for name in names)]
    cells.append(f"{trial.seconds:.1f}")
    why = f'<td class="why">{escape(trial.why.splitlines()[0] if trial.why else "")}</td>'
    css = ' class="best"' if is_best else ""
    return f"<tr{css}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}{why}</tr>"
