"""Goldens of core/nn's operations whose details are PyTorch's choice: interpolation and pooling.

Written to tests/data/goldens/nn.json: `made_by`, and lists of cases with small inputs and outputs, channels last.

    python tests/reference/nn_goldens.py
"""

import json
import os

import torch
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.normpath(os.path.join(HERE, "..", "data", "goldens", "nn.json"))


def flat(tensor):
    """[1, C, H, W] as the numbers of [H, W, C]."""
    return [round(v, 7) for v in tensor[0].permute(1, 2, 0).reshape(-1).tolist()]


def picture(channels, height, width):
    return torch.round(torch.randn(1, channels, height, width) * 64) / 64


def main():
    torch.manual_seed(7)
    interpolate = []
    for mode in ("bilinear", "bicubic"):
        for (height, width), (out_height, out_width) in (
            ((7, 7), (14, 9)), ((7, 5), (3, 4)), ((1, 1), (3, 2)), ((2, 3), (2, 3)), ((4, 4), (1, 11)), ((12, 12), (5, 7)),
        ):
            x = picture(3, height, width)
            y = F.interpolate(x, size=(out_height, out_width), mode=mode, align_corners=False)
            interpolate.append({"mode": mode, "size": [height, width, 3], "out_size": [out_height, out_width],
                                "x": flat(x), "y": flat(y)})
    pools = []
    for kind, size, stride, padding in (("avg", 2, 2, 0), ("avg", 3, 1, 0), ("max", 3, 2, 1), ("max", 2, 2, 0)):
        x = picture(5, 7, 6)
        y = F.avg_pool2d(x, size, stride) if kind == "avg" else F.max_pool2d(x, size, stride, padding)
        pools.append({"kind": kind, "window": [size, stride, padding], "size": [7, 6, 5],
                      "out_size": list(y.shape[2:]), "x": flat(x), "y": flat(y)})
    with open(OUT, "w") as file:
        json.dump({"made_by": f"tests/reference/nn_goldens.py, torch {torch.__version__.split('+')[0]}",
                   "interpolate": interpolate, "pools": pools}, file, indent=None, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
