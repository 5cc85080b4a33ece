"""test_peers.py: what `./dev bench --peers` writes, from made-up figures and from those that the README shows. Needs no
package of the peers: who measures is not run here."""
import copy
import os
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml

from harness import ROOT

BENCH = os.path.join(ROOT, "tests", "bench")
sys.path.insert(0, BENCH)
import peers  # noqa: E402
import peers_report as report  # noqa: E402

LIMITS = {form: {"unit": "amx", "all": 880.0, "one": 440.0} for form in ("f32", "bf16", "int8")}
MADE_UP = {
    "chip": "A <fast> chip & co", "threads": 2, "versions": {"torch": "9.1", "onnxruntime": "8.2"},
    "limits": {**LIMITS, "reads": {"all": 30.0, "one": 15.0}},
    "rows": {
        "clip-b32:1:all": {"PyTorch f32": 100.0, "ONNX Runtime f32": 50.0, "ONNX Runtime int8": 20.0, "vlmd f32": 40.0,
                           "vlmd bf16": 10.0, "vlmd int8": 5.0},
        "clip-b32:8:one": {"ONNX Runtime f32": 80.0, "vlmd f32": 64.0},
    },
}


def cells(markdown, name):
    """Of the table's line that begins so."""
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip(" *") for cell in line.strip("|").split("|")][1:]


class Report(unittest.TestCase):
    def test_rates_and_ratios(self):
        text = report.markdown(MADE_UP)
        self.assertEqual(cells(text, "CLIP ViT-B/32, pictures/s"), ["2 threads, batch 1", "one core, batch 8"])
        self.assertEqual(cells(text, "ONNX Runtime f32"), ["20.0", "12.5"])
        self.assertEqual(cells(text, "vlmd int8"), ["200", "–"])
        self.assertEqual(cells(text, "vlmd f32 : ONNX Runtime f32"), ["1.25", "1.25"])
        self.assertEqual(cells(text, "vlmd int8 : ONNX Runtime int8"), ["4.00", "–"])
        self.assertEqual(cells(text, "vlmd bf16 : PyTorch bf16"), ["–", "–"])
        self.assertEqual(cells(text, "2 threads, 10⁹ operations/s"), ["880", "880", "880", "30.0 GB/s"])
        self.assertEqual(cells(text, "CLIP ViT-B/32 pictures/s of 8.8 GFLOP at most, 2 threads"), ["100", "100", "100", ""])
        self.assertIn("PyTorch 9.1, ONNX Runtime 8.2", text)
        self.assertNotIn("BLIP", text)  # not measured

    def test_bars_are_as_long_as_the_rates(self):
        root = xml.fromstring(report.svg(MADE_UP))
        space = "{http://www.w3.org/2000/svg}"
        bars = {}
        for rect in root.iter(space + "rect"):
            bars.setdefault(rect.get("class"), []).append(float(rect.get("width")))
        self.assertEqual(sorted(kind for kind in bars), ["onnx", "paper", "pytorch", "vlmd"])
        self.assertEqual([len(bars[kind]) for kind in ("pytorch", "onnx", "vlmd")], [1, 2, 3])  # what was measured, no more
        longest = max(bars["vlmd"])  # 200 a second
        for kind, rates in (("pytorch", [10]), ("onnx", [20, 50]), ("vlmd", [25, 100, 200])):
            for width, rate in zip(bars[kind], rates):
                self.assertAlmostEqual(width / longest, rate / 200, delta=0.002)
        texts = [text.text for text in root.iter(space + "text")]
        self.assertTrue(any("A <fast> chip & co" in text for text in texts), texts)
        sheet = root.find(space + "style").text
        self.assertIn("prefers-color-scheme: dark", sheet)
        width, height = (float(root.get(name)) for name in ("width", "height"))
        for rect in root.iter(space + "rect"):
            self.assertLessEqual(float(rect.get("x", 0)) + float(rect.get("width")), width)
            self.assertLessEqual(float(rect.get("y", 0)) + float(rect.get("height")), height)

    def test_writes_what_it_reads(self):
        with tempfile.TemporaryDirectory() as folder:
            text = report.write(folder, copy.deepcopy(MADE_UP))
            self.assertEqual(report.read(folder), MADE_UP)
            done = subprocess.run([sys.executable, os.path.join(BENCH, "peers_report.py"), folder], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stdout), (0, text), done.stderr)
            with open(os.path.join(folder, "peers.svg"), encoding="utf-8") as file:
                self.assertEqual(file.read(), report.svg(MADE_UP))

    def test_readme_shows_what_was_measured(self):
        results = report.read(BENCH)
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
            readme = file.read()
        self.assertTrue(report.markdown(results) in readme, "python3 tests/bench/peers_report.py tests/bench prints what belongs there")
        self.assertIn("tests/bench/peers.svg", readme)
        with open(os.path.join(BENCH, "peers.svg"), encoding="utf-8") as file:
            self.assertEqual(file.read(), report.svg(results))

    def test_every_row_can_be_measured(self):
        """The suites of both files are the same, and nobody takes part whom encoder_peers.py cannot run."""
        self.assertEqual(set(peers.SUITES), set(report.SUITES))
        for name, (_, _, programs, ratios) in report.SUITES.items():
            self.assertEqual(any("ONNX" in program for program in programs), peers.SUITES[name][2])
            for pair in ratios:
                self.assertLessEqual(set(pair), set(programs))
        done = subprocess.run([sys.executable, os.path.join(BENCH, "peers.py"), "--only", "nonsense"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertRegex(done.stderr, r"clip-b32:8:all")


if __name__ == "__main__":
    unittest.main()
