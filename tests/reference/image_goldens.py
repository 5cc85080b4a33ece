"""Makes the pictures and goldens of core/image, with Pillow and the PIL processors of transformers.

Writes into tests/data/image/: the picture files, decode.safetensors (what each decodes to),
resize.{json,safetensors} (Image.resize for all filters), processor.{json,safetensors} (pixel values
of image processors, with the configuration that each was made from). Run it from anywhere:

    python tests/reference/image_goldens.py
"""

import io
import json
import os
import struct
import warnings
import zlib

import numpy as np
import PIL
import transformers
from PIL import Image, ImageOps
from safetensors.numpy import save_file
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

warnings.simplefilter("ignore")
OUT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "image"))
TOOLS = {"pillow": PIL.__version__, "transformers": transformers.__version__, "numpy": np.__version__}
rng = np.random.default_rng(20240229)


def draw(width, height, channels=3, grain=12):
    """Waves and edges with some grain: smooth parts, sharp parts, clipped parts."""
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for c in range(channels):
        wave = 128 + 140 * np.sin(x / (5 + 2 * c) + y / (9 - 2 * (c % 3)))
        wave[(x + 2 * y + 7 * c) % 23 < 6] = 255 * (c % 2)
        planes.append(wave)
    pixels = np.stack(planes, -1) + rng.normal(0, grain, (height, width, channels))
    return np.clip(pixels, 0, 255).astype(np.uint8)


