"""peers.py: `./dev bench --peers`, vlmd beside PyTorch and ONNX Runtime with the same weights in the same run.

    ./dev bench --peers [--quick] [--rounds N] [--seconds S] [--only ROW...] [--models-dir DIR] [--out FOLDER]

1. A virtual environment outside the repository gets tests/bench/peers-requirements.txt ($VLMD_PEERS_VENV, else
   ~/.cache/vlmd/peers-venv; some 6 GB where PyTorch's CPU wheels cannot be reached). One that has them is taken as it is.
2. Checkpoints of public size with random weights are made in --models-dir (~/.cache/vlmd/peers; 4 GB), and what ONNX
   Runtime reads.
3. The chip's limits are measured (bench_limits), then row by row all programs, taking turns (encoder_peers.py).
4. peers.json and peers.svg are written to --out (build/peers), the tables are printed.

A ROW is `limits` or SUITE:BATCH:all|one, as in `clip-b32:8:all`; with --only the other rows stay as peers.json has them.
Nothing else should compute meanwhile. This file needs no package; what needs them runs in the environment.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys

import peers_report

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.normpath(os.path.join(HERE, "..", ".."))
REQUIREMENTS = os.path.join(HERE, "peers-requirements.txt")
BENCH = os.path.join(ROOT, "build", "tests", "bench")
CACHE = os.path.expanduser("~/.cache/vlmd")
VENV_GB, MODELS_GB = 7, 4

# suite: its checkpoint as make_real_size.py calls it, how encoder_peers.py measures it, whether ONNX Runtime takes part
SUITES = {"clip-b32": ("clip-b32", "run", True), "blip-vision": ("blip-caption", "run", False), "blip-caption": ("blip-caption", "captions", False)}


def say(text):
    print(text, file=sys.stderr, flush=True)


def need_disk(folder, gigabytes):
    os.makedirs(folder, exist_ok=True)
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes:
        sys.exit(f"{folder}: {free:.1f} GB are free, {gigabytes} are needed")


def environment():
    """The Python that has the packages."""
    venv = os.environ.get("VLMD_PEERS_VENV") or os.path.join(CACHE, "peers-venv")
    python = os.path.join(venv, "bin", "python")
    asked = [python, "-c", "import torch, onnxruntime, transformers, onnx"]
    if os.path.exists(python) and subprocess.run(asked, capture_output=True).returncode == 0:
        return python
    need_disk(venv, VENV_GB)
    say(f"== installing PyTorch and ONNX Runtime into {venv}")
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with open(REQUIREMENTS, encoding="utf-8") as file:
        torch = re.search(r"^torch==.*$", file.read(), re.M)[0]
    # The build without CUDA, a tenth of PyPI's, has an index of its own; on a CPU both compute the same.
    if subprocess.run([*install, "--retries", "0", "--timeout", "10", "--index-url", "https://download.pytorch.org/whl/cpu", torch],
                      capture_output=True).returncode:
        say("   PyTorch's own index cannot be reached: PyPI's build, with CUDA's libraries")
    subprocess.run([*install, "-r", REQUIREMENTS], check=True)
    return python


def make_models(python, folder, suites):
    for suite in suites:
        kind, _, with_onnx = SUITES[suite]
        path = os.path.join(folder, kind)
        if not os.path.exists(path + ".reference.json"):
            need_disk(folder, MODELS_GB)
            say(f"== making {path}")
            subprocess.run([python, os.path.join(ROOT, "tests", "reference", "make_real_size.py"), kind, path], check=True)
        for batch in peers_report.SUITES[suite][1] if with_onnx else []:
            if not os.path.exists(f"{path}.{batch}.int8.onnx"):
                need_disk(folder, 1)
                say(f"== exporting {path}.{batch}.onnx")
                subprocess.run([python, "-W", "ignore", os.path.join(HERE, "encoder_peers.py"), "export", path, "--batch", str(batch), "--int8"],
                               check=True, stdout=subprocess.DEVNULL)


def chip():
    out = subprocess.run(["lscpu"], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=True).stdout
    name = re.search(r"^Model name: *(.*)$", out, re.M)[1]
    flags = set(re.search(r"^Flags: *(.*)$", out, re.M)[1].split()) if re.search(r"^Flags:", out, re.M) else set()
    units = [told for flag, told in (("avx512f", "AVX-512"), ("avx512_vnni", "VNNI"), ("avx512_bf16", "BF16"), ("amx_int8", "AMX")) if flag in flags]
    return re.sub(r"\((R|TM)\)", "", name) + (f" ({', '.join(units)})" if units else "")


def measure_limits(results):
    """The first unit of a form is the fastest that the chip has."""
    out = subprocess.run([os.path.join(BENCH, "bench_limits")], capture_output=True, text=True, check=True).stdout
    results["threads"] = int(re.search(r"with (\d+) threads", out)[1])
    limits = {}
    for form, unit, many, one in re.findall(r"^(\w+) by (\w+): ([0-9.]+) ([0-9.]+) GFLOP/s$", out, re.M):
        limits.setdefault(form, {"unit": unit, "all": float(many), "one": float(one)})
    many, one = re.search(r"^memory reads: ([0-9.]+) ([0-9.]+) GB/s$", out, re.M).groups()
    results["limits"] = {**limits, "reads": {"all": float(many), "one": float(one)}}
    print(out, end="", flush=True)


def measure_row(results, row, python, folder, given):
    suite, batch, threads = row.split(":")
    kind, action, _ = SUITES[suite]
    programs = peers_report.SUITES[suite][2]
    command = [python, "-W", "ignore", os.path.join(HERE, "encoder_peers.py"), action, os.path.join(folder, kind), "--batch", batch, "--json"]
    command += ["--rounds", "1" if given.quick else str(given.rounds), "--seconds", "0.3" if given.quick else str(given.seconds)]
    command += ["--dtypes", *(name.split()[1] for name in programs if name.startswith("vlmd"))]
    command += ["--torch-dtypes", *(name.split()[1] for name in programs if name.startswith("PyTorch"))]
    command += ["--program", os.path.join(BENCH, "bench_forward"), "--cache", os.path.join(folder, "cache")]
    command += ["--all-cores"] if threads == "all" else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout.strip().splitlines()[-1])
    missing = [name for name in programs if name not in told["ms"]]
    if missing:
        sys.exit(f"{row}: {', '.join(missing)} did not take part")
    results["rows"][row] = {name: round(told["ms"][name], 3) for name in programs}
    results["versions"].update(told["versions"])
    print(f"{row:20} " + "  ".join(f"{name} {peers_report.short(1000 / ms)}/s" for name, ms in results["rows"][row].items()), flush=True)


def main():
    rows = ["limits"] + [f"{suite}:{batch}:{threads}" for threads in ("all", "one") for suite in SUITES
                         for batch in peers_report.SUITES[suite][1]]
    arguments = argparse.ArgumentParser(prog="./dev bench --peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="one short round: a look, not a measurement")
    arguments.add_argument("--rounds", type=int, default=3, help="how often all take their turn; the best counts (3)")
    arguments.add_argument("--seconds", type=float, default=1, help="how long a turn is at least (1)")
    arguments.add_argument("--only", nargs="+", metavar="ROW", choices=rows, help="measure these: " + " ".join(rows))
    arguments.add_argument("--models-dir", default=os.path.join(CACHE, "peers"), help="where the checkpoints are or go")
    arguments.add_argument("--out", default=os.path.join(ROOT, "build", "peers"), help="where peers.json and peers.svg go")
    given = arguments.parse_args()
    wanted = given.only or rows
    results = {"chip": chip(), "threads": 0, "versions": {}, "limits": {}, "rows": {}}
    if given.only and os.path.exists(os.path.join(given.out, "peers.json")):
        results = peers_report.read(given.out)
    if not results["limits"] and "limits" not in wanted:
        wanted = ["limits", *wanted]
    folder = os.path.abspath(given.models_dir)
    python = environment()
    make_models(python, folder, [suite for suite in SUITES if any(row.startswith(suite + ":") for row in wanted)])
    os.makedirs(os.path.join(folder, "cache"), exist_ok=True)
    for row in wanted:
        if row == "limits":
            measure_limits(results)
        else:
            measure_row(results, row, python, folder, given)
        tables = peers_report.write(given.out, results)
    print("\n" + tables + f"\n{given.out}/peers.json and peers.svg hold this.")


if __name__ == "__main__":
    main()
