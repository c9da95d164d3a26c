// The page's one style sheet: light by default and on paper, dark where the reader's system is.
#pragma once

namespace qad::report {

inline constexpr const char* kStyle = R"css(
:root{--paper:#fbfbf9;--card:#fff;--ink:#16181d;--soft:#5c626d;--line:#e3e3de;--rule:#c9c9c3;--accent:#2563c9;
--s0:#2563c9;--s1:#c2570c;--s2:#17855b;--s3:#8a4fc0;--bar:#9db7dd;--good:#17855b;--bad:#b3261e;color-scheme:light}
@media screen and (prefers-color-scheme:dark){:root{--paper:#131417;--card:#1b1d21;--ink:#e9eaec;--soft:#a0a6b1;
--line:#2d3036;--rule:#474b53;--accent:#7eabf5;--s0:#7eabf5;--s1:#f0955c;--s2:#52c398;--s3:#c29bf0;--bar:#41597f;
--good:#52c398;--bad:#f28b82;color-scheme:dark}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
-webkit-text-size-adjust:100%;overflow-wrap:anywhere}
main{max-width:860px;margin:0 auto;padding:40px 20px 64px}
header p{margin:0;color:var(--soft)}
h1{font-size:1.7rem;line-height:1.2;letter-spacing:-.015em;margin:.1em 0 .3em}
h2{font-size:1.15rem;letter-spacing:-.005em;margin:2.6em 0 .5em}
h3{font-size:.95rem;margin:1.4em 0 .3em;font-weight:600}
.verdict{font-size:1.18rem;line-height:1.5;margin:1.3em 0;padding-left:16px;border-left:3px solid var(--accent);text-wrap:pretty}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));gap:12px;margin:1.5em 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.tile span{display:block;color:var(--soft);font-size:.82rem}
.tile b{display:block;font-size:1.1rem;font-weight:600;letter-spacing:-.02em;line-height:1.5;font-variant-numeric:tabular-nums}
.tile b i{font-style:normal;font-weight:400;color:var(--soft);white-space:nowrap}
.tile b u{text-decoration:none;white-space:nowrap}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch;overflow-wrap:normal}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:7px 12px 7px 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:.82rem;white-space:nowrap;border-bottom-color:var(--rule)}
tbody th{font-size:.92rem;color:var(--ink);font-weight:500;border-bottom-color:var(--line)}
.n{text-align:right;white-space:nowrap}
th:last-child,td:last-child{padding-right:0}
tfoot td,tfoot th{font-weight:600;color:var(--ink);font-size:.92rem;border-bottom:0}
.strong{font-weight:650}.se{color:var(--soft);font-weight:400;font-size:.86em}
.good{color:var(--good)}.bad{color:var(--bad)}
.soft{color:var(--soft);font-size:.88rem}
.fit{width:auto}.fit th,.fit td{padding-right:28px}.why{min-width:200px}
.keys td:first-child{color:var(--soft);width:34%;min-width:110px}
code,pre{font:0.85em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 14px;margin:.6em 0;white-space:pre-wrap}
figure{margin:1.2em 0 1.8em}
figcaption{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:.92rem;margin-bottom:2px}
figcaption b{font-weight:600;margin-right:auto}
.key{color:var(--soft);font-size:.86rem;white-space:nowrap}
.key:before{content:"";display:inline-block;width:14px;height:3px;border-radius:2px;background:var(--c);margin-right:6px;vertical-align:middle}
.c0{--c:var(--s0)}.c1{--c:var(--s1)}.c2{--c:var(--s2)}.c3{--c:var(--s3)}
svg{display:block;width:100%;height:auto;overflow:visible}
svg.narrow{display:none}
svg text{font-size:12px;fill:var(--soft);font-variant-numeric:tabular-nums}
svg .halo{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
.grid{stroke:var(--line)}.axis{stroke:var(--rule)}
.reference{stroke:var(--soft);stroke-dasharray:5 4}
.line,.faint{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.faint{stroke-width:1;opacity:.28}
.line.s0,.faint.s0{stroke:var(--s0)}.line.s1,.faint.s1{stroke:var(--s1)}.line.s2,.faint.s2{stroke:var(--s2)}.line.s3,.faint.s3{stroke:var(--s3)}
.dot{stroke:var(--paper);stroke-width:1.5}
.dot.s0{fill:var(--s0)}.dot.s1{fill:var(--s1)}.dot.s2{fill:var(--s2)}.dot.s3{fill:var(--s3)}
.hover{fill:transparent}
.bar{fill:var(--bar)}.bar.worst{fill:var(--s1)}.bar:hover{opacity:.7}
.heat{fill:var(--s1)}.heat:hover{stroke:var(--ink)}.mark{fill:var(--ink);pointer-events:none}
.sizes{margin:1em 0}.sizes div{display:flex;align-items:center;gap:12px;margin:6px 0;font-size:.92rem;font-variant-numeric:tabular-nums}
.sizes span{width:70px;color:var(--soft);flex:none}.sizes i{display:block;height:16px;border-radius:0 4px 4px 0;background:var(--bar);min-width:2px}
.sizes i.new{background:var(--s0)}.sizes em{font-style:normal;white-space:nowrap}
.sample{margin:0 0 1em}.sample h3{margin:.8em 0 .2em}
ul{padding-left:1.2em}
details summary{cursor:pointer;color:var(--accent);font-size:.92rem;margin:.6em 0}
footer{margin-top:3.5em;padding-top:1em;border-top:1px solid var(--line);color:var(--soft);font-size:.85rem}
@media (max-width:560px){main{padding:24px 16px 40px}h1{font-size:1.4rem}.verdict{font-size:1.06rem}.tiles{grid-template-columns:1fr 1fr;gap:8px}
.tile{padding:10px 12px}.tile b{font-size:1.02rem}svg.wide{display:none}svg.narrow{display:block}.sizes span{width:52px}.se{display:block}
th,td{padding-right:8px}tbody th{white-space:normal}table{font-size:.86rem}tbody th,tfoot td,tfoot th{font-size:.86rem}}
@media print{body{background:#fff;font-size:10.5pt}main{max-width:none;padding:0}h1{font-size:17pt}h2{margin-top:1.6em;break-after:avoid}
h3,figcaption{break-after:avoid}.verdict{font-size:12.5pt}figure,.tile,tr,.sizes,.sample{break-inside:avoid}svg.wide{display:block}svg.narrow{display:none}
.tiles{grid-template-columns:repeat(4,1fr)}.tile b{font-size:11.5pt}.scroll{overflow:visible}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}.verdict{padding-left:12px}}
)css";

}  // namespace qad::report
