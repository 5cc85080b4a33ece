"""balancer.py: HAProxy with docker/haproxy.cfg in front of replicas on given loopback ports."""
import os
import re
import socket
import subprocess
import tempfile

from harness import PATIENCE_S, ROOT, wait_until

DOCKER = os.path.join(ROOT, "docker")


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Balancer:
    """Listens at 127.0.0.1:.port until stop()."""

    def __init__(self, replica_ports):
        self.port, stats = free_ports(2)
        with open(os.path.join(DOCKER, "haproxy.cfg")) as file:
            config = file.read()
        servers = "".join(f"    server r{i} 127.0.0.1:{port} check\n" for i, port in enumerate(replica_ports))
        for old, new in ((r"    bind :8080\n", f"    bind 127.0.0.1:{self.port}\n"),
                         (r"    bind :8404\n", f"    bind 127.0.0.1:{stats}\n"),
                         (r"    server-template .*\n", servers)):
            config, n = re.subn(old, new, config)
            assert n == 1, old
        self.directory = tempfile.TemporaryDirectory()
        path = os.path.join(self.directory.name, "haproxy.cfg")
        with open(path, "w") as file:
            file.write(config)
        self.log = open(os.path.join(self.directory.name, "log"), "w+")
        self.process = subprocess.Popen(["haproxy", "-db", "-f", path], stdout=self.log, stderr=self.log)
        wait_until(self.is_up, "HAProxy answers")

    def is_up(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        self.log.close()
        self.directory.cleanup()
