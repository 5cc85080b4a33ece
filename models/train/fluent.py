"""The unseen style: Fluent Emoji's drawings of our things, for evaluate.py alone. NEVER train on what this writes.

usage: python fluent.py --icons DIR/node_modules/@iconify-json/fluent-emoji-flat/icons.json --out DIR/fluent.npz
"""
import argparse
import json
import subprocess

import numpy as np

import things
from art import SIZE, STYLES, draw, fit


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--icons", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    with open(args.icons, encoding="utf-8") as file:
        icons = json.load(file)
    sprites, classes, missing = [], [], []
    for number, (word, _, labels) in enumerate(things.load()):
        for label in labels:
            name = label.lower().replace("’", "").replace(" ", "-").replace(".", "")
            icon = icons["icons"].get(name)
            if not icon:
                missing.append(label)
                continue
            width, height = icon.get("width", icons.get("width", 32)), icon.get("height", icons.get("height", 32))
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
            try:
                sprites.append(fit(draw(svg.encode(), SIZE, SIZE)))
            except (ValueError, subprocess.CalledProcessError):
                missing.append(label)
                continue
            classes.append(number)
    n = len(sprites)
    np.savez(args.out, sprites=np.stack(sprites), classes=np.array(classes), styles=np.full(n, len(STYLES)), colours=np.full(n, -1))
    print(f"{n} drawings of {len(set(classes))} words; missing: {', '.join(missing)}")


if __name__ == "__main__":
    main()
