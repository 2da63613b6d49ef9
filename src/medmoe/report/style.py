"""The page's style sheet: one column of cards, readable on a phone, light and dark, and in print."""

CSS = """
:root { color-scheme: light dark;
  --paper: #f6f7f9; --card: #ffffff; --ink: #17202b; --soft: #55606e; --rule: #dfe3e8; --track: #e9ecf0;
  --accent: #1d5fbf; --second: #b4470f; --good: #17784a; --bad: #b3372f; --mark: #ffe28a; --on-strong: #ffffff;
  --s0: #1d5fbf; --s1: #b4470f; --s2: #17784a; --s3: #8a3fa8; --s4: #92700c; --s5: #b02a63; --s6: #0d7684;
  --s7: #5b6472; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #11161c; --card: #1a212a; --ink: #e8ecf1; --soft: #a3aebb; --rule: #2e3742; --track: #29323c;
  --accent: #6ea8ff; --second: #ff9f68; --good: #5fd39a; --bad: #ff8b80; --mark: #6b5200; --on-strong: #0d1218;
  --s0: #6ea8ff; --s1: #ff9f68; --s2: #5fd39a; --s3: #d39bea; --s4: #e6c34a; --s5: #ff8ab8; --s6: #58cbd8;
  --s7: #b0bac6; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 36px; } footer { padding-top: 8px; padding-bottom: 48px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 4px; letter-spacing: -.005em; } h3 { font-size: 1rem; margin: 22px 0 6px; }
p { margin: 0 0 8px; } a { color: var(--accent); }
.lead, .asked, .note, .empty, small { color: var(--soft); } .note, small { font-size: .8125rem; font-weight: 400; }
.lead { max-width: 72ch; } .empty { font-style: italic; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 14px 0 18px; border-bottom: 1px solid var(--rule); }
nav a { text-decoration: none; font-weight: 600; font-size: .9375rem; } nav a:hover { text-decoration: underline; }
section { padding: 26px 0 6px; } section > p { max-width: 78ch; }
.tiles { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(245px, 1fr)); margin-top: 12px; }
.tile, .chart, .card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 14px 16px;
  margin: 0; min-width: 0; }
.tile h3 { margin: 0; font-size: .975rem; } .tile .note { margin: 6px 0 8px; }
.eyebrow { font-size: .75rem; color: var(--soft); margin: 0; }
.big { margin: 4px 0 6px; font-variant-numeric: tabular-nums; } .big b { font-size: 1.9rem; line-height: 1.15; }
.badge { display: inline-block; font-size: .75rem; font-weight: 600; padding: 1px 8px; border-radius: 99px;
  border: 1px solid currentColor; white-space: nowrap; } .good { color: var(--good); } .bad { color: var(--bad); }
.charts { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr));
  margin: 12px 0; }
figcaption b, figcaption small { display: block; } figcaption .legend { margin-top: 2px; }
.charts.wide { grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); }
.chart > svg { width: 100%; height: auto; display: block; margin-top: 8px; }
.chart text { font: 11px system-ui, sans-serif; fill: var(--soft); } text.end { text-anchor: end; }
text.middle { text-anchor: middle; }
.grid { stroke: var(--rule); stroke-width: 1; } .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.band { opacity: .15; } .raw { opacity: .3; stroke-width: 1; }
.legend { display: flex; flex-wrap: wrap; gap: 3px 14px; font-size: .8125rem; color: var(--soft);
  align-items: center; }
.legend span { display: inline-flex; align-items: center; gap: 6px; } .legend i { flex: none; display: inline-block; }
.key { width: 14px; height: 3px; border-radius: 2px; background: currentColor; }
.line.train { stroke: var(--accent); } .key.train { color: var(--accent); } .dot.train { fill: var(--accent); }
.line.val { stroke: var(--second); stroke-dasharray: 4 3; } .key.val { color: var(--second); }
.dot.val { fill: var(--second); }
SERIES
.bar { width: 100%; display: block; overflow: visible; } .track { fill: var(--track); }
.fill { fill: var(--accent); opacity: .8; }
.zone { fill: var(--soft); opacity: .45; } .whisker { stroke: var(--ink); stroke-width: 1.6; }
.mark { stroke: var(--second); stroke-width: 2.2; } .mark.shuffled { stroke: var(--ink); stroke-dasharray: 3 2.5; }
.mark.majority { stroke: var(--s3); stroke-dasharray: 6 2; }
.bars ul { list-style: none; margin: 10px 0 0; padding: 0; }
.bars li { display: grid; grid-template-columns: 84px 1fr 104px; gap: 10px; align-items: center; padding: 3px 0;
  font-size: .875rem; }
.bars .name { overflow-wrap: anywhere; line-height: 1.2; }
.value { display: flex; flex-direction: column; text-align: right; font-variant-numeric: tabular-nums;
  line-height: 1.25; }
.value small { font-size: .75rem; white-space: nowrap; }
.sign { width: 16px; height: 10px; border-radius: 2px; } .sign.fill { background: var(--accent); opacity: .8; }
.sign.whisker { height: 0; border-top: 2px solid var(--ink); } .sign.zone { background: var(--soft); opacity: .45; }
.sign.mark { width: 0; height: 14px; border-left: 2.5px solid var(--second); border-radius: 0; }
.sign.shuffled { border-left: 2px dashed var(--ink); } .sign.majority { border-left: 2.5px dashed var(--s3); }
.scroll { overflow-x: auto; margin: 8px 0; }
.scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; background: var(--card);
  min-width: 100%; }
th, td { text-align: left; padding: 8px 12px; border-bottom: 1px solid var(--rule); vertical-align: top; }
thead th { font-size: .8125rem; color: var(--soft); vertical-align: bottom; min-width: 96px; }
tbody th { font-weight: 600; white-space: nowrap; position: sticky; left: 0; background: var(--card); }
td small, tbody th small { display: block; font-size: .75rem; line-height: 1.35; }
.interval { color: var(--soft); font-size: .8125rem; white-space: nowrap; }
tr.all th, tr.all td { background: color-mix(in srgb, var(--accent) 8%, var(--card)); } .weak { color: var(--bad); }
.confusion { margin-top: 4px; }
.confusion th, .confusion td { padding: 6px 5px; text-align: right; min-width: 34px; font-size: .8125rem; }
.confusion tbody th, .confusion thead th:first-child { text-align: left; }
.confusion td { border: 1px solid var(--rule); }
.confusion thead span { writing-mode: vertical-rl; transform: rotate(180deg); }
.confusion thead th { min-width: 0; }
.confusion .strong { color: var(--on-strong); font-weight: 600; }
table.published thead th { min-width: 0; } table.published td.own { min-width: 190px; }
table.published tbody th { min-width: 112px; overflow-wrap: anywhere; }
table.versus td, table.facts td { min-width: 132px; } table.facts { min-width: 0; }
table.facts td { max-width: 46ch; overflow-wrap: anywhere; } tr.metric th { color: var(--soft); padding-top: 16px;
  font-size: .8125rem; } td b.good { color: var(--good); } td b.bad { color: var(--bad); }
tr.differs td { background: color-mix(in srgb, var(--mark) 35%, transparent); }
.few, .few b, .few .interval { color: var(--soft); opacity: .8; font-weight: 400; }
.warnings { border: 1px solid var(--bad); border-left-width: 5px; border-radius: 8px; padding: 10px 14px;
  background: color-mix(in srgb, var(--bad) 8%, var(--card)); margin: 12px 0; max-width: 90ch; }
.warnings b { color: var(--bad); } .warnings ul, .noted ul { margin: 4px 0 0; padding-left: 20px; }
.warnings li, .noted li { overflow-wrap: anywhere; } .noted { margin: 10px 0; max-width: 90ch; }
.bars.versus li { grid-template-columns: 22px 1fr 104px; } .bars.versus .name { font-weight: 700; }
.bars.versus p { margin: 8px 0 0; } .mark.other { stroke: var(--s6); stroke-dasharray: 2 2; }
.sign.other { border-left: 2.5px dotted var(--s6); } .diagonal { stroke: var(--soft); stroke-dasharray: 4 4; }
.node { stroke: none; } .flow { opacity: .32; } .flow.wrong { opacity: .75; } text.start { text-anchor: start; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 10px 12px;
  margin: 4px 0 10px; max-height: 60vh; } pre.scroll { overflow: auto; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
details { margin: 8px 0; }
summary { cursor: pointer; color: var(--accent); font-weight: 600; font-size: .9375rem; padding: 4px 0; }
.cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(250px, 100%), 1fr)); }
.card { padding: 0; overflow: hidden; } .card figcaption { display: block; padding: 10px 14px 12px; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; background: #000; } .picture { position: relative; }
.picture img { width: 100%; height: auto; display: block; }
.picture svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.picture rect, .picture circle { fill: none; vector-effect: non-scaling-stroke; stroke-width: 2; }
.picture .halo { stroke: #000; stroke-width: 4; opacity: .55; } .picture .box { stroke: #4ee3ff; }
.picture .peak { stroke: #fff; }
.card .asked { color: var(--ink); display: flex; flex-wrap: wrap; gap: 4px 10px; justify-content: space-between; }
.card .words { font-size: .875rem; color: var(--soft); margin: 0; overflow-wrap: anywhere; }
mark { background: var(--mark); color: var(--ink); border-radius: 3px; padding: 0 2px; }
.scale { width: 84px; height: 10px; border-radius: 5px; }
.swatch { width: 14px; height: 12px; border: 2px solid #1499b5; }
.ring { width: 12px; height: 12px; border: 2px solid var(--ink); border-radius: 50%; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 5px 20px; font-size: .9rem; margin: 10px 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: .8125rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
@media (max-width: 640px) { tbody th { white-space: normal; max-width: 34vw; }
main, header, footer { padding-left: 14px; padding-right: 14px; }
header { padding-top: 22px; }
  h1 { font-size: 1.5rem; } dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; }
  th, td { padding: 7px 9px; } .bars li { grid-template-columns: 76px 1fr 96px; gap: 8px; } }
@media print { body { background: #fff; } nav { display: none; } .scroll { overflow: visible; } pre { max-height: none;
  white-space: pre-wrap; } .tile, .chart, .card, tr { break-inside: avoid; } }
""".replace(
    "SERIES",
    "\n".join(
        f".line.s{k} {{ stroke: var(--s{k}); }} .key.s{k} {{ color: var(--s{k}); }} .dot.s{k} {{ fill: var(--s{k}); }}"
        f" .band.s{k}, .flow.s{k}, .node.s{k} {{ fill: var(--s{k}); }}"
        for k in range(8)
    ),
)
