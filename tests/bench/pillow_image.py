"""Pillow's times for what bench_image measures, on the same file (bench_image --save FILE makes one).

    python tests/bench/pillow_image.py FILE [REPEATS]
"""

import io
import sys
import time

import numpy as np
import PIL
from PIL import Image, ImageOps

MEAN = np.array([0.48, 0.46, 0.41], np.float32)
STD = np.array([0.27, 0.26, 0.28], np.float32)


def decode(data):
    picture = Image.open(io.BytesIO(data))
    return ImageOps.exif_transpose(picture).convert("RGB")


def decode_only(data):
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def normalise(pixels):
    scaled = (pixels.astype(np.float64) / 255).astype(np.float32)
    return np.ascontiguousarray(((scaled - MEAN) / STD).transpose(2, 0, 1))


def main():
    with open(sys.argv[1], "rb") as source:
        data = source.read()
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 20

    def best(what):
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            result = what()
            times.append(time.perf_counter() - start)
        return min(times) * 1e3, result

    upright = best(lambda: decode(data))
    plain, picture = best(lambda: decode_only(data))
    short = min(picture.size)
    size = tuple(224 if edge == short else int(224 * edge / short) for edge in picture.size)
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    print(f"Pillow {PIL.__version__}, {picture.size[0]} x {picture.size[1]}; ms a picture, best of {repeats}")
    print(f"  decode                    {plain:8.3f}   (with exif_transpose: {upright[0]:.3f})")
    for name in ("BILINEAR", "BICUBIC", "LANCZOS"):
        ms, resized = best(lambda: picture.resize(size, Image.Resampling[name]))
        print(f"  resize {name.lower():10} {ms:15.3f}")
        if name == "BICUBIC":
            bicubic, kept = ms, resized.crop((left, top, left + 224, top + 224))
    ms, _ = best(lambda: normalise(np.asarray(kept)))
    print(f"  rescale and normalise     {ms:8.3f}")
    print(f"  decode to pixel tensor    {plain + bicubic + ms:8.3f}")


if __name__ == "__main__":
    main()
