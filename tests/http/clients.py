"""clients.py: other people's programs that tests run against vlmd (schemathesis, OpenAI's clients), from the public
registries, once, into build-clients. Where a registry cannot be reached the test is skipped and says so."""
import os
import shutil
import subprocess
import unittest

from harness import ROOT

HERE = os.path.join(ROOT, "build-clients")
INSTALL_TIMEOUT_S = 240


def _install(command, marker):
    if os.path.exists(marker):
        return
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise unittest.SkipTest(f"{command[0]}: the registry did not answer in {INSTALL_TIMEOUT_S} s") from None
    if done.returncode:
        raise unittest.SkipTest(f"{os.path.basename(command[0])} could not install: {(done.stderr or done.stdout).strip()[-300:]}")
    with open(marker, "w"):
        pass


def python_with(*requirements):
    """A Python that has these packages; `NAME==VERSION` each."""
    venv = os.path.join(HERE, "python")
    python = os.path.join(venv, "bin/python")
    if not os.path.exists(python) and subprocess.run(["python3", "-m", "venv", venv], capture_output=True).returncode:
        shutil.rmtree(venv, ignore_errors=True)
        raise unittest.SkipTest("python3 cannot make a virtual environment here (python3-venv)")
    for each in requirements:
        _install([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--timeout", "10", "--retries", "1", each],
                 os.path.join(venv, each))
    return python


def node_with(*packages):
    """A directory in which Node.js finds these packages; `NAME@VERSION` each."""
    if not shutil.which("npm"):
        raise unittest.SkipTest("no npm here")
    directory = os.path.join(HERE, "node")
    os.makedirs(directory, exist_ok=True)
    for each in packages:
        _install(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", directory, each],
                 os.path.join(directory, each.replace("/", "_")))
    return directory
