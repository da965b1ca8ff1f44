"""The report as one self-contained HTML page: no scripts, no fonts or files from elsewhere."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch.command_line.wording import shorten

SEARCH_NOTE = (
    "The nearest texts of each query among the held-out documents of 50 characters or more, shown by their titles."
)
STYLE = """
:root{color-scheme:light dark;--ink:#202124;--soft:#5f6368;--line:#e3e6ea;--ground:#fff;--good:#188038}
*{box-sizing:border-box}
body{margin:0;color:var(--ink);background:var(--ground);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans CJK SC","PingFang SC",sans-serif}
main{max-width:1180px;margin:0 auto;padding:40px 24px 64px}
h1{font-size:30px;line-height:1.2;margin:0 0 12px;letter-spacing:-.01em}
h2{font-size:20px;margin:44px 0 12px}
h3{font-size:16px;margin:20px 0 6px}
.headline{font-size:20px;font-weight:600;line-height:1.4;max-width:40em;margin:0 0 6px}
.details{margin:0 0 20px;padding-left:20px;max-width:52em}
.lead{max-width:54em;margin:0 0 28px}
.note{color:var(--soft);font-size:14px;max-width:62em}
ul.note{padding-left:18px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:10px 12px;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}
.results td{white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}
thead th{min-width:86px;font-size:13px;font-weight:600;color:var(--soft);vertical-align:bottom;line-height:1.3}
tbody th{font-weight:600}
small{display:block;white-space:nowrap;color:var(--soft);font-size:13px;font-weight:400}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:28px}
figure{margin:0}
figcaption{font-weight:600;margin-bottom:6px}
img{width:100%;max-width:520px;height:auto;display:block}
.found{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,280px),1fr));gap:4px 28px}
.found p{color:var(--soft);font-size:14px;font-weight:600;margin:4px 0 2px}
.found ol{margin:0 0 8px;padding-left:20px}
.own::marker{color:var(--good);content:"✓ "}
details{border-top:1px solid var(--line);padding:10px 0}
summary{cursor:pointer;font-weight:600}
.facts td,.facts th{text-align:left;font-size:14px;padding:5px 12px 5px 0;overflow-wrap:anywhere}
.facts th{color:var(--soft);font-weight:400;width:38%}
@media(prefers-color-scheme:dark){
:root{--ink:#e8eaed;--soft:#9aa0a6;--line:#3c4043;--ground:#1b1c1f;--good:#81c995}
img{filter:invert(1) hue-rotate(180deg)}
}
@media(max-width:760px){
main{padding:24px 16px 48px}h1{font-size:25px}.headline{font-size:18px}
}
@media(max-width:1120px){
.results,.results tbody{display:block}
.results tbody{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,290px),1fr));gap:12px}
.results thead{display:none}
.results tr{display:block;border:1px solid var(--line);border-radius:10px;padding:9px 14px}
.results th,.results td{display:flex;justify-content:space-between;gap:12px;border:0;padding:4px 0}
.results tbody th{font-size:17px;text-align:left}
.results td::before{content:attr(data-label);color:var(--soft);font-size:14px;text-align:left}
.results td span{display:flex;flex-flow:row-reverse wrap;align-items:baseline;gap:0 10px}
}
"""


@dataclass(frozen=True)
class Column:
    """A column of the results: where its number is, how it reads, words for its ratio to the first's."""

    key: str
    title: str
    scale: float
    format: str
    less: str = ""
    more: str = ""
    error_key: str = ""

    def show(self, model: Mapping[str, Any]) -> str:
        """The model's number, with its error where the column has one; a dash where it was not measured."""
        if self.key not in model:
            return "–"
        error = f" ± {model[self.error_key] * self.scale:{self.format}}" if self.error_key else ""
        return f"{model[self.key] * self.scale:{self.format}}{error}"


COLUMNS = (
    Column("num_parameters", "Million parameters", 1e-6, ".1f", "fewer", "more"),
    Column("num_non_embedding", "Outside embeddings", 1e-6, ".1f", "fewer", "more"),
    Column("megabytes", "MB as float32", 1, ".0f", "smaller", "larger"),
    Column("file_megabytes", "MB on disk", 1, ".0f", "smaller", "larger"),
    Column("milliseconds_per_text", "Milliseconds a text", 1, ".1f", "faster", "slower"),
    Column("texts_per_second", "Texts a second", 1, ",.0f", "slower", "faster"),
    Column("accuracy", "Neighbour accuracy, %", 100, ".1f", error_key="standard_error"),
    Column("retrieval", "Title finds its text, %", 100, ".1f", error_key="retrieval_error"),
    Column("asymmetric", "Title finds the teacher's vector of its text, %", 100, ".1f", error_key="asymmetric_error"),
    Column("similarity_auc", "Similar pairs, AUC %", 100, ".1f", error_key="similarity_error"),
    Column("heldout_relation_loss", "Held-out relation loss", 1, ".3f"),
)