# --- files ------------------------------------------------------------------------------------------

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_rows(samples, depth):
    """Filtered rows of samples [h, w, c]; every filter type in turn."""
    height, width, channels = samples.shape
    if not height or not width:
        return b""
    if depth == 16:
        rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    elif depth == 8:
        rows = samples.astype(np.uint8).reshape(height, -1)
    else:
        bits = (samples.reshape(height, width, 1) >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    step = max(1, channels * depth // 8)
    out = b""
    previous = np.zeros(rows.shape[1], np.int64)
    for y, row in enumerate(rows.astype(np.int64)):
        left = np.concatenate([np.zeros(step, np.int64), row[:-step] if len(row) > step else row[:0]])[: len(row)]
        corner = np.concatenate([np.zeros(step, np.int64), previous])[: len(row)]
        kind = y % 5
        p = left + previous - corner
        pa, pb, pc = abs(p - left), abs(p - previous), abs(p - corner)
        paeth = np.where((pa <= pb) & (pa <= pc), left, np.where(pb <= pc, previous, corner))
        guess = [0 * row, left, previous, (left + previous) // 2, paeth][kind]
        out += bytes([kind]) + ((row - guess) & 255).astype(np.uint8).tobytes()
        previous = row
    return out


def png(samples, depth, colour, interlaced=False, before=b"", after=b""):
    """A PNG with the given depth and colour type; `before` and `after` the data go other chunks."""
    height, width = samples.shape[:2]
    if interlaced:
        data = b"".join(png_rows(samples[y0::dy, x0::dx], depth) for x0, y0, dx, dy in ADAM7)
    else:
        data = png_rows(samples, depth)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    packed = zlib.compress(data, 9)
    cut = len(packed) // 3
    parts = chunk(b"IDAT", packed[:cut]) + chunk(b"IDAT", b"") + chunk(b"IDAT", packed[cut:])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + parts + after + chunk(b"IEND", b"")


def exif(orientation, big=False):
    order, mark = (">", b"MM\x00*") if big else ("<", b"II*\x00")
    entries = struct.pack(order + "HHII", 0x010E, 2, 4, 0x006D6F68) + struct.pack(
        order + "HHIHH", 0x0112, 3, 1, orientation, 0
    )
    return mark + struct.pack(order + "IH", 8, 2) + entries + struct.pack(order + "I", 0)


def xmp(orientation):
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="%d"/>'
        b"</rdf:RDF></x:xmpmeta>" % orientation
    )


def pillow(picture, format, **options):
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def files():
    """name → bytes. The ending is only for people: the decoder looks at the bytes."""
    made = {}
    rgb = Image.fromarray(draw(37, 29))
    small = Image.fromarray(draw(11, 7))
    rgba = Image.fromarray(draw(23, 17, 4), "RGBA")

    for name, options in {
        "444": dict(quality=90, subsampling=0),
        "422": dict(quality=75, subsampling=1),
        "420": dict(quality=60, subsampling=2),
        "420_progressive": dict(quality=80, subsampling=2, progressive=True),
        "444_progressive": dict(quality=95, subsampling=0, progressive=True),
        "restart": dict(quality=70, subsampling=2, restart_marker_blocks=2),
        "adobe_rgb": dict(quality=85, keep_rgb=True),
    }.items():
        made[f"jpeg_{name}.jpg"] = pillow(rgb, "JPEG", **options)
    made["jpeg_grey.jpg"] = pillow(rgb.convert("L"), "JPEG", quality=80)
    made["jpeg_grey_progressive.jpg"] = pillow(rgb.convert("L"), "JPEG", quality=80, progressive=True)
    made["jpeg_1x1.jpg"] = pillow(Image.fromarray(draw(1, 1)), "JPEG")
    made["jpeg_1x50.jpg"] = pillow(Image.fromarray(draw(1, 50)), "JPEG")
    cmyk = pillow(Image.fromarray(draw(37, 29, 4), "CMYK"), "JPEG", quality=85)
    made["jpeg_cmyk.jpg"] = cmyk
    adobe = cmyk.index(b"Adobe")
    made["jpeg_ycck.jpg"] = cmyk[: adobe + 11] + b"\x02" + cmyk[adobe + 12 :]
    for orientation in range(1, 9):
        made[f"jpeg_exif{orientation}.jpg"] = pillow(
            small, "JPEG", quality=90, exif=b"Exif\0\0" + exif(orientation, orientation % 2 == 0)
        )
    made["jpeg_exif_senseless.jpg"] = pillow(small, "JPEG", exif=b"Exif\0\0" + exif(9))
    made["jpeg_xmp6.jpg"] = pillow(small, "JPEG", xmp=xmp(6))
    made["jpeg_exif1_xmp6.jpg"] = pillow(small, "JPEG", xmp=xmp(6), exif=b"Exif\0\0" + exif(1))

    for depth in (1, 2, 4, 8, 16):
        grey = draw(19, 13, 1).astype(np.int64) * 257 >> (16 - depth)
        for interlaced in (False, True):
            made[f"png_grey{depth}{'_adam7' if interlaced else ''}.png"] = png(grey, depth, 0, interlaced)
    for depth in (1, 2, 4, 8):
        index = draw(19, 13, 1).astype(np.int64) >> (8 - depth)
        colours = chunk(b"PLTE", draw(min(1 << depth, 200), 1).tobytes())
        clear = chunk(b"tRNS", bytes(range(0, 256, 64))[: 1 << depth])
        for interlaced in (False, True):
            made[f"png_palette{depth}{'_adam7' if interlaced else ''}.png"] = png(
                index, depth, 3, interlaced, before=colours + (clear if interlaced else b"")
            )
    for name, colour, channels in (("rgb", 2, 3), ("grey_alpha", 4, 2), ("rgba", 6, 4)):
        for depth in (8, 16):
            wide = draw(19, 13, channels).astype(np.int64)
            wide = wide * 256 + rng.integers(0, 256, wide.shape) if depth == 16 else wide
            for interlaced in (False, True):
                made[f"png_{name}{depth}{'_adam7' if interlaced else ''}.png"] = png(wide, depth, colour, interlaced)
    three = draw(5, 3).astype(np.int64)
    for size in ((1, 1), (1, 9), (9, 1), (5, 3)):
        tiny = draw(*size).astype(np.int64)
        made[f"png_{size[0]}x{size[1]}_adam7.png"] = png(tiny, 8, 2, True)
    made["png_gamma.png"] = png(three, 8, 2, before=chunk(b"gAMA", struct.pack(">I", 22222)))
    made["png_transparent_colour.png"] = png(three, 8, 2, before=chunk(b"tRNS", struct.pack(">HHH", *three[1, 1])))
    made["png_exif6.png"] = png(three, 8, 2, before=chunk(b"eXIf", exif(6)))
    made["png_exif8_after.png"] = png(three, 8, 2, after=chunk(b"eXIf", exif(8, True)))
    text = b"\nexif\n      %d\n" % len(exif(5)) + (b"Exif\0\0" + exif(5)).hex().encode() + b"\n"
    made["png_raw_exif5.png"] = png(
        three, 8, 2, before=chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
    )
    made["png_raw_exif7.png"] = png(
        three, 8, 2, before=chunk(b"tEXt", b"Raw profile type exif\0" + text.replace(exif(5).hex().encode(), exif(7).hex().encode()))
    )
    made["png_xmp3.png"] = png(three, 8, 2, before=chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(3)))
    made["png_xmp4_packed.png"] = png(
        three, 8, 2, before=chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(4)))
    )
    made["png_animated.png"] = pillow(small, "PNG", save_all=True, append_images=[small.rotate(180), small])
    whole = png(three, 8, 2)
    made["png_no_end.png"] = whole[:-12]
    made["png_no_checksums.png"] = whole[:-20]
    at = whole.index(b"IEND") - 8
    made["png_wrong_data_crc.png"] = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]

    made["webp_lossy.webp"] = pillow(rgb, "WEBP", quality=60)
    made["webp_lossless.webp"] = pillow(small, "WEBP", lossless=True)
    made["webp_alpha.webp"] = pillow(rgba, "WEBP", quality=80)
    made["webp_alpha_lossless.webp"] = pillow(rgba, "WEBP", lossless=True, exact=True)
    made["webp_animated.webp"] = pillow(small, "WEBP", save_all=True, append_images=[small.rotate(180)], lossless=True)
    for orientation in (3, 6):
        made[f"webp_exif{orientation}.webp"] = pillow(small, "WEBP", exif=exif(orientation))
    made["webp_xmp8.webp"] = pillow(small, "WEBP", xmp=xmp(8))
    inner = made["webp_lossless.webp"][12:]
    # A first frame of 11 × 7 at (4, 2) of a canvas of 20 × 12.
    frame = struct.pack("<I", 2)[:3] + struct.pack("<I", 1)[:3] + struct.pack("<I", 10)[:3]
    frame += struct.pack("<I", 6)[:3] + struct.pack("<I", 100)[:3] + b"\0" + inner
    body = b"WEBPVP8X" + struct.pack("<II", 10, 2) + struct.pack("<I", 19)[:3] + struct.pack("<I", 11)[:3]
    body += b"ANIM" + struct.pack("<IIH", 6, 0xFF336699, 0) + b"ANMF" + struct.pack("<I", len(frame)) + frame
    made["webp_frame_inside.webp"] = b"RIFF" + struct.pack("<I", len(body)) + body
    return made


