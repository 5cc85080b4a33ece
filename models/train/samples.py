"""Composes the sample pictures in models/samples: twemoji and noto art only, seeds never trained on.

usage: python samples.py --sprites sprites.npz --to models/samples

Each is laid out by hand (which thing, where, how large, on what), at 128 to 640 pixels.
"""
import argparse
import os

import numpy as np
from PIL import Image

import things
from art import STYLES
from scenes import FIRST_SHAPE, WORDS, Composer

# name, size, kind, background (two colours: from the top down), [(word, style, x, y, side)] in units of the picture's side; colour for shapes
SAMPLES = [
    ("a-dog", 320, "jpg", "white", [("dog", "twemoji", .5, .5, .62)]),
    ("two-cats-left-of-a-pizza", 512, "png", "blue", [("cat", "twemoji", .2, .28, .3), ("cat", "twemoji", .24, .72, .3), ("pizza", "noto", .74, .5, .38)]),
    ("an-elephant-above-a-car", 640, "jpg", "yellow", [("elephant", "noto", .5, .27, .42), ("car", "twemoji", .5, .76, .38)]),
    ("three-strawberries-and-a-banana", 256, "png", "white", [("strawberry", "twemoji", .2, .25, .27), ("strawberry", "twemoji", .25, .74, .27), ("strawberry", "twemoji", .55, .3, .27), ("banana", "noto", .77, .7, .33)]),
    ("a-red-circle-right-of-a-green-triangle", 128, "png", "gray", [("triangle", "green", .26, .5, .36), ("circle", "red", .74, .5, .36)]),
    ("a-guitar-and-a-trumpet", 400, "jpg", "purple", [("guitar", "twemoji", .28, .4, .44), ("trumpet", "noto", .72, .62, .42)]),
    ("a-rocket-below-the-moon", 384, "png", "black", [("moon", "noto", .5, .24, .3), ("rocket", "twemoji", .5, .7, .42)]),
    ("a-butterfly-and-two-tulips", 480, "jpg", "pink", [("butterfly", "noto", .5, .25, .33), ("tulip", "twemoji", .25, .72, .34), ("tulip", "twemoji", .72, .72, .34)]),
    ("a-bus-two-cars-and-a-bicycle", 480, "jpg", ("blue", "white"), [("bus", "noto", .29, .29, .38), ("car", "twemoji", .74, .25, .3), ("car", "noto", .28, .75, .32), ("bicycle", "twemoji", .73, .74, .34)]),
    ("a-cat-a-dog-and-a-rabbit", 256, "jpg", ("green", "yellow"), [("cat", "noto", .24, .3, .36), ("dog", "twemoji", .74, .33, .36), ("rabbit", "noto", .48, .76, .36)]),
    ("two-apples-a-pear-a-lemon-and-a-pineapple", 512, "jpg", "white", [("apple", "twemoji", .2, .24, .27), ("apple", "noto", .24, .74, .27), ("pear", "noto", .5, .48, .3), ("lemon", "twemoji", .78, .25, .28), ("pineapple", "noto", .78, .72, .34)]),
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--to", required=True)
    args = parser.parse_args()
    os.makedirs(args.to, exist_ok=True)
    composer = Composer(args.sprites)
    for name, size, kind, back, laid in SAMPLES:
        top, bottom = (np.array(things.COLOURS[c], np.float32) for c in (back if isinstance(back, tuple) else (back, back)))
        slope = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
        canvas = Image.fromarray(np.broadcast_to(top + (bottom - top) * slope, (size, size, 3)).round().astype(np.uint8))
        for word, style, x, y, side in laid:
            cls, n = WORDS.index(word), round(side * size)
            if cls >= FIRST_SHAPE:
                mask = composer.shapes[cls - FIRST_SHAPE][128].getchannel("A").resize((n, n), Image.BICUBIC)
                drawn = Image.new("RGB", (n, n), things.COLOURS[style])
            else:
                sprite = next(k for k in composer.of_class[cls] if STYLES[composer.style[k]] == style)
                drawn = composer.mips[sprite][128]
                flat = np.asarray(drawn, np.float32)           # premultiplied: back to plain colours
                alpha = np.maximum(flat[..., 3:], 1)
                drawn = Image.fromarray(np.concatenate([np.minimum(flat[..., :3] * 255 / alpha, 255), flat[..., 3:]], 2).astype(np.uint8))
                drawn = drawn.resize((n, n), Image.BICUBIC)
                mask = drawn.getchannel("A")
            canvas.paste(drawn.convert("RGB"), (round(x * size - n / 2), round(y * size - n / 2)), mask)
        path = os.path.join(args.to, f"{name}.{kind}")
        canvas.save(path, **({"quality": 90} if kind == "jpg" else {"optimize": True}))


if __name__ == "__main__":
    main()
