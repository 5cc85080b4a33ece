"""peers_report.py: what `./dev bench --peers` measured (peers.json), as tables in Markdown and as a plot in SVG.

    python3 tests/bench/peers_report.py FOLDER     FOLDER/peers.json to FOLDER/peers.svg; prints the tables

peers.json:
    {"chip": NAME, "threads": N, "versions": {PACKAGE: VERSION},
     "limits": {"f32"|"bf16"|"int8": {"unit", "all", "one"}, "reads": {"all", "one"}},     GFLOP/s, GB/s
     "rows": {"SUITE:BATCH:all"|"SUITE:BATCH:one": {PROGRAM AND DTYPE: ms for an item}}}
"all" is all threads by the clock, "one" one core in processor time. Rows that were not measured are left out; a program
that did not take part in one is a dash in the tables.
"""

import json
import os
import sys
import textwrap
from xml.sax.saxutils import escape

WITH_ONNX = ["PyTorch f32", "PyTorch bf16", "ONNX Runtime f32", "ONNX Runtime int8", "vlmd f32", "vlmd bf16", "vlmd int8"]
WITHOUT = [name for name in WITH_ONNX if "ONNX" not in name]
BLIP_RATIOS = [("vlmd f32", "PyTorch f32"), ("vlmd bf16", "PyTorch f32"), ("vlmd bf16", "PyTorch bf16"), ("vlmd int8", "PyTorch f32")]

# name: title, batches, who takes part, what is divided by what
SUITES = {
    "clip-b32": ("CLIP ViT-B/32, pictures/s", [1, 8, 32], WITH_ONNX,
                 [("vlmd f32", "ONNX Runtime f32"), ("vlmd bf16", "ONNX Runtime f32"), ("vlmd bf16", "PyTorch bf16"),
                  ("vlmd int8", "ONNX Runtime int8")]),
    "blip-vision": ("BLIP-base vision, 384 × 384, pictures/s", [1, 4], WITHOUT, BLIP_RATIOS),
    "blip-caption": ("BLIP-base, picture to 20 tokens, captions/s", [1, 4], WITHOUT, BLIP_RATIOS),
}
CLIP_GFLOP = 8.8  # of one picture's pass: products and attention


def rate(results, suite, batch, threads, program):
    """Items per second, or None where that was not measured."""
    ms = results["rows"].get(f"{suite}:{batch}:{threads}", {}).get(program)
    return 1000 / ms if ms else None


