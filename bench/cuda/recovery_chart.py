"""The training curves of recovery.py's results as one SVG: KL to the teacher and cross-entropy against tokens.

    python3 bench/cuda/recovery_chart.py docs/results/smollm2-h200.json docs/results/smollm2-h200.svg
"""

import json, math, pathlib, sys

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 440, 300, 56, 30, 16, 44
COLOURS = ["#0b6e4f", "#1f77b4", "#6a3d9a", "#e07a1f", "#b22222"]


def panel(x0, title, key, runs, lines, low, high, ticks):
    points = [p for _, curve in runs for p in curve]
    first, last = (math.log10(f(p["tokens"] for p in points)) for f in (min, max))
    x = lambda tokens: x0 + LEFT + (math.log10(tokens) - first) / (last - first) * (WIDTH - LEFT - RIGHT)
    y = lambda v: TOP + (high - v) / (high - low) * (HEIGHT - TOP - BOTTOM)
    out = [f'<text x="{x0 + LEFT}" y="18" font-weight="600">{title}</text>']
    for v in ticks:
        out.append(f'<line x1="{x0 + LEFT}" x2="{x0 + WIDTH - RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="#ddd"/>'
                   f'<text x="{x0 + LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:g}</text>')
    for tokens, name in ((1e5, "0.1 M"), (1e6, "1 M"), (1e7, "10 M tokens")):
        if first <= math.log10(tokens) <= last + 0.02:
            out.append(f'<text x="{min(x(tokens), x0 + WIDTH - 40):.1f}" y="{HEIGHT - BOTTOM + 18}" '
                       f'text-anchor="middle">{name}</text>')
    for name, v in lines:
        out.append(f'<line x1="{x0 + LEFT}" x2="{x0 + WIDTH - RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="#555" '
                   f'stroke-dasharray="5 4"/><text x="{x0 + WIDTH - RIGHT}" y="{y(v) - 5:.1f}" text-anchor="end">{name}</text>')
    for (name, curve), colour in runs_coloured(runs):
        path = " ".join(f"{x(p['tokens']):.1f},{y(min(p[key], high)):.1f}" for p in curve if key in p)
        if path:
            out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"><title>{name}</title></polyline>')
    return out


def runs_coloured(runs):
    return zip(runs, COLOURS)


def main():
    found = json.loads(pathlib.Path(sys.argv[1]).read_text())["runs"]
    runs = [(name, r["runs"][0]["curve"]) for name, r in found.items()]
    first = next(iter(found.values()))["runs"][0]
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT + 24}" font-family="sans-serif" '
           f'font-size="12" fill="#222"><rect width="100%" height="100%" fill="#fff"/>']
    out += panel(0, "KL to the BF16 teacher, nats a token", "kl", runs, [("PTQ", first["ptq"]["kl"])], 0.05, 0.45,
                 (0.1, 0.2, 0.3, 0.4))
    out += panel(WIDTH, "cross-entropy, nats a token", "ce", runs,
                 [("PTQ", first["ptq"]["ce"]), ("BF16", first["teacher"]["ce"])], 1.1, 2.1, (1.2, 1.4, 1.6, 1.8, 2.0))
    for i, ((name, _), colour) in enumerate(runs_coloured(runs)):
        out.append(f'<rect x="{20 + 172 * i}" y="{HEIGHT + 4}" width="12" height="12" fill="{colour}"/>'
                   f'<text x="{38 + 172 * i}" y="{HEIGHT + 14}">{name}</text>')
    pathlib.Path(sys.argv[2]).write_text("\n".join(out) + "\n</svg>\n")


main()