def decoded(data):
    picture = Image.open(io.BytesIO(data))
    if picture.mode.startswith("I"):  # 16-bit grey: Pillow's convert() would clip it
        grey = np.asarray(picture).astype(np.int64)
        return np.repeat(((2 * grey + 257) // 514)[:, :, None], 3, 2).astype(np.uint8)
    return np.array(ImageOps.exif_transpose(picture).convert("RGB"))


# --- resizing ---------------------------------------------------------------------------------------

FILTERS = ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
INPUTS = {"wide": (97, 41), "tall": (23, 101), "line": (1, 64), "row": (64, 1), "dot": (1, 1)}
TARGETS = {
    "wide": [(48, 20), (31, 17), (113, 47), (97, 13), (17, 41), (1, 1), (97, 41)],
    "tall": [(8, 35), (8, 71), (8, 72), (50, 120), (50, 60), (3, 200)],
    "line": [(1, 9), (5, 64), (7, 150)],
    "row": [(9, 1), (64, 5), (33, 6)],
    "dot": [(1, 1), (6, 3)],
}


def resizes(tensors):
    cases = []
    for name, (width, height) in INPUTS.items():
        source = draw(width, height, grain=30)
        tensors[name] = source
        for to_width, to_height in TARGETS[name]:
            for resample, kind in enumerate(FILTERS):
                key = f"{name}/{to_width}x{to_height}/{kind}"
                tensors[key] = np.array(Image.fromarray(source).resize((to_width, to_height), resample))
                cases.append({"name": key, "input": name, "width": to_width, "height": to_height, "resample": resample})
    return cases


# --- processors -------------------------------------------------------------------------------------

CLASSES = {"clip": CLIPImageProcessorPil, "blip": BlipImageProcessorPil, "vilt": ViltImageProcessorPil}
CONFIGS = [
    ("clip", {"size": 32, "crop_size": 32}),
    ("clip", {"size": {"shortest_edge": 30}, "crop_size": {"height": 24, "width": 28}, "resample": 1}),
    ("clip", {"size": {"shortest_edge": 20}, "crop_size": {"height": 33, "width": 27}, "do_convert_rgb": False}),
    ("clip", {"size": {"shortest_edge": 19}, "crop_size": 19, "resample": 2, "do_normalize": False}),
    ("clip", {"size": [21, 35], "do_center_crop": False, "do_rescale": False, "image_mean": [127.5, 120, 110.25], "image_std": [60, 61.5, 62]}),
    ("clip", {"do_resize": False, "crop_size": [25, 18], "rescale_factor": 0.0078431372549, "image_mean": 0.5, "image_std": 0.25}),
    ("clip", {"do_resize": False, "do_center_crop": False, "resample": None}),
    ("clip", {"size": {"shortest_edge": 40, "longest_edge": 50}, "do_center_crop": False}),
    ("clip", {"size": {"shortest_edge": 24, "longest_edge": 31}, "do_center_crop": False, "do_pad": True, "pad_size": {"height": 40, "width": 45}}),
    ("blip", {"size": {"height": 30, "width": 26}}),
    ("blip", {"size": 24, "resample": 0}),
    ("vilt", {"size": {"shortest_edge": 32}, "size_divisor": 16, "do_pad": False}),
    ("vilt", {"size": 48, "do_pad": False}),
]
PICTURES = {"wide": (61, 35), "tall": (30, 47), "square": (24, 24), "narrow": (9, 70)}


def processors(tensors):
    cases = []
    for name, (width, height) in PICTURES.items():
        tensors[name] = draw(width, height, grain=30)
    for number, (kind, config) in enumerate(CONFIGS):
        processor = CLASSES[kind](**config)
        for name in PICTURES:
            key = f"{number}/{name}"
            try:
                # return_tensors is left out so that what is not a float stays as it is
                pixels = processor(Image.fromarray(tensors[name]), do_convert_rgb=True)["pixel_values"][0]
            except ValueError as error:
                cases.append({"name": key, "class": kind, "config": config, "input": name, "error": str(error)[:60]})
                continue
            # save_file writes the memory as it lies: C order is needed
            tensors[key] = np.ascontiguousarray(np.asarray(pixels).astype(np.float32))
            cases.append({"name": key, "class": kind, "config": config, "input": name})
    full = CLIPImageProcessorPil()
    pixels = full(Image.fromarray(tensors["wide"]))["pixel_values"][0]
    tensors["clip224"] = np.ascontiguousarray(np.asarray(pixels).astype(np.float32))
    cases.append({"name": "clip224", "class": "clip", "config": {}, "input": "wide"})
    return cases


# --- OWLv2's resizing -------------------------------------------------------------------------------

ZOOM_CONFIGS = [
    {"size": {"height": 20, "width": 20}},
    {"size": {"height": 64, "width": 64}},
    {"size": {"height": 7, "width": 7}, "resample": 0},
    {"size": {"height": 9, "width": 31}, "do_pad": False, "do_normalize": False},
    {"size": {"height": 2, "width": 4}},
    {"do_resize": False},
]
ZOOM_PICTURES = {"wide": (61, 35), "narrow": (9, 70), "long": (150, 2), "pair": (2, 1), "dot": (1, 1)}


def zooms(tensors):
    cases = []
    for name, (width, height) in ZOOM_PICTURES.items():
        tensors[name] = draw(width, height, grain=30)
    for number, config in enumerate(ZOOM_CONFIGS):
        for name in ZOOM_PICTURES:
            pixels = Owlv2ImageProcessorPil(**config)(Image.fromarray(tensors[name]))["pixel_values"][0]
            key = f"{number}/{name}"
            tensors[key] = np.ascontiguousarray(np.asarray(pixels).astype(np.float32))
            cases.append({"name": key, "class": "owlv2", "config": config, "input": name})
    return cases


def write(name, cases, tensors):
    path = os.path.join(OUT, name + ".safetensors")
    save_file(tensors, path)
    os.chmod(path, 0o644)
    head = {"command": "python tests/reference/image_goldens.py", "tools": TOOLS, "cases": cases}
    with open(os.path.join(OUT, name + ".json"), "w", encoding="utf-8") as out:
        json.dump(head, out, indent=1)
        out.write("\n")
    print(name, len(cases), "cases")


def main():
    os.makedirs(OUT, exist_ok=True)
    tensors, cases = {}, []
    for name, data in files().items():
        with open(os.path.join(OUT, name), "wb") as out:
            out.write(data)
        tensors[name] = decoded(data)
        cases.append(name)
    write("decode", cases, tensors)
    tensors = {}
    write("resize", resizes(tensors), tensors)
    tensors = {}
    write("processor", processors(tensors), tensors)
    tensors = {}
    write("zoom", zooms(tensors), tensors)


if __name__ == "__main__":
    main()
