"""encoder_peers.py: an encoder's forward pass beside PyTorch's and ONNX Runtime's, on one core.

    python tests/bench/encoder_peers.py export FOLDER [--int8]     once: FOLDER.BATCH.onnx (needs onnx)
    python tests/bench/encoder_peers.py run FOLDER [--batch 1] [--rounds 3] [--dtypes f32 bf16 int8]
    python tests/bench/encoder_peers.py captions FOLDER [the same]  20 tokens from a picture, for a BLIP captioner

FOLDER is a checkpoint of tests/reference/make_real_encoders.py or of the public model. What is timed is all that a new
picture and a text (CLIPSeg, OWL-ViT, ViLT) or a picture (the others) cost, as processor time, which hardly depends on
what else runs. Programs take turns; the best of the rounds counts.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "reference"))
N_TOKENS, SECONDS = 12, 1.5


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
    if name == "CLIPModel" or name == "SiglipModel":
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

        quantize_dynamic(path, f"{folder}.{batch}.int8.onnx", weight_type=QuantType.QInt8, per_channel=True)


def cost(run, n):
    """Processor time per item in ms, over SECONDS or at least two passes; the first is not counted."""
    run()
    passes, begin = 0, time.process_time()
    while passes < 2 or time.process_time() < begin + SECONDS:
        run()
        passes += 1
    return (time.process_time() - begin) * 1e3 / (n * passes)


def ours(program, folder, n, dtype):
    """The same for the passes that one item needs, one after another."""
    out = subprocess.run([program, "--dtype", dtype, folder, str(n)], capture_output=True, text=True, check=True).stdout
    costs = {name: float(ms) for name, ms in re.findall(r"^(\w+) .* ([0-9.]+) ms of processor time", out, re.M)}
    passes = ["encode_images"] + (["score_pairs"] if "score_pairs" in costs else [])
    if "score_pairs" in costs and "encode_texts" in costs:
        passes.append("encode_texts")
    return sum(costs[name] for name in passes)


N_CAPTION_TOKENS = 20  # bench_forward's


def captions(folder, batch, rounds, program, dtypes):
    """A picture and N_CAPTION_TOKENS greedy tokens, keys and values cached, beside PyTorch's generate()."""
    import transformers

    model = transformers.BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    torch.set_num_threads(1)
    side = model.config.vision_config.image_size
    pixels = torch.randn(batch, 3, side, side)
    decoder, start, end = model.text_decoder, model.config.text_config.bos_token_id, model.config.text_config.sep_token_id

    def generate():
        rows = model.vision_model(pixel_values=pixels)[0]
        made = decoder.generate(input_ids=torch.full((batch, 1), start), encoder_hidden_states=rows, eos_token_id=end,
                                pad_token_id=model.config.text_config.pad_token_id, do_sample=False, num_beams=1,
                                min_new_tokens=N_CAPTION_TOKENS, max_new_tokens=N_CAPTION_TOKENS)
        assert made.shape[1] == 1 + N_CAPTION_TOKENS

    def whole(dtype):
        out = subprocess.run([program, "--dtype", dtype, folder, str(batch)], capture_output=True, text=True, check=True)
        print(out.stdout, end="", flush=True)
        return float(re.search(r"^captions .* ([0-9.]+) ms of processor time", out.stdout, re.M)[1])

    peers = {"pytorch": lambda: cost(generate, batch), "pytorch vision": lambda: cost(lambda: model.vision_model(pixel_values=pixels), batch)}
    peers |= {"vlmd " + dtype: lambda dtype=dtype: whole(dtype) for dtype in dtypes}
    compare(folder, batch, rounds, peers)


def compare(folder, batch, rounds, peers):
    best = dict.fromkeys(peers, float("inf"))
    for _ in range(rounds):
        for name, measure in peers.items():
            best[name] = min(best[name], measure())
    for name, value in best.items():
        ratios = [f"{best[peer] / value:.2f} times as fast as {peer}" for peer in best if not peer.startswith("vlmd")]
        told = "   " + ", ".join(ratios) if name.startswith("vlmd") else ""
        print(f"{os.path.basename(folder)} batch {batch} {name:16} {value:8.2f} ms{told}")


def run(folder, batch, rounds, program, dtypes):
    module, inputs = load(folder)
    torch.set_num_threads(1)
    tensors, peers = inputs(batch), {}
    peers["pytorch"] = lambda: cost(lambda: module(*tensors), batch)
    for peer, path in (("onnxruntime", f"{folder}.{batch}.onnx"), ("onnxruntime int8", f"{folder}.{batch}.int8.onnx")):
        if os.path.exists(path):
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            fed = {given.name: tensor.numpy() for given, tensor in zip(session.get_inputs(), tensors)}
            peers[peer] = lambda session=session, fed=fed: cost(lambda: session.run(None, fed), batch)
    for dtype in dtypes:
        peers["vlmd " + dtype] = lambda dtype=dtype: ours(program, folder, batch, dtype)
    compare(folder, batch, rounds, peers)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("action", choices=["export", "run", "captions"])
    arguments.add_argument("folder")
    arguments.add_argument("--int8", action="store_true", help="export with weights quantised, too")
    arguments.add_argument("--batch", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--dtypes", nargs="+", default=["f32"])
    arguments.add_argument("--program", default="build/tests/bench/bench_forward")
    given = arguments.parse_args()
    torch.set_grad_enabled(False)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if given.action == "export":
        export(given.folder, given.batch, given.int8)
    else:
        {"run": run, "captions": captions}[given.action](given.folder, given.batch, given.rounds, given.program, given.dtypes)


if __name__ == "__main__":
    main()
