"""The Jinja template of a page; everything that it inserts is escaped."""

TEMPLATE = """
{%- macro cell(cell, row_head) -%}
{%- set tag = "th scope='row'" if row_head else "td" -%}
<{{ tag | safe }} class='{{ cell.style }}' data-key='{{ cell.key }}'>{{ cell.text }}</{{ tag[:2] }}>
{%- endmacro -%}
{%- macro row(cells) -%}
<tr>{% for entry in cells %}{{ cell(entry, loop.first) }}{% endfor %}</tr>
{% endmacro -%}
{%- macro table(table) -%}
<div class='scroll' tabindex='0' role='group' aria-label='{{ table.caption }}'>
<table class='sortable'><caption>{{ table.caption }}</caption>
<thead><tr>{% for head in table.heads %}<th scope='col' class='{{ head.style }}'>{{ head.text }}</th>{% endfor %}</tr>
</thead><tbody>
{% for cells in table.rows %}{{ row(cells) }}{% endfor %}</tbody>
{% if table.foot %}<tfoot>{{ row(table.foot) }}</tfoot>{% endif %}
</table></div>
{% endmacro -%}
{%- macro figure(figure, number) -%}
<figure id='figure-{{ number }}' data-name='{{ page.slug }}-{{ figure.name }}'>
<img src='{{ figure.source }}' alt='{{ figure.description }}'>
<figcaption><b>Figure {{ number }}.</b> {{ figure.caption }}</figcaption>
<p class='tools'><a download='{{ page.slug }}-{{ figure.name }}.csv' href='{{ figure.data.uri }}'
 aria-label='CSV of figure {{ number }}'>CSV</a></p>
<details><summary>Values of figure {{ number }}</summary>
{% if figure.data.rows | length > most_rows %}<p>{{ figure.data.rows | length }} rows, in the CSV file.</p>
{% else %}<div class='scroll' tabindex='0' role='group' aria-label='Values of figure {{ number }}'>
<table><caption>Values of figure {{ number }}, as in its CSV file</caption>
<thead><tr>{% for head in figure.data.columns %}<th scope='col' class='words'>{{ head }}</th>{% endfor %}</tr></thead>
<tbody>
{% for values in figure.data.shown %}<tr>
{%- for value in values %}<td class='words'>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endif %}
</details></figure>
{% endmacro -%}
{%- set figures = namespace(count=0) -%}
<!doctype html>
<html lang='en'><head><meta charset='utf-8'>
<meta name='viewport' content='width=device-width, initial-scale=1'>
{{ generator }}
<title>{{ page.title }}</title>
<style>{{ style }}</style></head>
<body>
<a class='skip' href='#main'>Skip to the report</a>
<header><h1>{{ page.title }}</h1>
{% if page.subtitle %}<p>{{ page.subtitle }}</p>{% endif %}</header>
<nav aria-label='Contents'><ul>
{% for section in page.sections %}<li><a href='#section-{{ loop.index }}'>{{ section.heading }}</a></li>
{% endfor %}</ul></nav>
<main id='main' tabindex='-1'>
{% if page.error %}<p class='error'>{{ page.error }}</p>{% endif %}
{% for section in page.sections %}
<section aria-labelledby='section-{{ loop.index }}'>
<h2 id='section-{{ loop.index }}' tabindex='-1'>{{ section.heading }}</h2>
{% for claim in section.claims %}<p class='claim'><span class='mark {{ claim.verdict }}'>{{ claim.mark }}</span>
{{ claim.text }}</p>
{% endfor %}
{% if section.facts %}<dl>
{%- for name, value in section.facts %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>{% endif %}
{% if section.text %}<p>{{ section.text }}</p>{% endif %}
{% for entry in section.tables %}
{% if entry.folded %}<details><summary>{{ entry.caption }}</summary>{{ table(entry) }}</details>
{% else %}{{ table(entry) }}{% endif %}{% endfor %}
{% if section.figures %}<div class='figures'>
{% for entry in section.figures %}{% set figures.count = figures.count + 1 %}
{{ figure(entry, figures.count) }}{% endfor %}</div>{% endif %}
</section>
{% endfor %}
</main>
<script>{{ script }}</script>
</body></html>
"""
