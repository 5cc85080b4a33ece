"""test_readme.py: the README's client snippets do what they say: each is taken from between its markers and run."""
import base64
import contextlib
import io
import json
import os
import re
import textwrap
import unittest

from browser import CHROMIUM, Browser
from harness import ROOT, ServerTest, image_bytes

with open(os.path.join(ROOT, "README.md")) as file:
    README = file.read()


def snippet(name, url):
    found = re.search(rf"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", README, re.S)
    return textwrap.dedent(found.group(1)).replace("http://localhost:8080", url) if found else None


class Clients(ServerTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.url = "http://%s:%d" % cls.server.address
        cls.answer = cls.server.post("/v1/vqa?question=what+is+it%3F", image_bytes(), {"Content-Type": "image/jpeg"}).json

    def setUp(self):
        if "<!-- fetch:begin -->" not in README:
            self.skipTest("the README has no client snippets")

    def test_python(self):
        code = snippet("python", self.url).replace('"cat.jpg"', repr(os.path.join(ROOT, "tests/data/images/photo_97x61.jpg")))
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own README
        self.assertIn(self.answer["answer"], out.getvalue())

    @unittest.skipUnless(CHROMIUM, "no Chromium here")
    def test_fetch(self):
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
            self.assertIn(self.answer["answer"], said)
        finally:
            browser.close()


if __name__ == "__main__":
    unittest.main()
