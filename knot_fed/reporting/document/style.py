"""The style of a page: light and dark, desktop, phone and paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5a6068; --paper: #fff; --card: #f5f6f8; --line: #d5d8dd;
  --good: #00598c; --bad: #a83f00; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --soft: #a8aeb6; --paper: #16181c;
  --card: #1f2228; --line: #3a3f47; --good: #6cc0f2; --bad: #f0a04b; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 0 auto; padding: 1.5rem 1rem 4rem;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
p { max-width: 46rem; } header p { color: var(--soft); margin: 0; }
a { color: var(--good); }
:focus-visible { outline: 2px solid var(--good); outline-offset: 2px; }
main:focus, h2:focus { outline: none; }
.skip { position: absolute; left: -100rem; } .skip:focus { left: 1rem; top: .5rem; padding: .3rem .6rem;
  background: var(--paper); }
nav ul { list-style: none; padding: 0; margin: 1rem 0 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
nav a { display: inline-block; padding: .25rem 0; }
.error { border-left: .3rem solid var(--bad); padding: .5rem 1rem; background: var(--card); }
.claim { font-size: 1.1rem; margin: .5rem 0; } .mark { font-weight: 600; white-space: nowrap; }
.mark:not(:empty) { margin-right: .4rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem 1rem; margin: 1rem 0; }
dt { color: var(--soft); max-width: 11rem; } dd { margin: 0; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { overflow-wrap: break-word; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .3rem .45rem; text-align: right; vertical-align: top; white-space: nowrap; }
td.words, th.words { text-align: left; } td.words { white-space: normal; max-width: 24rem; min-width: 4rem; }
thead th { border-bottom: 2px solid var(--line); } tbody tr + tr > * { border-top: 1px solid var(--line); }
tfoot > tr > * { border-top: 2px solid var(--line); font-weight: 600; }
tbody th, tfoot th { font-weight: 600; text-align: left; white-space: normal;
  max-width: 12rem; min-width: 7rem; }
button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th button::after { content: "\\2195"; opacity: .6; padding-left: .2em; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
.better { color: var(--good); font-weight: 600; } .worse { color: var(--bad); font-weight: 600; }
.undecided { color: var(--soft); }
td.words.better, td.words.worse, td.words.undecided { white-space: nowrap; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
figure { margin: 1rem 0 0; padding: .8rem; background: var(--card); border-radius: .5rem; min-width: 0; }
figure img { display: block; width: 100%; max-width: 34rem; height: auto; margin: 0 auto; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .4rem; }
.tools { margin: .4rem 0 0; display: flex; gap: .5rem; font-size: .9rem; }
.tools > * { border: 1px solid var(--soft); border-radius: .3rem; padding: .15rem .6rem; color: var(--ink);
  text-decoration: none; min-height: 1.75rem; }
.tools > :hover { border-color: var(--good); color: var(--good); }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; padding: .25rem 0; }
@page { margin: 15mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav, .skip, .tools, figure details { display: none; } th button::after { content: none; }
  .scroll { overflow: visible; } table { font-size: 7.5pt; } th, td { padding: .15rem .25rem; white-space: normal; }
  tbody th, tfoot th, td.words { min-width: 0; }
  .figures { grid-template-columns: 1fr 1fr; } figure { border: 1px solid var(--line); background: none; }
  figure, tr, .claim, .error { break-inside: avoid; } h2, caption { break-after: avoid; }
  thead { display: table-row-group; }
}
"""
