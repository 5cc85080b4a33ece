"""encoder_peers.py: a forward pass beside PyTorch's and ONNX Runtime's, on one core or on all.

    python tests/bench/encoder_peers.py export FOLDER [--int8]     once: FOLDER.BATCH.onnx (needs onnx)
    python tests/bench/encoder_peers.py run FOLDER [--batch 1] [--rounds 3] [--dtypes f32 bf16 int8]
    python tests/bench/encoder_peers.py captions FOLDER [the same]  20 tokens from a picture, for a BLIP captioner

FOLDER is a checkpoint of tests/reference/make_real_encoders.py or of the public model. What is timed is all that a new
picture and a text (CLIPSeg, OWL-ViT, ViLT) or a picture (the others) cost: on one core as processor time, which hardly
depends on what else runs, with --all-cores by the clock. Programs take turns; the best of the rounds counts.
`./dev bench --peers` (peers.py) makes a table of such runs.
"""

import argparse
import copy
import json
import logging
import os
import re
import subprocess
import sys
import time

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference"))
N_TOKENS = 12
N_CAPTION_TOKENS = 20  # bench_forward's


def open_clip_pictures(folder):
    from make_open_clip import load

    model, _, config = load(folder)
    size = config["model_cfg"]["vision_cfg"]["image_size"]
    return model.visual, lambda n: (torch.randn(n, 3, size, size),)


class Picked(torch.nn.Module):
    """A model with its inputs by position and its logits alone."""

    def __init__(self, model, names, outputs=("logits",)):
        super().__init__()
        self.model, self.names, self.outputs = model, names, outputs

    def forward(self, *inputs):
        result = self.model(**dict(zip(self.names, inputs)))
        return tuple(result[name] for name in self.outputs)


def transformers_model(folder, name):
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()
    with open(os.path.join(folder, "preprocessor_config.json"), encoding="utf-8") as source:
        size = json.load(source)["size"]
    side = size.get("height") or size.get("shortest_edge")

    def inputs(n):
        return torch.arange(1, N_TOKENS + 1).repeat(n, 1), torch.randn(n, 3, side, side)

    if name.startswith("Vilt"):
        from make_vilt import Ordered

        Ordered().__enter__()  # patches in reading order: the random order cannot be exported
    outputs = ("logits", "pred_boxes") if "ObjectDetection" in name else ("logits",)
    if name in ("CLIPModel", "SiglipModel") or name.startswith("Blip"):
        return model.vision_model, lambda n: inputs(n)[1:]
    return Picked(model, ("input_ids", "pixel_values"), outputs), inputs


def load(folder):
    """The reference's module, and what makes inputs for a batch of n."""
    if os.path.exists(os.path.join(folder, "open_clip_config.json")):
        return open_clip_pictures(folder)
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as source:
        return transformers_model(folder, json.load(source)["architectures"][0])


def export(folder, batch, int8):
    module, inputs = load(folder)
    path = f"{folder}.{batch}.onnx"
    torch.onnx.export(module, inputs(batch), path, opset_version=17, dynamo=False)
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        logging.disable(logging.WARNING)  # its advice for every model
        quantize_dynamic(path, f"{folder}.{batch}.int8.onnx", weight_type=QuantType.QInt8, per_channel=True)


class Measure:
    """How items are timed: by which clock, on how many threads, for how long."""

    def __init__(self, given):
        if not given.all_cores:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        self.clock = time.monotonic if given.all_cores else time.process_time
        self.threads = len(os.sched_getaffinity(0))
        self.by_clock, self.seconds = given.all_cores, given.seconds
        self.program, self.cache = given.program, given.cache
        torch.set_num_threads(self.threads)

    def cost(self, run, n):
        """Milliseconds per item, over the seconds or at least one pass; the first is not counted."""
        run()
        passes, begin = 0, self.clock()
        while passes < 1 or self.clock() < begin + self.seconds:
            run()
            passes += 1
        return (self.clock() - begin) * 1e3 / (n * passes)

    def ours(self, folder, n, dtype, *names):
        """The same of bench_forward's passes of these names, one after another; it inherits the affinity."""
        total = 0
        for name in names:
            command = [self.program, "--dtype", dtype, "--pass", name, "--seconds", str(self.seconds)]
            command += ["--cache", self.cache] if self.cache else []
            out = subprocess.run([*command, folder, str(n)], capture_output=True, text=True, check=True).stdout
            for rate, cpu_ms in re.findall(r" ([0-9.]+) /s .* ([0-9.]+) ms of processor time", out):
                total += 1e3 / float(rate) if self.by_clock else float(cpu_ms)
        assert total > 0, f"{folder} has no pass {names}"
        return total


