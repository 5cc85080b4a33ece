"""Icon sets of npm's @iconify-json as sprites: further drawing styles to train with.

usage: python icons.py --icons DIR/node_modules/@iconify-json/{emojione,noto-v1,...}/icons.json --out DIR/more.npz
An icon is taken for a thing where its name is one of the thing's labels. fluent.py reads the unseen style in the same way.
"""
import argparse
import json
import subprocess

import numpy as np

import things
from art import SIZE, STYLES, draw, fit

SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{} {} {} {}">{}</svg>'


# What an eye found to be something else: a flag, a musical keyboard, a program's window, a road sign; or all black.
LEFT_OUT = {("streamline-emojis", "turkey"), ("fxemoji", "keyboard"), ("emojione-v1", "keyboard"), ("fxemoji", "window"),
            ("emojione-v1", "window"), ("emojione-v1", "shield"), ("fxemoji", "tram car")}


def plain(name):
    return "".join(c for c in name.lower() if c.isalnum())


def read(path):
    """What a set draws of our things: [(class number, RGBA sprite)], and the labels that it lacks."""
    with open(path, encoding="utf-8") as file:
        icons = json.load(file)
    named = {plain(name): icon for name, icon in icons["icons"].items()}
    for name, alias in icons.get("aliases", {}).items():
        if set(alias) == {"parent"} and alias["parent"] in icons["icons"]:
            named.setdefault(plain(name), icons["icons"][alias["parent"]])
    found, missing = [], []
    for number, (_, _, labels) in enumerate(things.load()):
        for label in labels:
            icon = named.get(plain(label))
            try:
                if not icon or (icons["prefix"], label) in LEFT_OUT:
                    raise ValueError("no drawing")
                left, top, width, height = (icon.get(key, icons.get(key, usual)) for key, usual in
                                            (("left", 0), ("top", 0), ("width", 16), ("height", 16)))
                found.append((number, fit(draw(SVG.format(left, top, width, height, icon["body"]).encode(), SIZE, SIZE))))
            except (ValueError, subprocess.CalledProcessError):
                missing.append(label)
    return found, missing


def write(path, sets):
    """sets: [[(class number, sprite)]], a style each, numbered after those of art.py."""
    sprites = [(number, sprite, style) for style, found in enumerate(sets, len(STYLES)) for number, sprite in found]
    classes, drawings, styles = zip(*sprites)
    np.savez(path, sprites=np.stack(drawings), classes=np.array(classes), styles=np.array(styles), colours=np.full(len(sprites), -1))
    print(f"{len(sprites)} drawings of {len(set(classes))} words")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--icons", required=True, nargs="+")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    if any("fluent" in path for path in args.icons):
        parser.error("Fluent Emoji is the unseen style: it is never trained on")
    sets = []
    for path in args.icons:
        found, missing = read(path)
        print(f"{path}: {len(found)} drawings; missing: {', '.join(missing)}")
        sets.append(found)
    write(args.out, sets)


if __name__ == "__main__":
    main()
