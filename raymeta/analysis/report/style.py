"""How the page looks, on light and on dark screens and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1d1f21; --muted: #5f6468; --paper: #ffffff; --line: #e3e3e0;
  --shade: #f4f4f1; --link: #0b5cad;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e4e1; --muted: #a2a5a8; --paper: #171717; --line: #34373a;
    --shade: #1f2224; --link: #7db7f0;
  }
  .plot, .dot { filter: invert(0.91) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 68rem; padding: 2.5rem 1.5rem 5rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans",
    sans-serif;
}
header { border-bottom: 1px solid var(--line); margin-bottom: 1.5rem; }
.alarm {
  background: #b00020; color: #ffffff; font-weight: 600; max-width: none;
  margin: 0 0 1.5rem; padding: .8rem 1rem; border-radius: .3rem;
}
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
header p { color: var(--muted); margin: 0 0 1.2rem; }
h2 { font-size: 1.35rem; margin: 3.2rem 0 .8rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { max-width: 46rem; margin: .6rem 0; }
a { color: var(--link); text-decoration: none; }
a:hover, a:focus { text-decoration: underline; }
nav ol {
  columns: 3 14rem; list-style: none; margin: 0; padding: 0; font-size: .95rem;
}
nav li { break-inside: avoid; padding: .1rem 0; }
.wide { overflow-x: auto; margin: 1rem 0 1.4rem; }
table { border-collapse: collapse; font-size: .9rem; }
caption {
  text-align: left; color: var(--muted); padding-bottom: .5rem; max-width: 60rem;
}
th, td {
  padding: .32rem .8rem .32rem 0; text-align: left; vertical-align: baseline;
  border-bottom: 1px solid var(--line); white-space: nowrap;
}
thead th, caption { white-space: normal; }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.dot {
  display: inline-block; width: .62em; height: .62em; border-radius: 50%;
  margin-right: .5em;
}
figure { margin: 1.2rem 0 1.8rem; overflow-x: auto; }
img { display: block; max-width: 100%; height: auto; }
code, pre {
  font-family: ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace;
  font-size: .88em;
}
pre {
  background: var(--shade); border: 1px solid var(--line); border-radius: 6px;
  padding: .8rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere;
}
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--link); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; }
dt { color: var(--muted); }
dd { margin: 0; max-width: 46rem; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem 3rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .6rem; }
  figure img { max-width: none; width: 44rem; }
}
@media print { nav { display: none; } h2 { break-after: avoid; } }
"""
