"""A pool of composed scenes for training: new ones come in all the time, each is used a few times.

Used again as they are, scenes are learnt by heart: within a few hundred steps the tower knew 8,000 of
them and named nothing in a new one. So a scene is moved round the edges by any number of pixels, turned
left to right and tinted before every use in stage 1 (`shake`), and used once only where sentences
are said about it.
"""
import numpy as np
import torch

from scenes import BACKGROUND, GRID, N_CLASSES, NOBODY, PATCH, SIZE
from towers import IMAGE_MEAN, IMAGE_STD

MEAN, STD = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
SCALE, SHIFT = (1 / 255 / STD).view(1, 3, 1, 1), (-MEAN / STD).view(1, 3, 1, 1)


class Pool:
    def __init__(self, composer, size, seed):
        self.composer, self.size, self.rng = composer, size, np.random.default_rng(seed)
        self.pixels = np.zeros((size, SIZE, SIZE, 3), np.uint8)
        self.owner = np.zeros((size, SIZE, SIZE), np.uint8)
        self.scenes = [None] * size
        self.filled = self.next = 0

    def add(self, single):
        scene = self.composer.compose(self.rng, single=single)
        k = self.next
        self.pixels[k], self.owner[k] = scene.pixels, scene.owner
        scene.pixels = scene.owner = None                  # the pool's arrays hold them
        self.scenes[k] = scene
        self.next = (k + 1) % self.size
        self.filled = max(self.filled, k + 1)
        return k

    def batch(self, n, reuse, single, shake=False):
        """n scenes, n/reuse of them new, as tensors; `scenes` gives what they show (before shaking)."""
        fresh = n if self.filled < n else max(1, n // reuse)
        index = [self.add(single) for _ in range(fresh)]
        index += list(self.rng.integers(0, self.filled, n - len(index)))
        index = np.array(index)
        scenes = [self.scenes[k] for k in index]
        pixels, owner = self.pixels[index], self.owner[index]
        if shake:
            for row in range(n):
                dy, dx = self.rng.integers(0, SIZE, 2)
                pixels[row], owner[row] = np.roll(pixels[row], (dy, dx), (0, 1)), np.roll(owner[row], (dy, dx), (0, 1))
                if self.rng.random() < .5:
                    pixels[row], owner[row] = pixels[row, :, ::-1].copy(), owner[row, :, ::-1].copy()
        x = to_tensor(pixels)
        if shake:
            x += torch.from_numpy(self.rng.normal(0, .12, (n, 3, 1, 1)).astype(np.float32))
        shown = np.zeros((n, N_CLASSES), np.float32)
        for row, scene in enumerate(scenes):
            for thing in scene.things:
                shown[row, thing.cls] = 1
        patches, colours = patch_labels(owner, scenes)
        return {"pixels": x, "patches": torch.from_numpy(patches), "colours": torch.from_numpy(colours),
                "shown": torch.from_numpy(shown),
                "background": torch.tensor([scene.background for scene in scenes]), "scenes": scenes}


def patch_labels(owner, scenes):
    """[n, 64] class under each patch (BACKGROUND; -1 where it is unclear), and its colour or -1."""
    n = len(owner)
    cut = owner.reshape(n, GRID, PATCH, GRID, PATCH).transpose(0, 1, 3, 2, 4).reshape(n * GRID * GRID, -1)
    highest = np.where(cut == NOBODY, 0, cut + 1).max(1)          # 1 + number of the topmost thing there
    lowest = cut.min(1)
    n_high, n_low = (cut == (highest - 1)[:, None]).sum(1), (cut == lowest[:, None]).sum(1)
    best = np.where(n_high >= n_low, highest.astype(int) - 1, lowest)
    count = np.maximum(n_high * (highest > 0), n_low * (lowest != NOBODY))
    empty = (cut == NOBODY).sum(1)
    table = np.full((n, 8), -1, np.int64)
    tints = np.full((n, 8), -1, np.int64)
    for row, scene in enumerate(scenes):
        for k, thing in enumerate(scene.things):
            table[row, k], tints[row, k] = thing.cls, thing.colour
    row = np.repeat(np.arange(n), GRID * GRID)
    seen = count > PATCH * PATCH * .2
    best = np.where(seen, best, 0)
    classes = np.where(seen, table[row, best], np.where(empty >= PATCH * PATCH * .97, BACKGROUND, -1))
    return classes.reshape(n, -1), np.where(seen, tints[row, best], -1).reshape(n, -1)


def to_tensor(pixels):
    """uint8 [n, h, w, 3] -> normalised float32 [n, 3, h, w], as the image processor does it."""
    x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).contiguous().float()
    return x.mul_(SCALE).add_(SHIFT)
