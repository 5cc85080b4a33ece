"""test_index.py: `vlmd index` on a real folder: what it adds, skips, tells and follows."""
import base64
import json
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest

from harness import BINARY, DATA, IMAGES, PATIENCE_S, clean_environment, image_bytes, run

ALL = ["--model", f"clip={DATA}/checkpoints/clip-tiny"]


class Index(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.pictures = os.path.join(self.directory, "pictures")
        os.makedirs(os.path.join(self.pictures, "sub/.hidden"))
        self.store = ["--store", f"sqlite:{self.directory}/c.db", *ALL]
        for name, source in (("a.jpg", "photo_97x61.jpg"), ("b.PNG", "tall_33x120.png"), ("sub/ü 'c'.jpg", "wide_200x150.jpg")):
            shutil.copy(os.path.join(IMAGES, source), os.path.join(self.pictures, name))
        for name in ("notes.txt", ".d.jpg", "sub/.hidden/e.jpg"):
            with open(os.path.join(self.pictures, name), "wb") as file:
                file.write(image_bytes())

    def index(self, *arguments, status=0):
        rc, out, err = run("index", "mine", self.pictures, *arguments, *self.store, check=False)
        self.assertEqual(rc, status, out + err)
        return out

    def items(self):
        lines = run("export", "mine", "-", *self.store)[1].splitlines()[1:]
        return {item["id"]: item for item in map(json.loads, lines)}

    def path(self, name):
        return os.path.join(self.pictures, name)

    def test_a_second_run_finds_nothing_to_do(self):
        self.assertIn("3 pictures: 3 added, 0 updated, 0 unchanged, 0 failed", self.index())
        first = self.items()
        self.assertEqual(set(first), {"a.jpg", "b.PNG", "sub/ü 'c'.jpg"})
        self.assertEqual(first["a.jpg"]["metadata"]["path"], os.path.realpath(self.path("a.jpg")))
        self.assertIn("3 pictures: 0 added, 0 updated, 3 unchanged, 0 failed", self.index())
        self.assertEqual(self.items(), first)

    def test_a_touched_file_keeps_its_vector_and_a_changed_one_does_not(self):
        self.index()
        first = self.items()
        os.utime(self.path("a.jpg"), ns=(5, 5))
        shutil.copy(os.path.join(IMAGES, "wide_200x150.jpg"), self.path("b.PNG"))
        self.assertIn("0 added, 2 updated, 1 unchanged", self.index())
        second = self.items()
        self.assertEqual(second["a.jpg"]["vector"], first["a.jpg"]["vector"])
        self.assertEqual(second["a.jpg"]["metadata"]["mtime_ns"], 5)
        self.assertEqual(second["a.jpg"]["image"], first["a.jpg"]["image"])
        one, two = (struct.unpack("<16f", base64.b64decode(second[name]["vector"])[:64]) for name in ("b.PNG", "sub/ü 'c'.jpg"))
        self.assertLess(max(abs(x - y) for x, y in zip(one, two)), 1e-4)
        self.assertIn("3 unchanged", self.index())

    def test_faults_are_listed_at_the_end(self):
        for i in range(40):
            with open(self.path(f"sub/bad{i:02}.jpg"), "wb") as file:
                file.write(image_bytes()[:700])
        open(self.path("empty.png"), "wb").close()
        with open(os.path.join(self.pictures.encode(), b"no\xffutf8.jpg"), "wb") as file:
            file.write(image_bytes())
        out = self.index(status=1)
        self.assertIn("3 added, 0 updated, 0 unchanged, 42 failed", out)
        failed = [line for line in out.splitlines() if line.startswith("failed: ")]
        self.assertEqual(len(failed), 42)
        self.assertTrue(any(line.startswith("failed: sub/bad39.jpg: ") for line in failed), failed)
        self.assertIn("3 unchanged, 42 failed", self.index(status=1))

    def test_what_vanished_is_told_or_removed(self):
        self.index()
        run("import", "mine", "-", *self.store, stdin=b'{"id": "other", "text": "not of this folder"}\n')
        shutil.rmtree(self.path("sub"))
        self.assertIn("1 vanished (--prune removes them)", self.index())
        self.assertEqual(len(self.items()), 4)
        self.assertIn("1 vanished, and were removed", self.index("--prune"))
        self.assertEqual(set(self.items()), {"a.jpg", "b.PNG", "other"})
        self.assertNotIn("vanished", self.index("--prune"))

    def test_a_killed_run_goes_on(self):
        for i in range(150):
            with open(self.path(f"{i:03}.jpg"), "wb") as file:
                file.write(image_bytes() + bytes(str(i), "ascii"))
        command = [BINARY, "index", "mine", self.pictures, *self.store]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=clean_environment())
        time.sleep(0.15)
        process.kill()
        process.wait()
        self.assertIn("153 pictures: ", self.index())
        self.assertEqual(len(self.items()), 153)
        self.assertIn("153 unchanged", self.index())

    def test_watch(self):
        command = [BINARY, "index", "mine", self.pictures, "--watch", "--prune", *self.store]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment())
        self.addCleanup(process.stdout.close)

        def line(start=""):
            while True:
                text = process.stdout.readline()
                self.assertTrue(text, "it ended")
                if text.startswith(start):
                    return text

        try:
            self.assertIn("3 added", line())
            line("watching ")
            # Written in two steps, and half of it first: it counts when it is closed.
            with open(self.path("new.jpg"), "wb") as file:
                file.write(image_bytes()[:500])
                file.flush()
                time.sleep(0.5)
                file.write(image_bytes()[500:])
            self.assertIn("1 added, 0 updated, 0 unchanged, 0 failed", line())
            # Written under another name and moved into place, over one that was there.
            shutil.copy(os.path.join(IMAGES, "wide_200x150.jpg"), self.path(".part"))
            os.rename(self.path(".part"), self.path("new.jpg"))
            self.assertIn("0 added, 1 updated", line())
            # A directory that comes whole, one that is filled later, one that goes.
            shutil.copytree(self.path("sub"), os.path.join(self.directory, "other"))
            os.rename(os.path.join(self.directory, "other"), self.path("moved"))
            self.assertIn("1 added", line())
            os.makedirs(self.path("deep/er"))
            time.sleep(0.3)
            shutil.copy(self.path("a.jpg"), self.path("deep/er/x.jpg"))
            self.assertIn("1 added", line())
            os.rename(self.path("deep"), self.path("renamed"))
            self.assertIn("1 added", line())
            self.assertIn("1 vanished, and were removed", line())
            shutil.copy(self.path("a.jpg"), self.path("renamed/er/y.jpg"))
            self.assertIn("1 added", line())
            os.remove(self.path("a.jpg"))
            self.assertIn("1 vanished", line("1 vanished"))
            with open(self.path("bad.jpg"), "wb") as file:
                file.write(b"no picture")
            self.assertIn("failed: bad.jpg", line("failed: "))
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(PATIENCE_S), 0)
        finally:
            process.kill()
            process.wait()
        self.assertEqual(set(self.items()), {"b.PNG", "new.jpg", "sub/ü 'c'.jpg", "moved/ü 'c'.jpg", "renamed/er/x.jpg",
                                             "renamed/er/y.jpg"})

    def test_refusals(self):
        self.assertEqual(run("index", "mine", "/nonexistent", *self.store, check=False)[0], 1)
        self.assertEqual(run("index", "mine", self.path("a.jpg"), *self.store, check=False)[0], 1)


if __name__ == "__main__":
    unittest.main()
