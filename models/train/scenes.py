"""Composes scenes: drawings and plain shapes on plain, gradient and textured backgrounds.

A scene knows what it shows (things with class, colour and box), so that labels for each patch,
captions, questions and answers can be made from it. All randomness comes from the one generator
that the caller hands over: the same seed gives the same scene.

Units: pixels of a 128 x 128 picture, x to the right, y downwards; a patch is 16 x 16 pixels.
"""
import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

import things

SIZE = 128
PATCH = 16
GRID = SIZE // PATCH
WORDS = [word for word, _, _ in things.load()]
CATEGORY = [category for _, category, _ in things.load()]
COLOURS = list(things.COLOURS)
N_CLASSES = len(WORDS)
BACKGROUND = N_CLASSES          # the patch label of "no thing here"
NOBODY = 255
FIRST_SHAPE = N_CLASSES - len(things.SHAPES)


@dataclass
class Thing:
    cls: int
    colour: int                 # number in COLOURS, -1: the colour is not asked about
    box: tuple                  # xmin, ymin, xmax, ymax
    style: int                  # number in art.STYLES, -1 for shapes

    @property
    def x(self):
        return (self.box[0] + self.box[2]) / 2

    @property
    def y(self):
        return (self.box[1] + self.box[3]) / 2


@dataclass
class Scene:
    pixels: np.ndarray          # uint8 [128, 128, 3]
    owner: np.ndarray           # uint8 [128, 128]: number of the thing seen there, NOBODY: background
    things: list = field(default_factory=list)
    background: int = -1        # number in COLOURS where the background is plain


def shape_mask(name, size=256):
    """The shape as an alpha mask, drawn large and reduced, so that its edges are smooth."""
    mask = Image.new("L", (size, size))
    draw = ImageDraw.Draw(mask)
    s = size - 1
    if name == "circle":
        draw.ellipse([0, 0, s, s], fill=255)
    elif name == "square":
        draw.rectangle([int(s * .06), int(s * .06), int(s * .94), int(s * .94)], fill=255)
    elif name == "triangle":
        draw.polygon([(s / 2, s * .05), (s, s * .95), (0, s * .95)], fill=255)
    elif name == "diamond":
        draw.polygon([(s / 2, 0), (s * .88, s / 2), (s / 2, s), (s * .12, s / 2)], fill=255)
    elif name == "cross":
        draw.rectangle([int(s * .35), 0, int(s * .65), s], fill=255)
        draw.rectangle([0, int(s * .35), s, int(s * .65)], fill=255)
    elif name == "hexagon":
        angles = np.arange(6) * np.pi / 3
        draw.polygon([(s / 2 + s / 2 * np.cos(a), s / 2 + s / 2 * np.sin(a)) for a in angles], fill=255)
    return mask


