"""Draws the few small pictures that all goldens use, and writes their decoded pixels as a golden.

The drawing is by rule and seeded; encoders differ between library versions, so the files themselves
are checked in and this is not run again unless a picture is added.
"""

import os

import numpy as np
import torch
from common import IMAGES, PICTURES, Golden, open_rgb
from PIL import Image, ImageDraw

EXTRA = ["palette_40x30.png", "exif6_60x90.jpg", "grey16_31x17.png", "cmyk_48x32.jpg"]


def draw(width, height, seed):
    """A smooth background with a few crisp shapes and some grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    phase = rng.uniform(0, 6.28, 6)
    rate = rng.uniform(0.02, 0.12, 6)
    planes = [
        127 + 90 * np.sin(rate[c] * x + phase[c]) * np.cos(rate[c + 3] * y + phase[c + 3]) for c in range(3)
    ]
    pixels = np.stack(planes, -1) + rng.normal(0, 6, (height, width, 3))
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGB")
    pen = ImageDraw.Draw(picture)
    for _ in range(5):
        cx, cy = rng.integers(0, width), rng.integers(0, height)
        r = int(rng.integers(max(2, min(width, height) // 10), max(3, min(width, height) // 3)))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        shape = rng.integers(0, 3)
        if shape == 0:
            pen.ellipse([cx - r, cy - r, cx + r, cy + r], fill=colour)
        elif shape == 1:
            pen.rectangle([cx - r, cy - r, cx + r, cy + r], fill=colour)
        else:
            pen.polygon([(cx - r, cy + r), (cx + r, cy + r), (cx, cy - r)], fill=colour)
    return picture


def main():
    os.makedirs(IMAGES, exist_ok=True)

    def to(name):
        return os.path.join(IMAGES, name)

    draw(97, 61, 1).save(to("photo_97x61.jpg"), quality=92, subsampling=0)
    draw(33, 120, 2).save(to("tall_33x120.png"))
    draw(200, 150, 3).save(to("wide_200x150.jpg"), quality=85, subsampling=2, progressive=True)
    draw(64, 48, 4).convert("L").save(to("grey_64x48.jpg"), quality=90)
    rgba = draw(50, 70, 5).convert("RGBA")
    rgba.putalpha(draw(50, 70, 6).convert("L"))
    rgba.save(to("alpha_50x70.png"))
    palette = draw(40, 30, 7).quantize(31)
    palette.save(to("palette_40x30.png"), transparency=3)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the stored rows are the upright picture's columns
    draw(60, 90, 8).transpose(Image.Transpose.ROTATE_90).save(
        to("exif6_60x90.jpg"), quality=92, subsampling=0, exif=exif
    )
    deep = np.asarray(draw(31, 17, 9).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(to("grey16_31x17.png"))
    draw(48, 32, 10).convert("CMYK").save(to("cmyk_48x32.jpg"), quality=92)

    golden = Golden("pictures", seed="per picture")
    del golden.head["checkpoint"]
    for name in PICTURES + EXTRA:
        with Image.open(to(name)) as raw:
            mode = raw.mode
        if name.startswith("grey16"):
            # Pillow's own convert() clips 16 bits at 255; the design asks for scaling: value / 257, rounded.
            level = torch.from_numpy(np.asarray(Image.open(to(name))).astype(np.float64))
            plane = torch.round(level / 257).to(torch.uint8)
            pixels = plane[:, :, None].repeat(1, 1, 3)
        else:
            pixels = torch.from_numpy(np.asarray(open_rgb(name)).copy())
        golden.case(name, {"rgb": pixels}, picture=name, mode=mode, height=pixels.shape[0], width=pixels.shape[1])
    golden.write()


if __name__ == "__main__":
    main()
