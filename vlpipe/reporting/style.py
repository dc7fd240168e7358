"""The style of the page: two palettes, one column on a phone, and a table of contents beside the text on a wide screen."""

CSS = """
:root { color-scheme: light dark; --ink: #1f2937; --quiet: #56616e; --paper: #ffffff; --panel: #f3f5f8; --line: #d3dae2;
  --a: #2563a8; --b: #b4470e; --soft: #2563a833; --bad: #a8200d; --good: #17693a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --quiet: #a9b4c0; --paper: #131416; --panel: #1d2024; --line: #3d4653;
    --a: #6aa9ee; --b: #ff9a61; --soft: #6aa9ee40; --bad: #ff8c7a; --good: #6fd39a; }
}
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
main, footer { max-width: 64rem; padding: 0 1rem 2rem; }
main:focus { outline: none; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { font-size: 1.4rem; border-bottom: 1px solid var(--line); margin-top: 2.5rem; }
h3 { font-size: 1.15rem; margin-top: 2rem; } h4 { font-size: 1rem; }
a { color: var(--a); } a:focus-visible, .wide:focus-visible, summary:focus-visible { outline: 3px solid var(--a); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; } .skip:focus { left: 1rem; top: 1rem; background: var(--paper); padding: .5rem; z-index: 1; }
nav { background: var(--panel); padding: .5rem 1rem; } nav ul { list-style: none; margin: 0; padding: 0; }
nav .level3 { padding-left: 1rem; font-size: .9rem; }
.wide { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; white-space: nowrap; font-weight: 600; padding-bottom: .3rem; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top; border-bottom: 1px solid var(--line); min-width: 3rem;
  overflow-wrap: break-word; max-width: 32rem; }
tbody th { font-weight: 500; } thead th { color: var(--quiet); font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1rem 0; } figcaption { color: var(--quiet); font-size: .9rem; }
svg, img { max-width: 100%; height: auto; display: block; } img { width: 40rem; image-rendering: pixelated; }
audio { width: 100%; max-width: 30rem; display: block; margin: .5rem 0; }
svg text { fill: var(--quiet); font: 12px system-ui, sans-serif; } .axis { stroke: var(--line); }
.bar { fill: var(--a); } .other { fill: none; stroke: var(--b); stroke-width: 2; } .mark { stroke: var(--b); stroke-dasharray: 3 3; }
.curve { fill: none; stroke: var(--a); stroke-width: 1.5; } .band { fill: var(--soft); } .wave { fill: var(--a); }
.quiet { color: var(--quiet); } .bad { color: var(--bad); font-weight: 600; } .good { color: var(--good); }
@media (min-width: 70rem) {
  nav { position: fixed; inset: 0 auto 0 0; width: 17rem; overflow-y: auto; }
  main, footer { margin-left: 18rem; }
}
@media print { nav, .skip { display: none; } main, footer { margin: 0; max-width: none; } }
"""