TORCH_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def in_dtype(module, dtype):
    """A copy of a module, or the module itself where it is f32."""
    return module if dtype == "f32" else copy.deepcopy(module).to(TORCH_DTYPES[dtype])


def captions(folder, measure, given):
    """A picture and N_CAPTION_TOKENS greedy tokens, keys and values cached, beside PyTorch's generate()."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    batch, side = given.batch, model.config.vision_config.image_size
    text, pixels = model.config.text_config, torch.randn(batch, 3, side, side)

    def generate(model, dtype):
        rows = model.vision_model(pixel_values=pixels.to(TORCH_DTYPES[dtype]))[0]
        made = model.text_decoder.generate(input_ids=torch.full((batch, 1), text.bos_token_id), encoder_hidden_states=rows,
                                           eos_token_id=text.sep_token_id, pad_token_id=text.pad_token_id, do_sample=False,
                                           num_beams=1, min_new_tokens=N_CAPTION_TOKENS, max_new_tokens=N_CAPTION_TOKENS)
        assert made.shape[1] == 1 + N_CAPTION_TOKENS

    peers = {}
    for dtype in given.torch_dtypes:
        copied = in_dtype(model, dtype)
        peers["PyTorch " + dtype] = lambda copied=copied, dtype=dtype: measure.cost(lambda: generate(copied, dtype), batch)
    for dtype in given.dtypes:
        peers["vlmd " + dtype] = lambda dtype=dtype: measure.ours(folder, batch, dtype, "captions")
    return peers


def passes(folder, measure, given):
    """A pass over what one item needs, beside PyTorch's and, where they were exported, ONNX Runtime's."""
    module, inputs = load(folder)
    batch, tensors, peers = given.batch, inputs(given.batch), {}
    for dtype in given.torch_dtypes:
        copied = in_dtype(module, dtype)
        cast = [t.to(TORCH_DTYPES[dtype]) if t.is_floating_point() else t for t in tensors]
        peers["PyTorch " + dtype] = lambda copied=copied, cast=cast: measure.cost(lambda: copied(*cast), batch)
    for peer, path in (("ONNX Runtime f32", f"{folder}.{batch}.onnx"), ("ONNX Runtime int8", f"{folder}.{batch}.int8.onnx")):
        if os.path.exists(path):
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = measure.threads
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            fed = {given.name: tensor.numpy() for given, tensor in zip(session.get_inputs(), tensors)}
            peers[peer] = lambda session=session, fed=fed: measure.cost(lambda: session.run(None, fed), batch)
    names = ["encode_images"] + ([] if len(tensors) == 1 else ["score_pairs", "encode_texts"])
    for dtype in given.dtypes:
        peers["vlmd " + dtype] = lambda dtype=dtype: measure.ours(folder, batch, dtype, *names)
    return peers


def compare(peers, rounds):
    best = dict.fromkeys(peers, float("inf"))
    for _ in range(rounds):
        for name, cost in peers.items():
            time.sleep(0.05)  # threads of the one before go to sleep
            best[name] = min(best[name], cost())
    return best


def tell(label, best):
    for name, value in best.items():
        ratios = [f"{best[peer] / value:.2f} times as fast as {peer}" for peer in best if not peer.startswith("vlmd")]
        told = "   " + ", ".join(ratios) if name.startswith("vlmd") else ""
        print(f"{label} {name:17} {value:8.2f} ms{told}", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("action", choices=["export", "run", "captions"])
    arguments.add_argument("folder")
    arguments.add_argument("--int8", action="store_true", help="export with weights quantised, too")
    arguments.add_argument("--batch", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=float, default=1.5, help="of each program in each round")
    arguments.add_argument("--dtypes", nargs="+", default=["f32"], help="vlmd's")
    arguments.add_argument("--torch-dtypes", nargs="+", default=["f32"], choices=TORCH_DTYPES)
    arguments.add_argument("--all-cores", action="store_true")
    arguments.add_argument("--json", action="store_true", help="one line with the milliseconds per item and the versions")
    arguments.add_argument("--program", default="build/tests/bench/bench_forward")
    arguments.add_argument("--cache", help="folder for vlmd's converted weights")
    given = arguments.parse_args()
    torch.set_grad_enabled(False)
    if given.action == "export":
        return export(given.folder, given.batch, given.int8)
    measure = Measure(given)
    peers = {"run": passes, "captions": captions}[given.action](given.folder, measure, given)
    best = compare(peers, given.rounds)
    if given.json:
        print(json.dumps({"ms": best, "threads": measure.threads, "versions": versions()}))
    else:
        tell(f"{os.path.basename(given.folder)} batch {given.batch}", best)


def versions():
    """Of the packages that took part."""
    return {name: sys.modules[name].__version__.split("+")[0] for name in ("torch", "onnxruntime", "transformers") if name in sys.modules}


if __name__ == "__main__":
    main()