def ratio(column: Column, model: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    """Such as `3.4× fewer`; empty where the column has no words for it or the two are equal to the eye."""
    value, base = model.get(column.key), reference.get(column.key)
    if not (column.less and value and base):
        return ""
    factor, word = (base / value, column.less) if value < base else (value / base, column.more)
    return f"{factor:.1f}× {word}" if factor >= 1.05 else ""


def render_row(columns: Sequence[Column], model: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    """One model's row; each cell carries its column's title, which a phone shows instead of the head."""
    shape = f"{model['num_layers']} layers × {model['hidden_size']}"
    cells = [f"<th scope=row><span>{html.escape(model['name'])}<small>{shape}</small></span></th>"]
    for column in columns:
        times = ratio(column, model, reference)
        small = f"<small>{times}</small>" if times else ""
        title = html.escape(column.title)
        cells.append(f'<td data-label="{title}"><span>{column.show(model)}{small}</span></td>')
    return f"<tr>{''.join(cells)}</tr>"


def render_results(models: Sequence[Mapping[str, Any]]) -> str:
    """The table of models, ratios to the first one; a column that no model has a number for is left out."""
    columns = [column for column in COLUMNS if any(column.key in model for model in models)]
    head = "".join(f"<th scope=col>{html.escape(column.title)}</th>" for column in columns)
    rows = [render_row(columns, model, models[0]) for model in models]
    return (
        f"<table class=results><thead><tr><th scope=col>Model</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def render_chart(caption: str, svg: str) -> str:
    """A captioned chart, embedded as an image so that the ids of several SVGs cannot meet."""
    data = base64.b64encode(svg.encode()).decode()
    caption = html.escape(caption)
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<img alt="{caption}" src="data:image/svg+xml;base64,{data}"></figure>'
    )


def flatten(value: Any, path: str = "") -> list[tuple[str, str]]:
    """(dotted path, text) of every leaf of nested mappings and lists; a list of plain values is one leaf."""
    if isinstance(value, dict) and value:
        return [leaf for key, child in value.items() for leaf in flatten(child, f"{path}.{key}" if path else key)]
    if isinstance(value, list) and any(isinstance(child, dict | list) for child in value):
        return [leaf for i, child in enumerate(value) for leaf in flatten(child, f"{path}.{i}")]
    return [(path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]


def render_facts(title: str, facts: Any) -> str:
    """A section that opens to a table of `facts`; nothing where there are none."""
    if not facts:
        return ""
    rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in flatten(facts))
    return f"<details><summary>{html.escape(title)}</summary><table class=facts>{rows}</table></details>"


def render_verdicts(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """The sentences to remember, each with what it rests on."""
    parts = []
    for verdict in verdicts:
        details = "".join(f"<li>{_together(html.escape(detail))}</li>" for detail in verdict["details"])
        parts.append(f'<p class="headline">{html.escape(verdict["headline"])}</p><ul class="details">{details}</ul>')
    return "".join(parts)


def _together(text: str) -> str:
    """With a number, its error and its % on one line."""
    return text.replace(" ± ", "&nbsp;±&nbsp;").replace(" %", "&nbsp;%")


def render_search(search: Sequence[Mapping[str, Any]]) -> str:
    """What each model finds for the same queries, side by side; nothing where nothing was searched."""
    if not search:
        return ""
    parts = ["<h2>A search</h2>", f'<p class="note">{SEARCH_NOTE}']
    if any(found["is_own"] for one in search for results in one["found"].values() for found in results):
        parts.append(" ✓ marks the text that the title belongs to.")
    parts.append("</p>")
    for one in search:
        lists = "".join(_render_found(name, results) for name, results in one["found"].items())
        parts.append(f'<h3 lang="zh">{html.escape(one["query"])}</h3><div class="found">{lists}</div>')
    return "".join(parts)


def _render_found(name: str, results: Sequence[Mapping[str, Any]]) -> str:
    items = "".join(
        f"<li{' class=own' if found['is_own'] else ''}>{html.escape(shorten(found['title'], 60))}</li>"
        for found in results
    )
    return f'<div><p>{html.escape(name)}</p><ol lang="zh">{items}</ol></div>'


def render_page(report: Mapping[str, Any], charts: Sequence[tuple[str, str]]) -> str:
    """The whole page from the report's numbers and (caption, SVG) of its charts."""
    title = html.escape(report["title"])
    sections = render_facts("Run", report.get("facts"))
    sections += render_facts("Last logged step", report.get("last_step"))
    sections += render_facts("Configuration", report.get("config"))
    facts = f"<h2>Facts of the run</h2>\n{sections}" if sections else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{STYLE}</style></head><body><main>
<h1>{title}</h1>
{render_verdicts(report["verdicts"])}
<p class="lead">{html.escape(report["summary"])}</p>
{render_results(report["models"])}
<ul class="note">{"".join(f"<li>{html.escape(line)}</li>" for line in report["method"])}</ul>
{render_search(report["search"])}
<h2>Charts</h2>
<div class="charts">{"".join(render_chart(*chart) for chart in charts)}</div>
{facts}
</main></body></html>
"""
