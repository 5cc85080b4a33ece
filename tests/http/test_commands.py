"""test_commands.py: the subcommands, as a person at a terminal meets them."""
import base64
import collections
import html.parser
import json
import os
import shutil
import tempfile
import unittest

from harness import DATA, IMAGES, MODELS, Server, image_bytes, run

PHOTO = os.path.join(IMAGES, "photo_97x61.jpg")
ALL = [word for name, directory in MODELS.items() for word in ("--model", f"{name}={DATA}/checkpoints/{directory}")]


class Sheet(html.parser.HTMLParser):
    """What a browser finds in a page: how many of each tag, the pictures, the links, the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.links, self.text = collections.Counter(), [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.images += [value for name, value in attributes if name == "src"]
        self.links += [value for name, value in attributes if name == "href"]

    def handle_data(self, data):
        self.text += data


class Commands(unittest.TestCase):
    def test_help_has_examples_and_usage_is_2(self):
        status, out, _ = run("--help")
        commands = [line.split()[1] for line in out.splitlines() if line.startswith("  vlmd ")]
        for command in ("serve", "caption", "ask", "match", "classify", "embed", "index", "search", "models",
                        "inspect", "config"):
            self.assertIn(command, commands)
            status, text, _ = run(command, "--help")
            self.assertIn(f"  vlmd {command}", text)
        self.assertEqual(run(check=False)[0], 2)
        self.assertEqual(run("frobnicate", check=False)[0], 2)
        self.assertEqual(run("ask", PHOTO, check=False)[0], 2)
        self.assertEqual(run("serve", "--nonsense", "1", check=False)[0], 2)
        for option, command, takers in (("draw", ["caption", PHOTO], ("detect", "segment")),
                                        ("draw", ["search", "mine", "a cat"], ("detect", "segment")),
                                        ("html", ["detect", PHOTO, "cat"], ("search",)),
                                        ("html", ["embed", "a cat"], ("search",))):
            status, out, err = run(*command, f"--{option}", "/nonexistent/out", check=False)
            self.assertEqual((status, out), (2, ""))
            for taker in takers:
                self.assertIn(f"`vlmd {taker}`", err)

    def test_caption_ask_match_classify(self):
        caption = run("caption", PHOTO, *ALL)[1].strip()
        self.assertTrue(caption)
        with open(PHOTO, "rb") as file:
            self.assertEqual(run("caption", "-", *ALL, stdin=file.read())[1].strip(), caption)
        two = run("caption", "--num-beams", "3", PHOTO, os.path.join(IMAGES, "wide_200x150.jpg"), *ALL)[1]
        self.assertIn(f"{PHOTO}: ", two)
        reply = json.loads(run("caption", "--json", PHOTO, *ALL)[1])
        self.assertEqual(reply["caption"], caption)
        self.assertTrue(run("ask", PHOTO, "what colour is the cat?", *ALL)[1].strip())
        self.assertEqual(len(run("match", PHOTO, "a cat", "a dog", *ALL)[1].splitlines()), 2)
        lines = run("classify", PHOTO, "cat", "dog & more", *ALL)[1].splitlines()
        self.assertEqual({line.split("  ")[1] for line in lines}, {"cat", "dog & more"})
        self.assertAlmostEqual(sum(float(line.split()[0]) for line in lines), 1, places=3)

    def test_embed(self):
        lines = run("embed", PHOTO, "a cat", *ALL)[1].splitlines()
        vectors = [json.loads(line) for line in lines]
        self.assertEqual(len(vectors[0]), len(vectors[1]))

    def test_faults(self):
        status, _, err = run("caption", "/nonexistent.jpg", *ALL, check=False)
        self.assertEqual(status, 1)
        self.assertIn("/nonexistent.jpg", err)
        with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
            file.write(b"text")
            file.flush()
            status, _, err = run("caption", file.name, *ALL, check=False)
            self.assertEqual(status, 1)
            self.assertIn(file.name, err)
        status, _, err = run("caption", "--num-beams", "many", PHOTO, *ALL, check=False)
        self.assertEqual(status, 1)
        self.assertIn("num_beams", err)

    def test_index_and_search(self):
        with tempfile.TemporaryDirectory() as directory:
            pictures = os.path.join(directory, "pictures")
            os.makedirs(os.path.join(pictures, "sub"))
            for name in ("photo_97x61.jpg", "tall_33x120.png"):
                shutil.copy(os.path.join(IMAGES, name), pictures)
            shutil.copy(os.path.join(IMAGES, "wide_200x150.jpg"), os.path.join(pictures, "sub"))
            store = ["--store", f"sqlite:{directory}/c.db", *ALL]
            out = run("index", "mine", pictures, *store)[1]
            self.assertIn("3 added", out)
            with open(os.path.join(pictures, "bad.jpg"), "wb") as file:
                file.write(image_bytes()[:700])
            status, out, _ = run("index", "mine", pictures, *store, check=False)
            self.assertEqual(status, 1)
            self.assertIn("failed: bad.jpg", out)
            self.assertIn("3 unchanged", out)
            lines = run("search", "mine", os.path.join(IMAGES, "wide_200x150.jpg"), *store)[1].splitlines()
            self.assertTrue(lines[0].endswith("sub/wide_200x150.jpg"), lines)
            self.assertEqual(len(run("search", "mine", "a cat", "--top-k", "2", *store)[1].splitlines()), 2)
            self.contact_sheet(directory, store)
            status, _, err = run("search", "other", "a cat", *store, check=False)
            self.assertEqual(status, 1)
            self.assertIn("other", err)

    def contact_sheet(self, directory, store):
        """One page that needs nothing else: a thumbnail per kept picture, everything else as text, and no foreign markup."""
        evil = "<script>alert(1)</script>'\"&\x01"
        lines = [{"id": evil, "text": "a cat", "metadata": {evil: evil, "path": "javascript:alert(1)"}},
                 {"id": "linked", "text": "a cat", "metadata": {"path": "/tmp/a \"b'<c>.jpg"}}]
        run("import", "mine", "-", *store, stdin="\n".join(map(json.dumps, lines)).encode())
        sheet = os.path.join(directory, "sheet.html")
        query = os.path.join(IMAGES, "wide_200x150.jpg")
        out = run("search", "mine", query, "--html", sheet, *store)[1]
        self.assertEqual(len(out.splitlines()), 5)
        with open(sheet, encoding="utf-8") as file:
            text = file.read()
        page = Sheet(text)
        self.assertEqual((page.tags["figure"], page.tags["img"], page.tags["script"]), (5, 4, 0))
        self.assertEqual(text.count("no picture is kept"), 2)
        for source in page.images:
            self.assertTrue(source.startswith("data:image/webp;base64,"))
            head = base64.b64decode(source.split(",")[1])[:12]
            self.assertEqual((head[:4], head[8:]), (b"RIFF", b"WEBP"))
        for line in out.splitlines():
            score, name = line.split("  ", 1)
            self.assertIn(score, page.text)
            self.assertIn(name.replace("\x01", " "), page.text)
        self.assertIn('"size": ', page.text)
        self.assertEqual([link for link in page.links if not link.startswith("file:///")], [])
        self.assertEqual(len(page.links), 4)
        self.assertIn("file:///tmp/a%20%22b%27%3Cc%3E.jpg", page.links)
        self.assertIn("<!doctype html>", run("search", "mine", "a cat", "--json", "--html", "-", *store)[1])
        status, _, err = run("search", "mine", "a cat", "--html", "/nonexistent/x.html", *store, check=False)
        self.assertEqual(status, 1)
        self.assertIn("/nonexistent/x.html", err)
        self.assertEqual([name for name in os.listdir(directory) if name.endswith(".part")], [])

    def test_models_inspect_config(self):
        out = run("models", *ALL)[1]
        self.assertIn("BlipForQuestionAnswering", out)
        with tempfile.TemporaryDirectory() as directory:
            for name in MODELS.values():
                os.symlink(f"{DATA}/checkpoints/{name}", os.path.join(directory, name))
            out = run("models", "--models-dir", directory)[1]
        self.assertIn("clip-tiny", out)
        out = run("inspect", f"{DATA}/checkpoints/clip-gelu-f16-sharded")[1]
        self.assertIn("CLIPModel", out)
        self.assertIn("F16", out)
        self.assertEqual(run("inspect", "/nonexistent", check=False)[0], 1)
        with tempfile.TemporaryDirectory() as directory:  # MaGiC's GPT-2 without its CLIP
            whole = f"{DATA}/checkpoints/magic-tiny"
            for name in set(os.listdir(whole)) - {"clip"}:
                os.symlink(os.path.join(os.path.abspath(whole), name), os.path.join(directory, name))
            status, out, _ = run("inspect", directory, check=False)
            self.assertEqual(status, 1)
            self.assertRegex(out, "servable +no: .*'clip'")
        self.assertRegex(run("inspect", whole)[1], "servable +yes")
        out = run("config", "--set", "max_batch=5", VLMD_MAX_QUEUE="9")[1]
        rows = {line.split("=")[0].strip(): line for line in out.splitlines()}
        self.assertIn("5", rows["max_batch"])
        self.assertIn("# flag", rows["max_batch"])
        self.assertIn("# environment", rows["max_queue"])
        self.assertIn("# default", rows["threads"])

    def test_healthcheck(self):
        server = Server({"clip": "clip-tiny"})
        address = "%s:%d" % server.address
        self.assertEqual(run("healthcheck", "--listen", address)[0], 0)
        server.stop()
        self.assertEqual(run("healthcheck", "--listen", address, check=False)[0], 1)
