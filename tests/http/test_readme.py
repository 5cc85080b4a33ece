"""test_readme.py: the README's client snippets do what they say: each is taken from between its markers and run, the
plain ones by what is there, OpenAI's clients as their registries give them."""
import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import textwrap
import unittest

from browser import CHROMIUM, Browser
from clients import node_with, python_with
from harness import PATIENCE_S, ROOT, ServerTest, image_bytes

with open(os.path.join(ROOT, "README.md")) as file:
    README = file.read()


def snippet(name, url):
    found = re.search(rf"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", README, re.S)
    assert found, f"the README has no snippet {name}"
    code = textwrap.dedent(found.group(1))
    assert "http://localhost:8080" in code, name
    return code.replace("http://localhost:8080", url)


class Clients(ServerTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.url = "http://%s:%d" % cls.server.address
        cls.answer = cls.server.post("/v1/vqa?question=what+is+it%3F", image_bytes(), {"Content-Type": "image/jpeg"}).json["answer"]

    def run_file(self, code, name, *program, **options):
        """What a program prints that reads the code from a file, in a directory that has the picture."""
        with tempfile.TemporaryDirectory() as directory:
            with open(os.path.join(directory, "cat.jpg"), "wb") as picture:
                picture.write(image_bytes())
            with open(os.path.join(directory, name), "w") as script:
                script.write(code)
            done = subprocess.run([*program, name], capture_output=True, text=True, cwd=directory, timeout=PATIENCE_S, **options)
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        return done.stdout

    def test_python(self):
        self.assertIn(self.answer, self.run_file(snippet("python", self.url), "ask.py", "python3"))

    def test_openai_python(self):
        python = python_with("openai==3.57.0")
        out = self.run_file(snippet("openai-python", self.url), "ask.py", python)
        self.assertIn(self.answer, out)
        self.assertRegex(out, r"2 vectors of \d+")

    @unittest.skipUnless(shutil.which("node"), "no Node.js here")
    def test_openai_node(self):
        # A module's imports are found beside its file or above: the script goes where the package is.
        directory = node_with("openai@6.49.0")
        with tempfile.TemporaryDirectory(dir=directory) as inside:
            with open(os.path.join(inside, "cat.jpg"), "wb") as picture:
                picture.write(image_bytes())
            with open(os.path.join(inside, "ask.mjs"), "w") as script:
                script.write(snippet("openai-node", self.url))
            done = subprocess.run(["node", "ask.mjs"], capture_output=True, text=True, cwd=inside, timeout=PATIENCE_S)
        self.assertEqual((done.returncode, done.stdout), (0, self.answer), done.stderr[-2000:])

    @unittest.skipUnless(shutil.which("node"), "no Node.js here")
    def test_fetch_in_node(self):
        head = "import {readFileSync} from 'node:fs';\nconst file = new Blob([readFileSync('cat.jpg')]);\n"
        self.assertIn(self.answer, self.run_file(head + snippet("fetch", self.url), "ask.mjs", "node"))

    @unittest.skipUnless(CHROMIUM, "no Chromium here")
    def test_fetch_in_a_browser(self):
        browser = Browser()
        try:
            browser.go(self.url + "/docs")
            picture = base64.b64encode(image_bytes()).decode()
            said = browser.run(f"""(async () => {{
                const said = [], console = {{log: (...words) => said.push(words.join(' '))}};
                const file = new File([Uint8Array.from(atob({json.dumps(picture)}), (c) => c.charCodeAt(0))], 'cat.jpg', {{type: 'image/jpeg'}});
                {snippet("fetch", self.url)}
                return said.join('\\n');
            }})()""")
            self.assertIn(self.answer, said)
        finally:
            browser.close()


if __name__ == "__main__":
    unittest.main()
