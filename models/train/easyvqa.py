"""The public easy-vqa set (MIT, PyPI package easy-vqa): 4,000 + 1,000 pictures of one coloured shape, with questions.

Its train split joins the questions of stage 2; its test split is only ever measured.
"""
import importlib.util
import json
import os

import numpy as np
from PIL import Image

from scenes import SIZE


def load(split):
    """(pictures uint8 [n, SIZE, SIZE, 3], [[(question, answer)] of each picture])"""
    folder = os.path.join(os.path.dirname(importlib.util.find_spec("easy_vqa").origin), "data", split)
    names = sorted(os.listdir(os.path.join(folder, "images")), key=lambda name: int(name.split(".")[0]))
    pictures = np.stack([np.asarray(Image.open(os.path.join(folder, "images", name)).convert("RGB").resize((SIZE, SIZE), Image.BICUBIC))
                         for name in names])
    asked = [[] for _ in names]
    for question, answer, picture in json.load(open(os.path.join(folder, "questions.json"), encoding="utf-8")):
        asked[picture].append((question, answer))
    return pictures, asked
