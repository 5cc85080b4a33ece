"""A pool of composed scenes for training: new ones come in all the time, each is used a few times.

Composing costs about as much as a training step's share of a core, so that a scene is used `reuse`
times on average (with other texts each time) before another takes its place.
"""
import numpy as np
import torch

from scenes import GRID, N_CLASSES, SIZE
from towers import IMAGE_MEAN, IMAGE_STD

MEAN, STD = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
SCALE, SHIFT = (1 / 255 / STD).view(1, 3, 1, 1), (-MEAN / STD).view(1, 3, 1, 1)


class Pool:
    def __init__(self, composer, size, seed):
        self.composer, self.size, self.rng = composer, size, np.random.default_rng(seed)
        self.pixels = np.zeros((size, SIZE, SIZE, 3), np.uint8)
        self.patches = np.zeros((size, GRID * GRID), np.int16)
        self.colours = np.zeros((size, GRID * GRID), np.int16)
        self.scenes = [None] * size
        self.filled = self.next = 0

    def add(self, single):
        scene = self.composer.compose(self.rng, single=single)
        k = self.next
        self.pixels[k], self.patches[k], self.colours[k] = scene.pixels, scene.patches, scene.colours
        scene.pixels = scene.patches = scene.colours = None        # the pool's arrays hold them
        self.scenes[k] = scene
        self.next = (k + 1) % self.size
        self.filled = max(self.filled, k + 1)
        return k

    def batch(self, n, reuse, single):
        """n scenes, n/reuse of them new, as tensors; `scenes` gives what they show."""
        fresh = n if self.filled < n else max(1, n // reuse)
        index = [self.add(single) for _ in range(fresh)]
        index += list(self.rng.integers(0, self.filled, n - len(index)))
        index = np.array(index)
        scenes = [self.scenes[k] for k in index]
        shown = np.zeros((n, N_CLASSES), np.float32)
        for row, scene in enumerate(scenes):
            for thing in scene.things:
                shown[row, thing.cls] = 1
        return {"pixels": to_tensor(self.pixels[index]),
                "patches": torch.from_numpy(self.patches[index].astype(np.int64)),
                "colours": torch.from_numpy(self.colours[index].astype(np.int64)),
                "shown": torch.from_numpy(shown),
                "background": torch.tensor([scene.background for scene in scenes]),
                "scenes": scenes}


def to_tensor(pixels):
    """uint8 [n, h, w, 3] -> normalised float32 [n, 3, h, w], as the image processor does it."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float()
    return x.mul_(SCALE).add_(SHIFT)
