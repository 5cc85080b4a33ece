"""test_balance.py: three real replicas behind HAProxy with docker/haproxy.cfg: one is killed, one drained, all
restarted, while clients ask; and what docker/ says about metrics, settings and installed files is true.

A client retries as any client of an HTTP API should: on a lost connection, 429 and 503. None may fail then."""
import glob
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from balancer import DOCKER, Balancer, free_ports
from clients import python_with
from harness import MODELS, PATIENCE_S, ROOT, Server, ServerTest, clean_environment, image_bytes, run, wait_until

CLIENTS = 6


@unittest.skipUnless(shutil.which("haproxy"), "no haproxy here")
class Balance(unittest.TestCase):
    def setUp(self):
        self.ports = free_ports(3)
        self.replicas = [self.start(i) for i in range(3)]
        self.balancer = Balancer(self.ports)
        self.front = self.balancer.port
        self.stop, self.answered, self.retried, self.failed = threading.Event(), 0, [], []
        self.lock = threading.Lock()

    def tearDown(self):
        self.stop.set()
        self.balancer.stop()
        for replica in self.replicas:
            replica.process.kill()
            replica.stop()

    def start(self, i, **settings):
        return Server({"clip": "clip-tiny"}, listen=f"127.0.0.1:{self.ports[i]}", overload_status=503, log_level="error",
                      drain_s=10, **settings)

    def ask(self, connection):
        connection.request("POST", "/v1/classify?labels=cat&labels=dog", image_bytes(), {"Content-Type": "image/jpeg"})
        reply = connection.getresponse()
        body = reply.read()
        return reply.status, body

    def client(self):
        """Asks until told to stop, over one connection while it lasts."""
        connection = http.client.HTTPConnection("127.0.0.1", self.front, timeout=PATIENCE_S)
        while not self.stop.is_set():
            end = time.monotonic() + 15
            while True:
                try:
                    status, body = self.ask(connection)
                except (OSError, http.client.HTTPException) as fault:
                    connection.close()
                    status, body = 0, repr(fault)
                if status == 200 or status not in (0, 429, 503) or time.monotonic() > end:
                    break
                with self.lock:
                    self.retried.append((status, body))
                time.sleep(0.1)
            with self.lock:
                if status == 200 and len(json.loads(body)["labels"]) == 2:
                    self.answered += 1
                else:
                    self.failed.append((status, body))
            time.sleep(0.005)
        connection.close()

    def more(self, n=300):
        """Waits until n more requests were answered."""
        goal = self.answered + n
        wait_until(lambda: self.answered >= goal or self.failed, "requests are answered")
        self.assertEqual(self.failed, [])

    def served_by(self, i):
        return self.replicas[i].metric("vlmd_requests_total", path="/v1/classify", status="200")

    def test_no_retrying_client_notices(self):
        threads = [threading.Thread(target=self.client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        self.more()
        wait_until(lambda: all(self.served_by(i) > 0 for i in range(3)), "all three take part")

        self.replicas[0].process.send_signal(signal.SIGKILL)
        self.more()
        self.replicas[0].stop()
        self.replicas[0] = self.start(0)
        wait_until(lambda: self.served_by(0) > 0, "the killed one is back")

        # A rolling restart: each drains, leaves with status 0, and comes back.
        for i in range(3):
            self.assertEqual(self.replicas[i].stop(), 0)
            self.more(100)
            self.replicas[i] = self.start(i)
            wait_until(lambda: self.served_by(i) > 0, "it is back")
        self.stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(self.failed, [])
        # HAProxy hides nearly everything: what a client itself had to try again is rare.
        self.assertLess(len(self.retried), 0.05 * self.answered, self.retried[:5])
        if os.environ.get("VLMD_TEST_VERBOSE"):
            print(f"{self.answered} answered, {len(self.retried)} tried again by the client: {self.retried[:3]}")


    def hold(self, i):
        """Takes the only place of a replica: a request whose body does not come."""
        connection = socket.create_connection(("127.0.0.1", self.ports[i]))
        connection.sendall(b"POST /v1/classify?labels=cat HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 9\r\n\r\n")
        wait_until(lambda: self.replicas[i].metric("vlmd_requests_in_flight") == 1, "the place is taken")
        return connection

    def test_full_replicas_are_gone_round(self):
        for replica in self.replicas:
            replica.process.kill()
            replica.stop()
        self.replicas = [self.start(i, max_inflight=1) for i in range(3)]
        connection = http.client.HTTPConnection("127.0.0.1", self.front, timeout=PATIENCE_S)
        wait_until(lambda: self.ask(connection)[0] == 200 and all(self.served_by(i) > 0 for i in range(3)), "all three take part")
        held = [self.hold(0), self.hold(1)]
        self.assertEqual([self.ask(connection)[0] for _ in range(20)], [200] * 20)
        refused = [self.replicas[i].metric("vlmd_refused_total", reason="load") for i in range(3)]
        self.assertGreater(refused[0] + refused[1], 0, "HAProxy never met a full one")
        held.append(self.hold(2))
        connection.request("POST", "/v1/classify?labels=cat", image_bytes(), {"Content-Type": "image/jpeg"})
        reply = connection.getresponse()
        self.assertEqual((reply.status, json.loads(reply.read())["error"]["code"]), (503, "queue_full"))
        self.assertGreaterEqual(int(reply.headers["Retry-After"]), 1)
        for each in held:
            each.close()
        connection.close()


class Deployment(ServerTest):
    models = MODELS

    def read(self, name):
        with open(os.path.join(DOCKER, name)) as file:
            return file.read()

    def test_dashboards_and_scaling_use_metrics_that_exist(self):
        text = self.server.get("/metrics").body.decode()
        names = set(re.findall(r"^# TYPE (\w+) ", text, re.M))
        names |= {name + tail for name in names for tail in ("_bucket", "_sum", "_count")}
        dashboard = json.loads(self.read("grafana.json"))
        expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        self.assertGreater(len(expressions), 15)
        used = set(re.findall(r"\bvlmd_\w+", " ".join(expressions) + self.read("kubernetes/vlmd.yaml")))
        self.assertEqual(used - names, set())

    def test_variables_are_settings(self):
        known = {"VLMD_" + key.upper() for key in re.findall(r"^(\w+) +=", run("config")[1], re.M)}
        for name in ("Dockerfile", "compose.yaml", "kubernetes/vlmd.yaml", "vlmd.service"):
            used = set(re.findall(r"\bVLMD_[A-Z_]+", self.read(name))) - {"VLMD_", "VLMD_MODELS"}
            self.assertEqual(used - known, set(), name)

    def test_man_page_and_completion_know_the_commands(self):
        commands = set(re.findall(r"^  vlmd (\w+) ", run("--help")[1], re.M))
        self.assertIn("serve", commands)
        page = self.read("vlmd.1")
        for command in commands:
            self.assertRegex(page, rf"\.BI? {command}\b")
        if shutil.which("bash"):
            script = (f'PATH={os.path.dirname(os.environ.get("VLMD_TEST_BINARY", ROOT + "/build/vlmd"))}:$PATH; '
                      f'. {DOCKER}/vlmd.bash; compopt() {{ :; }}; COMP_WORDS=(vlmd ""); COMP_CWORD=1; _vlmd; '
                      'echo "${COMPREPLY[@]}"; COMP_WORDS=(vlmd --set max_b); COMP_CWORD=2; _vlmd; echo "${COMPREPLY[@]}"')
            out = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=ROOT, env=clean_environment()).stdout
            words, settings = out.splitlines()
            self.assertEqual(set(words.split()), commands | {"--help"})
            self.assertEqual(set(settings.split()), {"max_batch=", "max_body_mb="})

    @unittest.skipUnless(shutil.which("haproxy"), "no haproxy here")
    def test_haproxy_takes_its_configuration(self):
        done = subprocess.run(["haproxy", "-c", "-f", os.path.join(DOCKER, "haproxy.cfg")], capture_output=True, text=True)
        self.assertEqual((done.returncode, "WARNING" in done.stderr), (0, False), done.stderr)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "no systemd here")
    def test_systemd_takes_the_unit(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "vlmd.service")
            with open(path, "w") as file:  # the program and its page are not installed here
                file.write(re.sub(r"(?m)^Documentation=.*\n", "", self.read("vlmd.service").replace("/usr/bin/vlmd", "/bin/true")))
            done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_kubernetes_takes_the_manifests(self):
        python = python_with("kubernetes-validate==1.37.0")
        files = glob.glob(os.path.join(DOCKER, "kubernetes/*.yaml"))
        done = subprocess.run([os.path.join(os.path.dirname(python), "kubernetes-validate"), "--strict", *files], capture_output=True,
                              text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual((done.stdout + done.stderr).count(" passed for resource "), 4, done.stdout + done.stderr)

    def test_every_yaml_document_has_a_kind(self):
        for path in glob.glob(os.path.join(DOCKER, "kubernetes/*.yaml")):
            with open(path) as file:
                for document in file.read().split("\n---\n"):
                    self.assertRegex(document, r"(?m)^apiVersion: \S+")
                    self.assertRegex(document, r"(?m)^kind: \S+")
                    self.assertNotIn("\t", document)


if __name__ == "__main__":
    unittest.main()
