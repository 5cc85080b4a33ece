"""Rasterises the art once: npm packages and Debian's stamps -> one .npz of RGBA sprites, and its wallpapers.

usage: python art.py --packages DIR/node_modules [--share /usr/share] --out DIR
Writes DIR/sprites.npz and, with --share, DIR/photos.npz.

The first folder must hold openmoji, @twemoji/svg, @svgmoji/noto and emojibase-data; --share is where the Debian packages
of stamps.txt and wallpapers.txt lie (see README.md; without it there are no stamps and no photographs behind the things).
Fluent Emoji is never read here: it is kept as the test of a style that was never seen (see fluent.py).
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

STYLES = ["openmoji", "twemoji", "noto", "stamp"]
SIZE = 128
PHOTO = (320, 200)
HERE = os.path.dirname(os.path.abspath(__file__))


def noto_drawings(path):
    """{code point name without FE0F: svg text} from the sprite sheet of @svgmoji/noto."""
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    return {e.get("id").replace("-FE0F", ""): ElementTree.tostring(e, encoding="unicode")
            for e in ElementTree.parse(path).getroot() if e.get("id")}


def draw(svg, width, height):
    png = subprocess.run(["rsvg-convert", "-w", str(width), "-h", str(height), "-a"], input=svg, capture_output=True, check=True).stdout
    return Image.open(io.BytesIO(png))


def read(path, width, height):
    if path.endswith(".svg"):
        return draw(open(path, "rb").read(), width, height)
    return Image.open(path)


def fit(picture):
    """The picture without its clear rim, as large as fits into SIZE x SIZE."""
    picture = picture.convert("RGBA")
    box = picture.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox()
    if not box:
        raise ValueError("nothing is drawn")
    picture = picture.crop(box)
    scale = SIZE / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.BICUBIC)
    square = Image.new("RGBA", (SIZE, SIZE))
    square.paste(picture, ((SIZE - picture.width) // 2, (SIZE - picture.height) // 2))
    return np.asarray(square)


def lines(name):
    return [line.strip() for line in open(os.path.join(HERE, name), encoding="utf-8") if line.strip() and line[0] != "#"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--packages", required=True)
    parser.add_argument("--share")
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
            for style_number, style in enumerate(STYLES[:3]):
                svg = source(style, code[label]) if label in code else None
                try:
                    if svg is None:
                        raise ValueError("no drawing")
                    sprites.append(fit(draw(svg.encode(), SIZE, SIZE)))
                except (ValueError, subprocess.CalledProcessError) as e:
                    missing.append(f"{style}:{label} ({getattr(e, 'stderr', e)})")
                    continue
                classes.append(number)
                styles.append(style_number)
                colours.append(colour)
    if args.share:
        words = [word for word, _, _ in things.load()]
        for line in lines("stamps.txt"):
            word, _, files = line.partition(" = ")
            for file in files.split():
                if word in words:
                    sprites.append(fit(read(os.path.join(args.share, "tuxpaint/stamps", file), SIZE, SIZE)))
                    classes.append(words.index(word))
                    styles.append(STYLES.index("stamp"))
                    colours.append(-1)
        photos = [read(os.path.join(args.share, file), *PHOTO).convert("RGB").resize(PHOTO, Image.BICUBIC) for file in lines("wallpapers.txt")]
        np.savez(os.path.join(args.out, "photos.npz"), photos=np.stack([np.asarray(photo) for photo in photos]))
    np.savez(os.path.join(args.out, "sprites.npz"), sprites=np.stack(sprites), classes=np.array(classes), styles=np.array(styles),
             colours=np.array(colours))
    print(f"{len(sprites)} sprites of {len(things.load())} words; missing: {', '.join(missing) or 'none'}")


if __name__ == "__main__":
    main()
