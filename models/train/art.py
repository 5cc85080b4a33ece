"""Rasterises the drawings once: npm packages -> one .npz of RGBA sprites.

usage: python art.py --packages DIR/node_modules --out sprites.npz

The folder must hold openmoji, @twemoji/svg, @svgmoji/noto and emojibase-data (see README.md).
Fluent Emoji is never read here: it is kept as the test of a style that was never seen.
"""
import argparse
import io
import json
import os
import subprocess
from xml.etree import ElementTree

import numpy as np
from PIL import Image

import things

STYLES = ["openmoji", "twemoji", "noto"]
SIZE = 128


def noto_drawings(path):
    """{code point name without FE0F: svg text} from the sprite sheet of @svgmoji/noto."""
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    return {e.get("id").replace("-FE0F", ""): ElementTree.tostring(e, encoding="unicode")
            for e in ElementTree.parse(path).getroot() if e.get("id")}


def rasterise(svg):
    png = subprocess.run(["rsvg-convert", "-w", str(SIZE), "-h", str(SIZE), "-a"], input=svg.encode(),
                         capture_output=True, check=True).stdout
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    box = picture.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox()
    if not box:
        raise ValueError("nothing is drawn")
    picture = picture.crop(box)
    scale = SIZE / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.BICUBIC)
    square = Image.new("RGBA", (SIZE, SIZE))
    square.paste(picture, ((SIZE - picture.width) // 2, (SIZE - picture.height) // 2))
    return np.asarray(square)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--packages", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    code = {e["label"]: e["hexcode"].replace("-FE0F", "") for e in
            json.load(open(os.path.join(args.packages, "emojibase-data/en/data.json"), encoding="utf-8"))}
    noto = noto_drawings(os.path.join(args.packages, "@svgmoji/noto/sprites/all.svg"))

    def source(style, hexcode):
        if style == "noto":
            return noto.get(hexcode)
        for name in (hexcode, hexcode + "-FE0F"):
            path = os.path.join(args.packages, "openmoji/color/svg", name + ".svg") if style == "openmoji" else \
                os.path.join(args.packages, "@twemoji/svg", name.lower() + ".svg")
            if os.path.exists(path):
                return open(path, encoding="utf-8").read()
        return None

    sprites, classes, styles, colours, missing = [], [], [], [], []
    names = list(things.COLOURS)
    for number, (word, _, labels) in enumerate(things.load()):
        for label in labels:
            first = label.split()[0]
            colour = names.index(first) if first in names and word in ("heart", "book", "apple") else -1
            for style_number, style in enumerate(STYLES):
                svg = source(style, code[label]) if label in code else None
                try:
                    if svg is None:
                        raise ValueError("no drawing")
                    sprites.append(rasterise(svg))
                except (ValueError, subprocess.CalledProcessError) as e:
                    missing.append(f"{style}:{label} ({getattr(e, 'stderr', e)})")
                    continue
                classes.append(number)
                styles.append(style_number)
                colours.append(colour)
    np.savez(args.out, sprites=np.stack(sprites), classes=np.array(classes), styles=np.array(styles),
             colours=np.array(colours))
    print(f"{len(sprites)} sprites of {len(things.load())} words; missing: {', '.join(missing) or 'none'}")


if __name__ == "__main__":
    main()
