# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the page looks: its style, and its template for Jinja with every text escaped."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1c2128; --soft: #57606a; --line: #d5dae0;
  --good: #19702f; --bad: #b4232c; --warn: #875300; --plain: #2f6fb3; --dull: #6e7781; --wash: #eef1f4; }
@media (prefers-color-scheme: dark) { :root { --page: #0e1116; --card: #161b22; --text: #e4e9ef; --soft: #9aa5b1;
  --line: #30363d; --good: #4cc267; --bad: #ff7b72; --warn: #e0a63a; --plain: #6cb0f5; --dull: #8b949e;
  --wash: #1f262e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 28px; }
h1 { font-size: 1.6rem; margin: 0; line-height: 1.2; }
h2 { font-size: 1.25rem; margin: 0; }
h3 { font-size: .95rem; margin: 22px 0 6px; }
p { margin: 6px 0; }
a { color: var(--plain); }
.soft { color: var(--soft); }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.pill { display: inline-block; border: 1.5px solid currentColor; border-radius: 99px; padding: 0 10px;
  font-weight: 650; font-size: .85rem; white-space: nowrap; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px;
  margin: 18px 0; }
.head { display: flex; gap: 12px; align-items: center; flex-wrap: wrap; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .78rem; vertical-align: bottom; }
th small { display: block; font-weight: 400; }
td, th { padding: 7px 10px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child > td, tr:last-child > th[scope=row] { border-bottom: 0; }
th[scope=row] { color: var(--text); font-size: .95rem; }
td small { display: block; color: var(--soft); }
.num { font-variant-numeric: tabular-nums; white-space: nowrap; }
ol.needs { list-style: none; padding: 0; margin: 12px 0 0; }
ol.needs > li { border-left: 4px solid var(--bad); background: var(--wash); border-radius: 4px 8px 8px 4px;
  padding: 10px 14px; margin: 10px 0; }
.code { font-weight: 650; color: var(--bad); }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 8px 10px; margin: 6px 0 4px;
  white-space: pre-wrap; font: .82rem/1.45 ui-monospace, monospace; }
code { font: .85em ui-monospace, monospace; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); gap: 8px 24px; margin-top: 10px; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .82rem; color: var(--soft); }
figcaption b { color: var(--text); display: block; font-size: .9rem; }
svg { display: block; width: 100%; height: auto; max-width: 440px; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .grid { stroke: var(--line); } svg .cap { stroke: var(--bad); stroke-dasharray: 5 3; stroke-width: 1.5; }
svg .m-good { fill: var(--good); } svg .m-bad { fill: var(--bad); } svg .m-warn { fill: var(--warn); }
svg .m-dull { fill: var(--dull); } svg .m-plain { fill: var(--plain); }
details { margin-top: 14px; } summary { cursor: pointer; font-weight: 600; padding: 4px 0; }
ul { margin: 6px 0; padding-left: 20px; }
:focus-visible { outline: 3px solid var(--plain); outline-offset: 2px; border-radius: 3px; }
@media (max-width: 760px) {
  .card { padding: 14px; }
  table.cards thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table.cards tr, table.cards tbody, table.cards { display: block; }
  table.cards tr { padding: 8px 0; border-bottom: 1px solid var(--line); display: grid;
    grid-template-columns: repeat(3, 1fr); gap: 2px 14px; }
  table.cards tr:last-child { border-bottom: 0; }
  table.cards td, table.cards th[scope=row] { display: block; border: 0; padding: 3px 0; }
  table.cards th[scope=row], table.cards .wide { grid-column: 1 / -1; }
  table.cards td.none { display: none; }
  table.cards td::before { content: attr(data-label); display: block; font-size: .72rem; color: var(--soft); }
}
@media print { .card { break-inside: avoid; } }
"""

TEMPLATE = """
{% macro pill(status) -%}
{% if status.well %}<span class="pill good">✓ well</span>
{%- else %}<span class="pill bad">! {{ 'needs a person' if status.state == 'deployed' else status.state }}</span>
{%- endif %}
{%- endmacro %}
{% macro frame(of, height) %}
<line class="grid" x1="{{ chart.LEFT }}" x2="{{ chart.WIDTH - chart.RIGHT }}"
 y1="{{ chart.TOP + chart.HEIGHT }}" y2="{{ chart.TOP + chart.HEIGHT }}"/>
<text x="{{ chart.LEFT }}" y="{{ height - 4 }}">{{ of.first }}</text>
<text x="{{ chart.WIDTH - chart.RIGHT }}" y="{{ height - 4 }}" text-anchor="end">{{ of.last }}</text>
{% endmacro %}
{% macro bars(of) %}
{% for bar in of.bars %}
<rect class="m-{{ bar.kind }}" x="{{ bar.x }}" y="{{ bar.y }}" width="{{ bar.w }}" height="{{ bar.h }}" rx="1">
<title>{{ bar.title }}</title></rect>
{% endfor %}
{% endmacro %}
{% macro typed(do) %}
{% for step in steps(do) %}
{% if step.words %}<p>{{ step.words }}</p>{% endif %}
{% if step.command %}<pre><code>{{ step.command }}</code></pre>{% endif %}
{% endfor %}
{% endmacro %}
{% set high = chart.TOP + chart.HEIGHT + 20 %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Engineering loops: {{ well }} of {{ hosts | length }} well</title>
<style>{{ style | safe }}</style>
</head>
<body>
<header>
<h1>Engineering loops</h1>
<p><span class="pill {{ 'good' if well == hosts | length else 'bad' }}">
{{ '✓' if well == hosts | length else '!' }} {{ well }} of {{ hosts | length }} well</span>
<span class="soft">as of {{ made | when }} UTC</span></p>
</header>
<main>
<section class="card" aria-labelledby="fleet">
<h2 id="fleet">At a glance</h2>
<table class="cards" role="table">
<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Host</th>
{% for cell in hosts[0].cells if hosts %}
<th role="columnheader" scope="col">{{ cell.name }}<small>{{ cell.below }}</small></th>
{% endfor %}
</tr></thead>
<tbody role="rowgroup">
{% for host in hosts %}
<tr role="row"><th role="rowheader" scope="row"><a href="#{{ host.id }}">{{ host.name }}</a></th>
{% for cell in host.cells %}
<td role="cell" class="num {{ cell.kind }}{{ ' none' if cell.first == '-' else '' }}"
 data-label="{{ cell.name }}{{ ' (' ~ cell.below.strip('()') ~ ')'
 if cell.below and cell.second else '' }}">{{ cell.first }}{% if cell.second %}<small>{{ cell.second }}</small>
{% endif %}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody></table>
</section>
{% for host in hosts %}
{% set status = host.status %}
<section class="card" id="{{ host.id }}" aria-labelledby="{{ host.id }}-name">
<div class="head"><h2 id="{{ host.id }}-name">{{ host.name }}</h2>{{ pill(status) }}
{% if status.engine.active %}<span class="soft">engine <code>{{ status.engine.active[:12] }}</code></span>{% endif %}
{% if status.version %}<span class="soft">collection {{ status.version }}</span>{% endif %}
</div>
{% if status.needs %}
<ol class="needs" aria-label="What to do, the most urgent first">
{% for need in status.needs %}
<li><span class="code">{{ need.code }}</span>: {{ need.what }}{{ typed(need.do) }}</li>
{% endfor %}
</ol>
{% endif %}
{% for note in host.notes %}<p class="soft">{{ note }}</p>{% endfor %}
{% if status.running %}
<p>A cycle runs{{ ' since ' ~ status.running.started | when ~ ' UTC' if status.running.started }}
{{ status.running.issue }}.</p>
{% endif %}
{% if host.outcomes is defined %}
<div class="charts">
<figure><figcaption><b>Outcomes</b>{{ host.outcomes.told }}.</figcaption>
<svg role="img" aria-label="{{ host.outcomes.told }}" viewBox="0 0 {{ chart.WIDTH }} {{ high }}">
{% for lane in host.outcomes.lanes %}
<line class="grid" x1="{{ chart.LEFT }}" x2="{{ chart.WIDTH - chart.RIGHT }}" y1="{{ lane.y }}" y2="{{ lane.y }}"/>
<text x="{{ chart.LEFT - 6 }}" y="{{ lane.y + 4 }}" text-anchor="end">{{ lane.label }}</text>
{% endfor %}
{% for mark in host.outcomes.marks %}
<circle class="m-{{ mark.kind }}" cx="{{ mark.x }}" cy="{{ mark.y }}" r="3.4"><title>{{ mark.title }}</title></circle>
{% endfor %}
{{ frame(host.outcomes, high) }}
</svg></figure>
<figure><figcaption><b>Cost</b>{{ host.costs.told }}.</figcaption>
<svg role="img" aria-label="{{ host.costs.told }}" viewBox="0 0 {{ chart.WIDTH }} {{ high }}">
{{ bars(host.costs) }}
<line class="cap" x1="{{ chart.LEFT }}" x2="{{ chart.WIDTH - chart.RIGHT }}"
 y1="{{ host.costs.cap }}" y2="{{ host.costs.cap }}"/>
<text x="{{ chart.LEFT - 6 }}" y="{{ host.costs.cap + 4 }}" text-anchor="end">{{ host.costs.cap_told }}</text>
{{ frame(host.costs, high) }}
</svg></figure>
<figure><figcaption><b>Duration</b>{{ host.durations.told }}.</figcaption>
<svg role="img" aria-label="{{ host.durations.told }}" viewBox="0 0 {{ chart.WIDTH }} {{ high }}">
{{ bars(host.durations) }}
<text x="{{ chart.LEFT - 6 }}" y="{{ chart.TOP + 8 }}" text-anchor="end">{{ host.durations.most }}</text>
{{ frame(host.durations, high) }}
</svg></figure>
</div>
{% endif %}
{% if host.pulls %}
<h3>Draft pull requests</h3>
<ul>
{% for one in host.pulls[:10] %}
<li><a href="{{ one.pr_url | link }}" rel="noopener noreferrer">{{ one.issue or one.pr_url }}</a>
<span class="soft">{{ one.started | when }} UTC, {{ one.seconds | spoken }}, {{ '%.2f' % one.cost_usd }} USD</span></li>
{% endfor %}
</ul>
{% endif %}
{% if status.held %}
<h3>Held issues</h3>
<table class="cards" role="table"><thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Issue</th>
<th role="columnheader" scope="col">Attempts</th><th role="columnheader" scope="col">Cost</th>
<th role="columnheader" scope="col">Why</th></tr></thead><tbody role="rowgroup">
{% for one in status.held %}
<tr role="row"><th role="rowheader" scope="row">{{ one.repo }}#{{ one.number }}<br>
<span class="soft">{{ one.title }}</span></th><td role="cell" data-label="Attempts">{{ one.attempts }}</td>
<td role="cell" class="num" data-label="Cost">{{ '%.2f' % one.cost_usd }} USD</td>
<td role="cell" class="wide" data-label="Why">{{ one.why }}</td></tr>
{% endfor %}
</tbody></table>
{% endif %}
{% if status.quarantine['items'] %}
<details {{ 'open' if status.quarantine['items'] | length < 6 else '' }}>
<summary>Kept work: {{ status.quarantine.count }}, {{ status.quarantine.bytes | readable }}</summary>
<p class="soft">Nothing of it meets a later cycle. See what is in one, or bring its work to a branch:</p>
<pre><code>{{ host.restore }} -e what=ID
{{ host.restore }} -e what=ID -e to=BRANCH</code></pre>
<table class="cards" role="table"><thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">ID</th>
<th role="columnheader" scope="col">Of</th><th role="columnheader" scope="col">Outcome</th>
<th role="columnheader" scope="col">Size</th></tr></thead><tbody role="rowgroup">
{% for one in status.quarantine['items'] | reverse %}
{% if loop.index <= 100 %}
<tr role="row"><th role="rowheader" scope="row"><code>{{ one.id }}</code></th>
<td role="cell" data-label="Of">{{ one.what or 'no issue yet' }}<small>{{ one.title }}</small></td>
<td role="cell" class="wide" data-label="Outcome">{{ one.outcome }}<small>{{ one.detail }}</small></td>
<td role="cell" class="num" data-label="Size">{{ one.size | readable if one.size > 0 else '' }}</td></tr>
{% endif %}
{% endfor %}
</tbody></table>
</details>
{% endif %}
{% if host.recent %}
<details><summary>The last {{ host.recent | length }} cycles as a table</summary>
<table class="cards" role="table"><thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Began (UTC)
</th><th role="columnheader" scope="col">Outcome</th><th role="columnheader" scope="col">Issue</th>
<th role="columnheader" scope="col">Took</th><th role="columnheader" scope="col">USD</th></tr></thead>
<tbody role="rowgroup">
{% for one in host.recent %}
<tr role="row"><th role="rowheader" scope="row">{{ one.started | when }}</th>
<td role="cell" data-label="Outcome">{{ one.outcome }}</td><td role="cell" data-label="Issue">
{% if one.pr_url | link %}<a href="{{ one.pr_url | link }}" rel="noopener noreferrer">{{ one.issue or 'pull request' }}
</a>{% else %}{{ one.issue }}{% endif %}</td>
<td role="cell" class="num" data-label="Took">{{ one.seconds | spoken }}</td>
<td role="cell" class="num" data-label="USD">{{ '%.2f' % one.cost_usd }}</td></tr>
{% endfor %}
</tbody></table></details>
{% endif %}
</section>
{% endfor %}
</main>
<footer><p class="soft">Made by <code>as215932.engineering_loop.status</code>.</p></footer>
</body>
</html>
"""
