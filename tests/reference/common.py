"""What every golden-making script here shares: where files go, seeds, pictures, tokenizers, writing.

A golden is a pair: `<name>.safetensors` holds tensors called `<case>/<what>`, `<name>.json` holds the
texts, the token ids, the settings, and which pictures and tensors belong to which case.
"""

import json
import math
import os
import platform
import sys
import warnings

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import PIL
import safetensors
import tokenizers
import torch
import transformers
from PIL import Image, ImageOps
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.normpath(os.path.join(HERE, "..", "data"))
CHECKPOINTS = os.path.join(DATA, "checkpoints")
GOLDENS = os.path.join(DATA, "goldens")
IMAGES = os.path.join(DATA, "images")

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
warnings.simplefilter("ignore")

# The pictures every model is shown, in this order. make_images.py writes them.
PICTURES = ["photo_97x61.jpg", "tall_33x120.png", "wide_200x150.jpg", "grey_64x48.jpg", "alpha_50x70.png"]


def tools():
    """The versions that made a golden."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "pillow": PIL.__version__,
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
        "device": "cpu, float32, one thread",
    }


def open_rgb(name):
    """A picture as the server decodes it (design §5): upright by EXIF, then Pillow's convert("RGB").

    Alpha is dropped here, not blended on white as the 5.x image processors do on their own; they get
    an RGB picture from us and so never see the alpha.
    """
    with Image.open(os.path.join(IMAGES, name)) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def checkpoint_dir(name):
    path = os.path.join(CHECKPOINTS, name)
    os.makedirs(path, exist_ok=True)
    for entry in os.listdir(path):
        os.remove(os.path.join(path, entry))
    return path


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as out:
        json.dump(value, out, indent=1, ensure_ascii=False, sort_keys=False)
        out.write("\n")


def read_json(path):
    with open(path, encoding="utf-8") as source:
        return json.load(source)


class Golden:
    """Collects the cases of one golden and writes its two files."""

    def __init__(self, name, seed, **facts):
        self.name = name
        self.tensors = {}
        self.head = {
            "name": name,
            "checkpoint": name,
            "command": f"python tests/reference/{os.path.basename(sys.argv[0])}",
            "tools": tools(),
            "seed": seed,
        }
        self.head.update(facts)
        self.cases = []

    def tensor(self, key, value):
        """Keeps one tensor; floats are stored as float32, whole numbers as int64 (uint8 stays)."""
        value = torch.as_tensor(value).detach()
        if value.dtype in (torch.float16, torch.bfloat16, torch.float64):
            value = value.float()
        elif value.dtype in (torch.int32, torch.bool):
            value = value.long()
        self.tensors[key] = value.contiguous().clone()

    def case(self, name, tensors=None, **facts):
        """Adds a case: facts go to the JSON, tensors under `<name>/…`."""
        entry = {"case": name}
        entry.update(facts)
        entry["tensors"] = sorted(tensors or {})
        for key, value in (tensors or {}).items():
            self.tensor(f"{name}/{key}", value)
        self.cases.append(entry)

    def write(self):
        os.makedirs(GOLDENS, exist_ok=True)
        self.head["cases"] = self.cases
        write_json(os.path.join(GOLDENS, self.name + ".json"), self.head)
        save_file(self.tensors, os.path.join(GOLDENS, self.name + ".safetensors"))
        size = sum(
            os.path.getsize(os.path.join(GOLDENS, self.name + end)) for end in (".json", ".safetensors")
        )
        print(f"golden {self.name}: {len(self.cases)} cases, {len(self.tensors)} tensors, {size} bytes")


def scramble(model, seed, gain=1.4, embedding_std=0.6):
    """Gives every parameter a value that matters, from a seed, in the order of its name.

    Products get std gain/sqrt(fan_in) so that activations neither die nor explode; biases and norms
    are clearly off 0 and 1, so that a forgotten one shows.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(shape):
        return torch.randn(shape, generator=generator)

    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            leaf = name.rsplit(".", 1)[-1]
            lower = name.lower()
            if parameter.dim() == 0:
                continue  # logit scale and shift: left to the script
            if "norm" in lower or "layrnorm" in lower:
                base = 1.0 if leaf == "weight" else 0.0
                parameter.copy_(base + 0.2 * normal(parameter.shape))
            elif leaf == "bias":
                parameter.copy_(0.2 * normal(parameter.shape))
            elif "embedding" in lower and "patch_embed" not in lower:
                parameter.copy_(embedding_std * normal(parameter.shape))
            elif parameter.dim() >= 2:
                fan_in = math.prod(parameter.shape[1:])
                parameter.copy_(gain / math.sqrt(fan_in) * normal(parameter.shape))
            else:
                parameter.copy_(0.3 * normal(parameter.shape))
    return model.eval()


def parameters_of(model):
    return sum(p.numel() for p in model.parameters())


def report_checkpoint(path):
    size = sum(os.path.getsize(os.path.join(path, entry)) for entry in os.listdir(path))
    print(f"checkpoint {os.path.basename(path)}: {size} bytes: {', '.join(sorted(os.listdir(path)))}")
    if size >= 1000000:
        raise SystemExit("too large to check in")
