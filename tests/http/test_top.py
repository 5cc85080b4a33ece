"""test_top.py: `vlmd top` and `vlmd healthcheck`: the clients of our own server, plain and over TLS."""
import os
import subprocess
import tempfile
import unittest

from harness import Server, image_bytes, run


class Top(unittest.TestCase):
    def test_it_shows_endpoints_and_models(self):
        server = Server()
        self.addCleanup(server.stop)
        for _ in range(3):
            self.assertEqual(server.post("/v1/caption", image_bytes(), {"Content-Type": "image/jpeg"}).status, 200)
        self.assertEqual(server.post("/v1/vqa", {"question": "what?"}).status, 400)
        out = run("top", "--listen", "%s:%d" % server.address, "--once")[1]
        rows = {line.split()[1]: line.split() for line in out.splitlines() if line.startswith("POST")}
        self.assertIn("/v1/caption", rows)
        self.assertGreater(float(rows["/v1/vqa"][3]), 0, out)  # 4xx by the second
        self.assertRegex(out, r"(?m)^captioner +\d")
        self.assertIn("MB resident", out.splitlines()[0])
        status, _, err = run("top", "--once", "--listen", "127.0.0.1:1", check=False)
        self.assertEqual(status, 1)
        self.assertIn("127.0.0.1:1", err)
        self.assertEqual(run("top", "--interval", "0", check=False)[0], 2)
        self.assertEqual(run("top", "--sideways", "1", check=False)[0], 2)

    def test_a_server_with_keys_wants_one(self):
        server = Server(api_key="web:a-long-secret")
        self.addCleanup(server.stop)
        status, _, err = run("top", "--listen", "%s:%d" % server.address, "--once", check=False)
        self.assertEqual(status, 1)
        self.assertIn("api_key", err)
        self.assertIn("captioner", run("top", "--listen", "%s:%d" % server.address, "--once", "--set", "api_key=web:a-long-secret")[1])

    def test_tls(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        files = {}
        for name in "own", "other":
            files[name] = [os.path.join(folder.name, name + end) for end in (".crt", ".key")]
            subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x",
                            "-out", files[name][0], "-keyout", files[name][1]], check=True, capture_output=True)
        server = Server(wait=False, tls_cert=files["own"][0], tls_key=files["own"][1])
        self.addCleanup(server.stop)
        address = server.process.stdout.readline().split(" ready on https://")[1].split()[0]
        own, other = (["--set", f"tls_cert={files[name][0]}"] for name in files)
        self.assertEqual(run("healthcheck", "--listen", address, *own)[1].strip(), "ready")
        self.assertIn("captioner", run("top", "--listen", address, "--once", *own)[1])
        self.assertEqual(run("healthcheck", "--listen", address, *other, check=False)[0], 1)
        self.assertEqual(run("healthcheck", "--listen", address, check=False)[0], 1)


if __name__ == "__main__":
    unittest.main()