class Composer:
    """Holds the sprites in three sizes; compose() makes one scene."""

    def __init__(self, sprites_path, photos_path=None, more_path=None):
        sets = [np.load(path) for path in (sprites_path, more_path) if path]
        self.photos = np.load(photos_path)["photos"] if photos_path else None
        self.cls, self.style, self.colour = (np.concatenate([data[key] for data in sets]) for key in ("classes", "styles", "colours"))
        self.mips = []
        for rgba in (sprite for data in sets for sprite in data["sprites"]):
            alpha = rgba[..., 3:].astype(np.uint16)
            flat = rgba.copy()
            flat[..., :3] = rgba[..., :3].astype(np.uint16) * alpha // 255   # premultiplied: clean edges
            self.mips.append(self._mips(Image.fromarray(flat)))
        self.shapes = []
        for name in things.SHAPES:
            mask = shape_mask(name)
            self.shapes.append(self._mips(Image.merge("RGBA", [mask] * 4)))
        self.of_class = [np.nonzero(self.cls == c)[0] for c in range(N_CLASSES)]
        self.drawable = np.array([c for c in range(FIRST_SHAPE) if len(self.of_class[c])])
        self.known = self.drawable         # what is drawn now: know() narrows it
        self.same_category = {c: np.array([d for d in range(N_CLASSES) if CATEGORY[d] == CATEGORY[c]])
                              for c in range(N_CLASSES)}

    def know(self, share):
        """Only this share of the things from now on (always the same ones): few kinds at first."""
        order = np.random.default_rng(7).permutation(self.drawable)
        self.known = order[:max(1, round(len(order) * min(1., share)))]

    @staticmethod
    def _mips(image):
        return {128: image.resize((128, 128), Image.BOX) if image.width != 128 else image,
                64: image.resize((64, 64), Image.BOX), 32: image.resize((32, 32), Image.BOX)}

    # -- background ---------------------------------------------------------------------------

    def _background(self, rng):
        kind = rng.random()
        if kind < .45:                                            # plain, nameable
            number = int(rng.integers(len(COLOURS)))
            base = np.array(things.COLOURS[COLOURS[number]], np.float32)
            base = np.clip(base + rng.normal(0, 9, 3), 0, 255)
            return np.broadcast_to(base, (SIZE, SIZE, 3)).astype(np.float32).copy(), number
        a, b = rng.uniform(0, 255, (2, 3)).astype(np.float32)
        if rng.random() < .4:                                     # pale, as pages and skies are
            a, b = 255 - a * .3, 255 - b * .3
        if kind < .55:
            return np.broadcast_to(a, (SIZE, SIZE, 3)).astype(np.float32).copy(), -1
        if self.photos is not None and rng.random() < .3:
            return self._photo(rng), -1
        angle = rng.uniform(0, 2 * np.pi)
        line = np.linspace(-1, 1, SIZE, dtype=np.float32)
        t = np.clip((np.cos(angle) * line[None] + np.sin(angle) * line[:, None]) * .5 + .5, 0, 1)
        if kind < .7:                                             # gradient
            return a + (b - a) * t[..., None], -1
        if kind < .8:                                             # stripes or checks
            n = rng.integers(3, 12)
            wave = (np.floor(t * n) % 2)
            if rng.random() < .5:
                wave = (wave + np.floor(t.T * n)) % 2
            return a + (b - a) * (wave * rng.uniform(.15, .7))[..., None], -1
        cells = int(rng.choice([3, 5, 8, 16, 32]))                # soft or rough noise
        noise = rng.uniform(0, 255, (cells, cells, 3)).astype(np.uint8)
        texture = np.asarray(Image.fromarray(noise).resize((SIZE, SIZE), Image.BICUBIC), np.float32)
        share = rng.uniform(.1, .6)
        if rng.random() < .4:                                     # ground and sky
            a = np.where((np.arange(SIZE) < rng.integers(40, 100))[:, None, None], a, b)
        return texture * share + a * (1 - share), -1

    def _photo(self, rng):
        """A piece of a photograph or wallpaper, mirrored, turned in its colours, paler or darker."""
        photo = self.photos[int(rng.integers(len(self.photos)))]
        side = int(rng.integers(70, min(photo.shape[:2]) + 1))
        y, x = int(rng.integers(0, photo.shape[0] - side + 1)), int(rng.integers(0, photo.shape[1] - side + 1))
        piece = Image.fromarray(photo[y:y + side, x:x + side]).resize((SIZE, SIZE), Image.BILINEAR)
        canvas = np.asarray(piece, np.float32)[:, ::1 if rng.random() < .5 else -1]
        if rng.random() < .3:
            canvas = canvas[..., rng.permutation(3)]
        return canvas * rng.uniform(.5, 1.1) + rng.uniform(0, 40)

    # -- one thing -----------------------------------------------------------------------------

    def _stamp(self, rng, canvas, owner, number, cls, colour, sprite, box, mips):
        """Draws one thing; returns its real box or None where hardly anything can be seen."""
        x0, y0, w, h = box
        side = max(w, h)
        source = mips[32 if side <= 32 else 64 if side <= 64 else 128]
        n = source.width
        wild = rng.random()
        angle = rng.uniform(-.3, .3) if wild < .5 else 0. if wild < .95 else rng.uniform(-np.pi, np.pi)
        if cls >= FIRST_SHAPE:
            angle = angle * .6 if abs(angle) < .4 else 0.         # a turned square is no diamond
            if WORDS[cls] in ("square", "diamond", "cross"):
                angle *= .5
        flip = -1 if rng.random() < .5 else 1
        grow = abs(np.cos(angle)) + abs(np.sin(angle))            # so that corners are not cut
        c, s = np.cos(angle), np.sin(angle)
        kx, ky = n / w * grow, n / h * grow
        m = (flip * c * kx, flip * s * ky, n / 2 - flip * (c * kx * w + s * ky * h) / 2,
             -s * kx, c * ky, n / 2 - (-s * kx * w + c * ky * h) / 2)
        drawn = np.asarray(source.transform((w, h), Image.AFFINE, m, Image.BILINEAR), np.float32)
        alpha = drawn[..., 3:] / 255
        rgb = drawn[..., :3]
        if cls >= FIRST_SHAPE:
            tone = np.clip(np.array(things.COLOURS[COLOURS[colour]]) + rng.normal(0, 10, 3), 0, 255)
            rgb = alpha * tone
            if rng.random() < .25:                                # light falls on it
                rgb = rgb * np.linspace(rng.uniform(.75, 1), rng.uniform(.75, 1), h)[:, None, None]
        elif colour >= 0:
            rgb = rgb * rng.uniform(.85, 1.08)
        else:
            rgb = rgb * rng.uniform(.8, 1.12) * rng.uniform(.88, 1.1, 3)
            if rng.random() < .03:
                rgb = np.repeat(rgb.mean(2, keepdims=True), 3, 2)
        rgb = np.minimum(rgb, alpha * 255)
        place = (slice(y0, y0 + h), slice(x0, x0 + w))
        if rng.random() < .12:                                    # a soft shadow below
            dy, dx = min(3, SIZE - y0 - h), min(2, SIZE - x0 - w)
            canvas[y0 + dy:y0 + dy + h, x0 + dx:x0 + dx + w] *= 1 - .35 * alpha
        canvas[place] = canvas[place] * (1 - alpha) + rgb
        solid = alpha[..., 0] > .4
        owner[place][solid] = number
        rows, columns = np.nonzero(solid.any(1))[0], np.nonzero(solid.any(0))[0]
        if len(rows) == 0:
            return None
        return (x0 + int(columns[0]), y0 + int(rows[0]), x0 + int(columns[-1]) + 1, y0 + int(rows[-1]) + 1)

    def _pick_kinds(self, rng, n_kinds):
        """Classes that the picture will show; shapes now and then, sometimes of one category."""
        kinds = []
        first = None
        while len(kinds) < n_kinds:
            if rng.random() < .16:
                cls = int(rng.integers(FIRST_SHAPE, N_CLASSES))
            elif first is not None and rng.random() < .3:
                cls = int(rng.choice(self.same_category[first]))
                if cls < FIRST_SHAPE and cls not in self.known:
                    cls = int(rng.choice(self.known))
            else:
                cls = int(rng.choice(self.known))
            if first is None:
                first = cls
            if cls not in kinds:
                kinds.append(cls)
        return kinds

    # -- the whole -----------------------------------------------------------------------------

    def compose(self, rng, single=.3, most=6):
        canvas, background = self._background(rng)
        canvas = np.ascontiguousarray(canvas, np.float32)
        if rng.random() < single:
            counts = [1]
        elif rng.random() < .02:
            counts = []                                           # nothing: that has to be said, too
        else:
            n = int(rng.choice(np.arange(1, most + 1), p=np.array([0, .34, .26, .18, .12, .1])[:most] /
                               sum([0, .34, .26, .18, .12, .1][:most])))
            n_kinds = int(rng.integers(1, min(n, 4) + 1)) if rng.random() < .5 else min(n, 2 + (rng.random() < .5))
            counts = [1] * n_kinds
            for _ in range(n - n_kinds):
                counts[int(rng.integers(n_kinds))] += 1
        kinds = self._pick_kinds(rng, len(counts))
        n = sum(counts)
        low, high = {0: (1, 1), 1: (52, 120), 2: (44, 68), 3: (38, 56)}.get(n, (34, 46))
        todo = [cls for cls, count in zip(kinds, counts) for _ in range(count)]
        rng.shuffle(todo)
        kind_sprite, kind_colour = {}, {}
        owner = np.full((SIZE, SIZE), NOBODY, np.uint8)
        placed, shown = [], []
        for cls in todo:
            w = int(rng.integers(low, high + 1))
            h = max(26, min(SIZE, int(w * rng.uniform(.85, 1.18))))
            if cls in (FIRST_SHAPE + things.SHAPES.index("square"), FIRST_SHAPE) and rng.random() < .7:
                h = w
            spot = None
            for attempt in range(24):
                if attempt % 8 == 7:
                    w, h = max(28, w * 9 // 10), max(28, h * 9 // 10)
                x, y = int(rng.integers(0, SIZE - w + 1)), int(rng.integers(0, SIZE - h + 1))
                worst = 0.
                for (a, b, c, d) in placed:
                    ix, iy = min(x + w, c) - max(x, a), min(y + h, d) - max(y, b)
                    if ix > 0 and iy > 0:
                        worst = max(worst, ix * iy / min(w * h, (c - a) * (d - b)))
                if worst < .08:
                    spot = (x, y)
                    break
            if spot is None:
                continue
            if cls >= FIRST_SHAPE:
                sprite, mips = -1, self.shapes[cls - FIRST_SHAPE]
                if cls not in kind_colour or rng.random() < .15:
                    free = [k for k in range(len(COLOURS)) if k != background]
                    kind_colour[cls] = int(rng.choice(free))
                colour = kind_colour[cls]
                if background < 0:                                # it has to stand out
                    base = canvas[spot[1]:spot[1] + h, spot[0]:spot[0] + w].mean((0, 1))
                    far = [k for k in range(len(COLOURS)) if
                           np.abs(np.array(things.COLOURS[COLOURS[k]]) - base).sum() > 110]
                    if colour not in far:
                        colour = int(rng.choice(far))
            else:
                if cls not in kind_sprite or rng.random() < .5:
                    kind_sprite[cls] = int(rng.choice(self.of_class[cls]))
                sprite = kind_sprite[cls]
                colour, mips = int(self.colour[sprite]), self.mips[sprite]
            box = self._stamp(rng, canvas, owner, len(shown), cls, colour, sprite, (*spot, w, h), mips)
            if box is None:
                continue
            placed.append((spot[0], spot[1], spot[0] + w, spot[1] + h))
            shown.append(Thing(cls, colour, box, int(self.style[sprite]) if sprite >= 0 else -1))
        pixels = self._finish(rng, canvas)

        return Scene(pixels, owner, shown, background)

    @staticmethod
    def _finish(rng, canvas):
        """Brightness and contrast, and what files and cameras do to pictures."""
        if rng.random() < .5:
            canvas = (canvas - 128) * rng.uniform(.85, 1.12) + 128 + rng.uniform(-12, 12)
        if rng.random() < .1:
            canvas = canvas + rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(2, 9))
        image = Image.fromarray(np.clip(canvas + .5, 0, 255).astype(np.uint8))
        kind = rng.random()
        if kind < .12:
            small = int(rng.integers(80, 120))
            image = image.resize((small, small), Image.BICUBIC).resize((SIZE, SIZE), Image.BICUBIC)
        elif kind < .18:
            image = image.filter(ImageFilter.SHARPEN)
        elif kind < .26:
            file = io.BytesIO()
            image.save(file, "JPEG", quality=int(rng.integers(50, 92)))
            image = Image.open(file)
        return np.asarray(image)


if __name__ == "__main__":
    import sys
    import time
    composer = Composer(sys.argv[1], sys.argv[4] if len(sys.argv) > 4 else None)
    rng = np.random.default_rng(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    start = time.time()
    some = [composer.compose(rng) for _ in range(48)]
    print(f"{(time.time() - start) / 48 * 1000:.2f} ms a scene")
    sheet = Image.new("RGB", (8 * 132, 6 * 132))
    for i, scene in enumerate(some):
        sheet.paste(Image.fromarray(scene.pixels), (i % 8 * 132, i // 8 * 132))
        if i < 8:
            print([(WORDS[t.cls], COLOURS[t.colour] if t.colour >= 0 else "") for t in scene.things],
                  COLOURS[scene.background] if scene.background >= 0 else "")
    sheet.save(sys.argv[2])
