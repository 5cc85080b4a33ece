"""test_browser.py: the web page in a real browser: every tab used, nothing loaded from elsewhere, no script errors.

Skipped where no Chromium is installed. VLMD_TEST_SCREENSHOTS=DIR keeps pictures of each step."""
import glob
import os
import unittest

from browser import CHROMIUM, Browser
from harness import MODELS, ROOT, Server

SHOTS = os.environ.get("VLMD_TEST_SCREENSHOTS")


@unittest.skipUnless(CHROMIUM, "no Chromium here")
class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(MODELS)
        cls.url = "http://%s:%d/" % cls.server.address
        cls.browser = Browser()

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        if (status := cls.server.stop()) != 0:
            raise AssertionError(f"the server ended with status {status}:\n{cls.server.log()[-4000:]}")

    def setUp(self):
        self.browser.problems.clear()
        self.browser.requests.clear()
        self.base = self.url
        self.browser.go("about:blank")
        self.browser.size(1200, 900)

    def tearDown(self):
        self.assertEqual(self.browser.problems, [])
        for url in self.browser.requests:
            self.assertTrue(url.startswith((self.url, self.base, "blob:", "data:", "about:")), url)

    def shot(self, name):
        if SHOTS:
            self.browser.screenshot(os.path.join(SHOTS, name + ".png"))

    def open(self, tab):
        self.browser.go(self.base + "#" + tab)
        self.browser.until(f"document.querySelector('#tab-{tab}[aria-selected=true]')")

    def submit(self, panel):
        """Presses the panel's button; the text of what came of it."""
        b = self.browser
        b.run(f"document.querySelector('#panel-{panel} button.go').click()")
        b.until(f"document.querySelector('#panel-{panel} .result .copies, #panel-{panel} .result .fault')"
                f" && !document.querySelector('#panel-{panel} .result[aria-busy]')")
        self.assertIsNone(b.run(f"(document.querySelector('#panel-{panel} .fault') || {{}}).textContent"))
        return b.run(f"document.querySelector('#panel-{panel} .result').innerText")

    def test_caption_and_its_code(self):
        b = self.browser
        self.open("caption")
        self.assertIn("Serves clip, captioner", b.run("document.querySelector('#served').textContent"))
        b.run("document.querySelector('[data-sample=\"a-dog.jpg\"]').click()")
        b.until("document.querySelector('#about').textContent.includes('320 × 320')")
        b.run("document.querySelector('#panel-caption').elements.num_beams.value = 2")
        b.run("document.querySelector('#panel-caption').elements.n.value = 2")
        text = self.submit("caption")
        self.assertIn("ms in the server", text)
        self.assertEqual(b.run("document.querySelectorAll('#panel-caption ol.texts li').length"), 2)
        for i, words in enumerate((["curl", "image=@a-dog.jpg"], ["FormData", "fetch("], ["requests.post", "a-dog.jpg"])):
            b.run(f"document.querySelectorAll('#panel-caption .copies button')[{i}].click()")
            b.until(f"document.querySelector('#panel-caption pre').textContent.includes('{words[0]}')")
            code = b.run("document.querySelector('#panel-caption pre').textContent")
            for word in words + ["v1/caption", "num_beams"]:
                self.assertIn(word, code)
        self.shot("caption")

    def test_a_conversation(self):
        b = self.browser
        self.open("ask")
        for question in ("what is it?", "how many are there?"):
            b.run(f"document.querySelector('#panel-ask').elements.question.value = '{question}'")
            self.submit("ask")
        self.assertEqual(b.run("document.querySelectorAll('#talk .asked').length"), 2)
        self.assertEqual(b.run("document.querySelectorAll('#talk .said').length"), 2)
        self.shot("ask")

    def test_labels_and_texts(self):
        b = self.browser
        self.open("classify")
        self.submit("classify")
        self.assertEqual(b.run("document.querySelectorAll('#panel-classify .bars li').length"), 4)
        self.assertEqual(b.run("document.querySelector('#model').value"), "clip")
        self.shot("classify")
        b.run("document.querySelector('#how input[value=match]').click()")
        self.assertEqual(b.run("document.querySelector('#model').value"), "matcher")
        b.run("document.querySelector('#panel-classify .result').replaceChildren()")
        self.submit("classify")
        self.assertEqual(b.run("document.querySelectorAll('#panel-classify .bars li').length"), 4)

    def test_a_gallery_is_filled_and_searched(self):
        b = self.browser
        self.open("search")
        b.until("document.querySelector('#panel-search .result').textContent.includes('no collection')")
        pictures = sorted(glob.glob(os.path.join(ROOT, "models/samples/*.*g")))
        # Chromium notes the 404 that tells a new collection; that is no fault of the page.
        b.choose_files("#many", pictures)
        b.until(f"document.querySelectorAll('#gallery img[src^=blob]').length === {len(pictures)}")
        self.assertIn(f"{len(pictures)} items", b.run("document.querySelector('#panel-search .result').innerText"))
        self.shot("gallery")
        b.run("document.querySelector('#search-form').elements.text.value = 'a dog'")
        self.submit("search")
        scores = b.run("[...document.querySelectorAll('#gallery .score')].map((each) => Number(each.textContent))")
        self.assertEqual(len(scores), len(pictures))
        self.assertEqual(scores, sorted(scores, reverse=True))
        b.run("document.querySelector('[data-sample=\"a-dog.jpg\"]').click()")
        b.until("document.querySelector('#about').textContent.startsWith('a-dog.jpg')")
        b.run("document.querySelector('#similar').click()")
        b.until("document.querySelector('#gallery li .name span') && document.querySelector('#gallery li .name span').title === 'a-dog.jpg'")
        self.shot("search")
        self.browser.problems[:] = [p for p in b.problems if "404" not in p]

    def test_absent_tasks_have_no_tab(self):
        self.open("caption")
        self.assertEqual(self.browser.run("[...document.querySelectorAll('#tabs button')].map((b) => b.textContent)"),
                         ["Caption", "Ask", "Search", "Classify"])

    def test_keys_move_between_tabs(self):
        b = self.browser
        self.open("caption")
        b.run("document.querySelector('#tab-caption').focus()")
        for key, tab in (("ArrowRight", "tab-ask"), ("End", "tab-classify"), ("ArrowRight", "tab-caption"), ("ArrowLeft", "tab-classify")):
            b.key(key)
            self.assertEqual(b.run("document.activeElement.id"), tab)
            self.assertEqual(b.run("document.querySelectorAll('[role=tabpanel]:not([hidden])').length"), 1)
        unnamed = b.run("""[...document.querySelectorAll('input, select, textarea, button')].filter((e) =>
            !e.labels?.length && !e.textContent.trim() && !e.getAttribute('aria-label')).map((e) => e.outerHTML)""")
        self.assertEqual(unnamed, [])

    def test_faults_are_sentences(self):
        b = self.browser
        self.open("classify")
        b.run("document.querySelector('#panel-classify').elements.template.value = 'no hole'")
        b.run("document.querySelector('#panel-classify button.go').click()")
        b.until("document.querySelector('#panel-classify .fault')")
        self.assertIn("must contain {}", b.run("document.querySelector('#panel-classify .fault').textContent"))
        self.browser.problems[:] = [p for p in b.problems if "422" not in p]

    def test_phone_and_dark(self):
        b = self.browser
        b.size(360, 740, phone=True)
        self.open("classify")
        b.run("document.querySelector('input[name=theme][value=dark]').click()")
        self.submit("classify")
        self.assertLessEqual(b.run("document.documentElement.scrollWidth"), 360)
        self.assertEqual(b.run("new Set([...document.querySelectorAll('#tabs button')].map((each) => each.offsetTop)).size"), 1)
        self.assertEqual(b.run("getComputedStyle(document.documentElement).colorScheme"), "dark")
        self.shot("phone")
        b.run("document.querySelector('input[name=theme][value=\"\"]').click()")

    def test_boxes_and_masks_are_drawn(self):
        """Of replies made up here, so that this needs no such models."""
        b = self.browser
        stub = b.call("Page.addScriptToEvaluateOnNewDocument", source="""
            const canvas = document.createElement('canvas');
            canvas.width = canvas.height = 256;
            const context = canvas.getContext('2d');
            context.fillStyle = '#000';
            context.fillRect(0, 0, 256, 256);
            context.fillStyle = '#fff';
            context.fillRect(160, 120, 70, 110);
            const timings = {queue_ms: 1, preprocess_ms: 2, forward_ms: 3, total_ms: 7, batch_size: 4};
            const made = {
              'info': {version: '0', defaults: {}, models: [{id: 'owl', tasks: ['detect', 'segment'], architecture: 'X', parameters: 1, dtype: 'f32'}]},
              'v1/detect': {model: 'owl', timings, detections: [
                {label: 'a banana', score: 0.93, box: {xmin: 158, ymin: 120, xmax: 232, ymax: 230}},
                {label: 'a strawberry', score: 0.41, box: {xmin: 20, ymin: 22, xmax: 84, ymax: 92}}]},
              'v1/segment': {model: 'owl', timings, masks: [
                {prompt: 'a banana', width: 256, height: 256, mask: canvas.toDataURL(), area: 7700, box: null}]},
            };
            const real = window.fetch;
            window.fetch = (path, options) => made[path]
              ? Promise.resolve(new Response(JSON.stringify(made[path]), {headers: {'Content-Type': 'application/json'}}))
              : real(path, options);""")
        try:
            self.open("detect")
            self.assertEqual(b.run("[...document.querySelectorAll('#tabs button')].map((b) => b.textContent)"), ["Detect", "Segment"])
            self.submit("detect")
            self.assertEqual(b.run("document.querySelectorAll('#boxes .box').length"), 2)
            self.assertEqual(b.run("document.querySelector('#boxes').getAttribute('viewBox')"), "0 0 256 256")
            stage, box = (b.run(f"(() => {{ const r = document.querySelector('{s}').getBoundingClientRect(); return [r.x, r.width]; }})()")
                          for s in ("#shown", "#boxes .box:nth-last-of-type(2)"))
            self.assertAlmostEqual((box[0] - stage[0]) / stage[1], 158 / 256, delta=0.02)  # the best one is drawn last
            self.shot("detect")
            b.run("document.querySelector('#tab-segment').click()")
            self.assertEqual(b.run("document.querySelector('#boxes').childElementCount"), 0)
            self.submit("segment")
            alpha = "document.querySelector('#masks').getContext('2d').getImageData(%d, %d, 1, 1).data[3]"
            self.assertGreater(b.run(alpha % (200, 150)), 100)
            self.assertEqual(b.run(alpha % (20, 20)), 0)
            self.assertIn("12 %", b.run("document.querySelector('#panel-segment .bars').innerText"))
            self.shot("segment")
        finally:
            b.call("Page.removeScriptToEvaluateOnNewDocument", identifier=stub["identifier"])

    def test_things_are_found_and_marked(self):
        b = self.browser
        server = Server({"finder": "owlvit-tiny", "marker": "clipseg-tiny"})
        self.base = "http://%s:%d/" % server.address
        try:
            self.open("detect")
            b.run("document.querySelector('#panel-detect').elements.threshold.value = 0")
            self.submit("detect")
            self.assertGreater(b.run("document.querySelectorAll('#boxes .box').length"), 0)
            self.open("segment")
            self.submit("segment")
            self.assertEqual(b.run("document.querySelectorAll('#panel-segment .bars li').length"), 2)
            self.assertEqual(b.run("document.querySelector('#masks').width"), 256)
        finally:
            b.go("about:blank")
            self.assertEqual(server.stop(), 0)

    def test_docs_show_every_operation(self):
        b = self.browser
        b.go(self.url + "docs")
        b.until("document.querySelector('#caption')")
        paths = self.server.get("/openapi.json").json["paths"]
        self.assertEqual(b.run("document.querySelectorAll('.op').length"), sum(len(each) for each in paths.values()))
        b.run("document.querySelector('#caption').open = true")
        b.until("document.querySelector('#caption pre')")
        self.assertIn("num_beams", b.run("document.querySelector('#caption').innerText"))
        self.shot("docs")


if __name__ == "__main__":
    unittest.main()