def short(value):
    """Three digits that count."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def table(head, lines):
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])


def threads_told(results):
    return {"all": f"{results['threads']} threads", "one": "one core"}


def suite_table(results, suite):
    title, batches, programs, ratios = SUITES[suite]
    columns = [(t, b) for t in ("all", "one") for b in batches if f"{suite}:{b}:{t}" in results["rows"]]
    lines = [[name] + [short(rate(results, suite, b, t, name)) for t, b in columns] for name in programs]
    for ours, peer in ratios:
        quotients = []
        for threads, batch in columns:
            a, b = (rate(results, suite, batch, threads, name) for name in (ours, peer))
            quotients.append(f"**{short(a / b)}**" if a and b else "–")
        lines.append([f"{ours} : {peer}"] + quotients)
    told, head = threads_told(results), [title]
    for i, (threads, batch) in enumerate(columns):
        first = i == 0 or columns[i - 1][0] != threads
        head.append(f"{told[threads]}, batch {batch}" if first else str(batch))
    return table(head, lines)


def limits_table(results):
    limits, told = results["limits"], threads_told(results)
    forms = [form for form in ("f32", "bf16", "int8") if form in limits]
    head = ["the chip's limits"] + [f"{form} ({limits[form]['unit']})" for form in forms] + ["reads, 256 MB"]
    lines = []
    for threads in ("all", "one"):
        cells = [f"{limits[form][threads]:.0f}" for form in forms] + [f"{limits['reads'][threads]:.1f} GB/s"]
        lines.append([f"{told[threads]}, 10⁹ operations/s"] + cells)
    most = [short(limits[form]["all"] / CLIP_GFLOP) for form in forms]
    lines.append([f"CLIP ViT-B/32 pictures/s of {CLIP_GFLOP} GFLOP at most, {told['all']}"] + most + [""])
    return table(head, lines)


def told_versions(results):
    names = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "transformers": "transformers"}
    return ", ".join(f"{told} {results['versions'][name]}" for name, told in names.items() if name in results["versions"])


def markdown(results):
    head = (f"{results['chip']}; {told_versions(results)}; the same random weights of the public sizes, all figures of a column in one run, the best of the "
            "rounds; ONNX Runtime's int8 is its dynamic quantisation, a scale per channel. "
            f"{threads_told(results)['all'].capitalize()} by the clock, one core in processor time.")
    measured = [suite for suite in SUITES if any(row.startswith(suite + ":") for row in results["rows"])]
    return "\n\n".join([textwrap.fill(head, 128), limits_table(results)] + [suite_table(results, suite) for suite in measured]) + "\n"


# ---- the plot -----------------------------------------------------------------------------------------------------

BAR, GAP, BLOCK_GAP, LEFT, PANEL, MARGIN = 15, 4, 58, 128, 226, 16
STYLE = """
    .paper { fill: #ffffff; } text { font: 12px system-ui, sans-serif; fill: #1f2328; }
    .title { font-weight: 600; font-size: 14px; } .small { font-size: 11px; fill: #59636e; }
    .pytorch { fill: #c3c9d0; } .onnx { fill: #8695a8; } .vlmd { fill: #1f78b4; }
    @media (prefers-color-scheme: dark) {
      .paper { fill: #0d1117; } text { fill: #e6edf3; } .small { fill: #9198a1; }
      .pytorch { fill: #4d5661; } .onnx { fill: #76859a; } .vlmd { fill: #58a6e8; }
    }
"""


def bars(results, suite, batch, programs, x, y):
    """One panel: a bar for each program, its rate beside it; the panel's longest bar has the whole width."""
    rates = [rate(results, suite, batch, "all", name) for name in programs]
    longest = max((value for value in rates if value), default=1)
    for name, value in zip(programs, rates):
        if value:
            width, kind = (PANEL - 62) * value / longest, name.split()[0].lower()
            yield f'<rect class="{kind}" x="{x}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>'
            yield f'<text x="{x + width + 5:.1f}" y="{y + BAR - 3}">{short(value)}</text>'
        y += BAR + GAP


def svg(results):
    """Readable on light and dark pages: it brings its own paper, which follows the reader's preference."""
    parts, y = [], MARGIN + 14
    for suite, (title, batches, programs, _) in SUITES.items():
        if not any(f"{suite}:{batch}:all" in results["rows"] for batch in batches):
            continue
        parts.append(f'<text class="title" x="{MARGIN}" y="{y}">{escape(title)}</text>')
        for column, batch in enumerate(batches):
            x = MARGIN + LEFT + column * PANEL
            parts.append(f'<text class="small" x="{x}" y="{y + 20}">batch {batch}</text>')
            parts.extend(bars(results, suite, batch, programs, x, y + 27))
        for i, name in enumerate(programs):
            at = y + 27 + i * (BAR + GAP) + BAR - 3
            parts.append(f'<text x="{MARGIN + LEFT - 8}" y="{at}" text-anchor="end">{escape(name)}</text>')
        y += 27 + len(programs) * (BAR + GAP) + BLOCK_GAP - 27
    width, height = 2 * MARGIN + LEFT + 3 * PANEL, y + 14
    for line in (f"{results['chip']}, {threads_told(results)['all']}; {told_versions(results)}.",
                 "Longer is faster; each panel has a scale of its own; f32, bf16, int8: what the layers compute in."):
        parts.append(f'<text class="small" x="{MARGIN}" y="{y - 14}">{escape(line)}</text>')
        y += 16
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
            f'aria-label="vlmd beside PyTorch and ONNX Runtime">\n<style>{STYLE}</style>\n'
            f'<rect class="paper" width="{width}" height="{height}" rx="8"/>')
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def write(folder, results):
    """peers.json and peers.svg; returns the tables."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "peers.json"), "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1, ensure_ascii=False)
        file.write("\n")
    with open(os.path.join(folder, "peers.svg"), "w", encoding="utf-8") as file:
        file.write(svg(results))
    return markdown(results)


def read(folder):
    with open(os.path.join(folder, "peers.json"), encoding="utf-8") as file:
        return json.load(file)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: peers_report.py FOLDER")
    print(write(sys.argv[1], read(sys.argv[1])), end="")
