"""test_openapi.py: /openapi.json is valid, its examples work, and every reply is what it says: by schemathesis, which
makes requests of all kinds from it, good and bad."""
import json
import os
import subprocess
import tempfile
import unittest

from clients import python_with
from harness import DATA, MODELS, ServerTest

SECONDS = 40
HERE = os.path.dirname(os.path.abspath(__file__))


class OpenApi(ServerTest):
    # One model for each task, so that each example has an answer.
    models = {**MODELS, "detector": "owlvit-tiny", "segmenter": "clipseg-tiny", "filler": "vilt-mlm-tiny"}
    settings = {"max_tokens": 64}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.api = cls.server.get("/openapi.json").json

    def operations(self):
        for path, methods in self.api["paths"].items():
            for method, operation in methods.items():
                yield path, method, operation

    def test_examples_work(self):
        self.server.request("PUT", "/v1/collections/pets", {})
        tried = 0
        for path, method, operation in sorted(self.operations(), key=lambda each: each[0].endswith("/search")):
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if not body:
                continue
            url = path.replace("{collection}", "pets").replace("{id}", "a")
            reply = self.server.request(method.upper(), url, body["example"])
            self.assertIn(reply.status, (200, 201), (path, reply.body[:400]))
            tried += 1
        self.assertGreaterEqual(tried, 13)

    def test_valid(self):
        python = python_with("openapi-spec-validator==0.9.0")
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(self.api, file)
            file.flush()
            done = subprocess.run([python, "-m", "openapi_spec_validator", "--schema", "3.1", file.name], capture_output=True,
                                  text=True)
        self.assertEqual(done.returncode, 0, done.stdout[-2000:] + done.stderr[-2000:])

    def test_every_reply_conforms(self):
        python = python_with("schemathesis==4.32.5")
        url = "http://%s:%d" % self.server.address
        with tempfile.TemporaryDirectory() as directory:
            report = os.path.join(directory, "report.xml")
            done = subprocess.run(
                [os.path.join(os.path.dirname(python), "schemathesis"), "--config-file", os.path.join(HERE, "schemathesis.toml"),
                 "run", url + "/openapi.json", "--max-examples", "10", "--max-time", str(SECONDS), "--seed", "1", "--no-shrink",
                 "--continue-on-failure", "--warnings", "off", "--generation-database", "none", "--output-truncate", "true",
                 "--report", "junit", "--report-junit-path", report], capture_output=True, text=True, cwd=directory)
            out = "\n".join(line[:300] for line in done.stdout.splitlines())
            self.assertEqual(done.returncode, 0, out[-8000:] + done.stderr[-2000:])
            self.assertRegex(out, r"Test cases:\s+\d{3,} generated")
        self.assertEqual(self.server.get("/readyz").status, 200)


if __name__ == "__main__":
    unittest.main()
