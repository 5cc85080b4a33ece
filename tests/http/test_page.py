"""test_page.py: the web page and the API viewer as bytes: public, cached, locked down, complete."""
import re
import unittest

from harness import ServerTest, image_bytes, multipart


def contrast(one, other):
    """The contrast ratio of two colours as WCAG 2.1 defines it, 1 to 21."""
    def luminance(colour):
        digits = colour.lstrip("#")
        digits = "".join(2 * c for c in digits) if len(digits) == 3 else digits
        parts = (int(digits[i:i + 2], 16) / 255 for i in (0, 2, 4))
        red, green, blue = (v / 12.92 if v <= .03928 else ((v + .055) / 1.055) ** 2.4 for v in parts)
        return .2126 * red + .7152 * green + .0722 * blue
    low, high = sorted((luminance(one), luminance(other)))
    return (high + .05) / (low + .05)


class Page(ServerTest):
    models = {"clip": "clip-tiny"}
    settings = {"api_key": "web:s3cret-key"}

    def test_pages_are_public_and_ask_nobody_else(self):
        total = 0
        seen = set()
        for path in ("/", "/docs"):
            page = self.server.get(path)
            self.assertEqual(page.status, 200)
            self.assertTrue(page.headers["Content-Type"].startswith("text/html"))
            links = re.findall(r'(?:src|href)="([^"#]*)"', page.body.decode())
            self.assertTrue(links)
            for link in links:
                self.assertNotIn("//", link)
                if link.startswith("page/") and link not in seen:
                    seen.add(link)
                    file = self.server.get("/" + link)
                    self.assertEqual(file.status, 200, link)
                    total += len(file.body)
            self.assertNotIn("<script>", page.body.decode())
            self.assertNotIn(" style=", page.body.decode())
            total += len(page.body)
        self.assertGreaterEqual(len(seen), 7)
        self.assertLess(total, 100 * 1024)
        for name in ("app.js", "docs.js", "style.css"):
            self.assertNotRegex(self.server.get("/page/" + name).body.decode().replace("http://www.w3.org/2000/svg", ""),
                                r"https?://")

    def test_colours_can_be_told_apart(self):
        """Text at 4.5 : 1, the borders of fields and the parts of the time bar at 3 : 1 (WCAG 2.1 AA), in each theme."""
        css = self.server.get("/page/style.css").body.decode()
        themes = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+);", block)) for block in re.findall(r"{([^{}]*--back:[^{}]*)}", css)]
        self.assertEqual(len(themes), 3)
        for theme in themes:
            for ink, ground in (("ink", "back"), ("ink", "card"), ("ink", "accent-soft"), ("soft", "back"), ("soft", "card"), ("accent", "card"),
                                ("accent", "back"), ("on-accent", "accent"), ("accent", "accent-soft"), ("fault", "fault-back"), ("fault", "card")):
                self.assertGreaterEqual(contrast(theme[ink], theme[ground]), 4.5, (ink, ground, theme))
            for mark, ground in (("edge", "card"), ("edge", "field"), ("queue", "card"), ("prepare", "card"), ("forward", "card"), ("other", "card")):
                self.assertGreaterEqual(contrast(theme[mark], theme[ground]), 3, (mark, ground, theme))

    def test_policy_and_types(self):
        for path, kind in (("/", "text/html; charset=utf-8"), ("/page/app.js", "text/javascript; charset=utf-8"),
                           ("/page/style.css", "text/css; charset=utf-8"), ("/page/a-dog.jpg", "image/jpeg")):
            reply = self.server.get(path)
            self.assertEqual(reply.headers["Content-Type"], kind)
            self.assertTrue(reply.headers["Content-Security-Policy"].startswith("default-src 'none'"))
            self.assertTrue(reply.headers["Content-Security-Policy"].endswith("frame-ancestors 'none'"))
            self.assertNotIn("unsafe", reply.headers["Content-Security-Policy"])
            self.assertEqual(reply.headers["X-Content-Type-Options"], "nosniff")

    def test_tags_spare_the_bytes(self):
        first = self.server.get("/page/app.js")
        self.assertIn("max-age", first.headers["Cache-Control"])
        tag = first.headers["ETag"]
        for given in (tag, "W/" + tag, '"other", ' + tag, "*"):
            again = self.server.get("/page/app.js", {"If-None-Match": given})
            self.assertEqual((again.status, again.body), (304, b""))
        self.assertEqual(self.server.get("/page/app.js", {"If-None-Match": '"other"'}).status, 200)
        head = self.server.request("HEAD", "/")
        self.assertEqual((head.status, head.body), (200, b""))

    def test_there_is_nothing_else(self):
        for name in ("nothing.js", "..%2Fapi.c", "", "app.js%00"):
            self.assertEqual(self.server.get("/page/" + name).status // 100, 4, name)


class ItemImages(ServerTest):
    models = {"clip": "clip-tiny"}

    def test_pictures_come_back_as_they_were_sent(self):
        self.assertEqual(self.server.request("PUT", "/v1/collections/c", {}).status, 201)
        files = [("photo_97x61.jpg", "image/jpeg"), ("palette_40x30.png", "image/png")]
        body, headers = multipart([("image", (name, image_bytes(name))) for name, _ in files])
        self.assertEqual(self.server.post("/v1/collections/c/items", body, headers).json["added"], 2)
        self.server.post("/v1/collections/c/items", {"items": [{"id": "words", "text": "a cat"}]})
        for name, kind in files:
            reply = self.server.get(f"/v1/collections/c/items/{name}/image")
            self.assertEqual((reply.status, reply.headers["Content-Type"]), (200, kind))
            self.assertEqual(reply.body, image_bytes(name))
        for path in ("c/items/words/image", "c/items/none/image", "none/items/words/image"):
            self.fails(self.server.get("/v1/collections/" + path), 404)


if __name__ == "__main__":
    unittest.main()
