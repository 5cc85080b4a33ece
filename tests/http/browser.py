"""browser.py: a headless Chromium driven over its debugging pipe; only Python's standard library."""
import base64
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome")
                 if (path := shutil.which(name))), None)
PATIENCE_S = 20


class Browser:
    """One page. Messages on the pipe are JSON, each ended by a NUL; fds 3 and 4 are the browser's ends."""

    def __init__(self, width=1200, height=900):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self.send_end = os.pipe()
        self.receive_end, from_browser = os.pipe()

        def place():
            # Above both numbers first: dup2 onto 3 must not hit the other end.
            reader, writer = os.dup(to_browser), os.dup(from_browser)
            high_reader, high_writer = os.dup2(reader, 100), os.dup2(writer, 101)
            os.dup2(high_reader, 3)
            os.dup2(high_writer, 4)

        self.process = subprocess.Popen(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
             "--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={self.profile.name}",
             f"--window-size={width},{height}", "about:blank"],
            preexec_fn=place, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.number, self.replies, self.news = 0, {}, threading.Condition()
        self.problems = []  # exceptions, console errors, refused loads
        self.requests = []
        self.session = None
        threading.Thread(target=self._read, daemon=True).start()
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(domain + ".enable")

    def _read(self):
        rest = b""
        while piece := os.read(self.receive_end, 1 << 16):
            rest += piece
            while b"\0" in rest:
                message, rest = rest.split(b"\0", 1)
                self._take(json.loads(message))
        with self.news:
            self.replies[None] = {}
            self.news.notify_all()

    def _take(self, message):
        params = message.get("params", {})
        with self.news:
            if "id" in message:
                self.replies[message["id"]] = message
                self.news.notify_all()
            elif message["method"] == "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description") or details["text"])
            elif message["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                self.problems.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))
            elif message["method"] == "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.send_end, json.dumps(message).encode() + b"\0")
        with self.news:
            if not self.news.wait_for(lambda: message["id"] in self.replies or None in self.replies, PATIENCE_S):
                raise AssertionError(f"the browser does not answer {method}")
            reply = self.replies.pop(message["id"], {"error": "the browser has ended"})
        if "error" in reply:
            raise AssertionError(f"{method}: {reply['error']}")
        return reply["result"]

    def run(self, code):
        """The value of a JavaScript expression; promises are awaited."""
        result = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in result:
            raise AssertionError(f"{code}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def until(self, code, what=None):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if self.run(f"!!({code})"):
                return
            time.sleep(0.05)
        raise AssertionError(f"still not so: {what or code}; {self.problems}; {self.run('document.body.innerText')[-800:]}")

    def go(self, url):
        self.call("Page.navigate", url=url)
        self.until(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    def size(self, width, height, phone=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def key(self, name):
        codes = {"Tab": 9, "ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=codes[name])

    def choose_files(self, selector, paths):
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=paths)

    def screenshot(self, path):
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))

    def close(self):
        try:
            self.session = None
            self.call("Browser.close")
            self.process.wait(10)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.send_end)
        self.profile.cleanup()
