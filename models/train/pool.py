"""Batches of composed scenes for training, with what lies under each patch. Every scene is new.

Used again, scenes are learnt by heart: within a few hundred steps a tower knew 8,000 of them and named
nothing in a new one.
"""
import numpy as np
import torch

from scenes import BACKGROUND, GRID, N_CLASSES, NOBODY, PATCH, SIZE
from towers import IMAGE_MEAN, IMAGE_STD

MEAN, STD = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
SCALE, SHIFT = (1 / 255 / STD).view(1, 3, 1, 1), (-MEAN / STD).view(1, 3, 1, 1)


class Source:
    def __init__(self, composer, seed):
        self.composer, self.rng = composer, np.random.default_rng(seed)

    def batch(self, n, single):
        """n new scenes as tensors; `scenes` gives what they show."""
        scenes = [self.composer.compose(self.rng, single=single) for _ in range(n)]
        owner = np.stack([scene.owner for scene in scenes])
        shown = np.zeros((n, N_CLASSES), np.float32)
        for row, scene in enumerate(scenes):
            for thing in scene.things:
                shown[row, thing.cls] = 1
        return {"pixels": to_tensor(np.stack([scene.pixels for scene in scenes])), **patch_labels(owner, scenes),
                "shown": torch.from_numpy(shown), "owner": owner,
                "background": torch.tensor([scene.background for scene in scenes]), "scenes": scenes}


def patch_labels(owner, scenes):
    """For each of the 64 patches of each picture the thing that is most seen there:

    patches [n, 64]      its class (BACKGROUND: none; -1: unclear)
    colours [n, 64]      its colour or -1
    boxes   [n, 64, 4]   its box: middle x, middle y, width, height, in sides of the picture
    cover   [n, 64, 16]  which of 4 x 4 parts of the patch it covers, 0..1
    numbers [n, 64]      its number in the scene, -1: none
    many    [n, 64]      how many of its class the scene shows, -1: none
    """
    n = len(owner)
    cut = owner.reshape(n, GRID, PATCH, GRID, PATCH).transpose(0, 1, 3, 2, 4).reshape(n * GRID * GRID, -1)
    highest = np.where(cut == NOBODY, 0, cut + 1).max(1)          # 1 + number of the topmost thing there
    lowest = cut.min(1)
    n_high, n_low = (cut == (highest - 1)[:, None]).sum(1), (cut == lowest[:, None]).sum(1)
    best = np.where(n_high >= n_low, highest.astype(int) - 1, lowest)
    count = np.maximum(n_high * (highest > 0), n_low * (lowest != NOBODY))
    empty = (cut == NOBODY).sum(1)
    table, tints, kin = (np.full((n, 8), -1, np.int64) for _ in range(3))
    boxes = np.zeros((n, 8, 4), np.float32)
    for row, scene in enumerate(scenes):
        for k, thing in enumerate(scene.things):
            table[row, k], tints[row, k] = thing.cls, thing.colour
            kin[row, k] = sum(other.cls == thing.cls for other in scene.things)
            x0, y0, x1, y1 = thing.box
            boxes[row, k] = (x0 + x1) / 2 / SIZE, (y0 + y1) / 2 / SIZE, (x1 - x0) / SIZE, (y1 - y0) / SIZE
    row = np.repeat(np.arange(n), GRID * GRID)
    seen = count > PATCH * PATCH * .2
    best = np.where(seen, best, 0)
    classes = np.where(seen, table[row, best], np.where(empty >= PATCH * PATCH * .97, BACKGROUND, -1))
    part = PATCH // 4
    cover = (cut == best[:, None]).reshape(-1, 4, part, 4, part).mean((2, 4), dtype=np.float32)
    out = {"patches": classes, "colours": np.where(seen, tints[row, best], -1), "boxes": boxes[row, best],
           "cover": cover.reshape(-1, 16), "numbers": np.where(seen, best, -1), "many": np.where(seen, kin[row, best], -1)}
    return {name: torch.from_numpy(v.reshape(n, GRID * GRID, *v.shape[1:])) for name, v in out.items()}


def to_tensor(pixels):
    """uint8 [n, h, w, 3] -> normalised float32 [n, 3, h, w], as the image processor does it."""
    x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).contiguous().float()
    return x.mul_(SCALE).add_(SHIFT)
