"""postgres.py: a real PostgreSQL with pgvector for the tests, on a Unix socket in a temporary folder.

    python3 tests/http/postgres.py COMMAND...    runs it with VLMD_TEST_POSTGRES set to the server's URL (or, where no
                                                 server can be had, says so and runs it without)

The programs are those of the folder VLMD_TEST_POSTGRES_BIN, else Debian's where pgvector is installed beside them, else
those that the Python package pgserver brings (fetched once through pip, kept as a file under ~/.cache). PostgreSQL refuses
root, so root's tests run it as nobody. It ends with the process that started it, however that ends."""
import ctypes
import glob
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile

PACKAGE, VERSION = "pgserver", "0.1.4"
PATIENCE_S = 60
PR_SET_PDEATHSIG = 1


class Unavailable(Exception):
    """No PostgreSQL with pgvector can be had here; the text says why."""


def has_pgvector(binaries):
    share = os.path.dirname(os.path.abspath(binaries))
    return any(glob.glob(os.path.join(root, "extension/vector.control"))
               for root in (share + "/share/postgresql", share + "/share",
                            share.replace("/usr/lib/postgresql", "/usr/share/postgresql")))


def fetch_wheel():
    """The path of the package's wheel, fetched once."""
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "vlmd-tests")
    pattern = os.path.join(cache, f"{PACKAGE}-{VERSION}-*.whl")
    if found := glob.glob(pattern):
        return found[0]
    os.makedirs(cache, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                 "--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--abi=cp311",
                 "--platform=manylinux2014_x86_64", "--dest", folder, f"{PACKAGE}=={VERSION}"],
                capture_output=True, text=True, timeout=300)
        except (OSError, subprocess.TimeoutExpired) as fault:
            raise Unavailable(f"pip does not run: {fault}") from fault
        wheels = glob.glob(folder + "/*.whl")
        if done.returncode or not wheels:
            raise Unavailable(f"pip cannot fetch {PACKAGE} {VERSION}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        path = os.path.join(cache, os.path.basename(wheels[0]))
        os.replace(wheels[0], path)
        return path


class Postgres:
    """One server. start(), kill() and start() again keep its data; stop() removes it."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="vlmd-postgres-")
        self.process, self.user, self.binaries = None, None, None
        try:
            if os.getuid() == 0:
                self.user = pwd.getpwnam("nobody")
                os.chown(self.directory, self.user.pw_uid, self.user.pw_gid)
            self.binaries = self.find_binaries()
            self.data = os.path.join(self.directory, "data")
            self.run("initdb", "-D", self.data, "-U", "vlmd", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
            with open(os.path.join(self.data, "postgresql.conf"), "a") as file:
                file.write(f"listen_addresses = ''\nunix_socket_directories = '{self.directory}'\n"
                           "shared_buffers = 256MB\nmax_wal_size = 1GB\nlog_min_messages = fatal\n")
            self.start()
            self.sql("CREATE DATABASE vlmd")
        except BaseException:
            self.stop()
            raise

    # The password is there to be hidden: the server trusts whoever may open the socket.
    password = "open-sesame"

    @property
    def uri(self):
        return f"postgresql://vlmd:{self.password}@/vlmd?host={self.directory}"

    def find_binaries(self):
        given = os.environ.get("VLMD_TEST_POSTGRES_BIN")
        for folder in [given] if given else sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True):
            if os.path.exists(folder + "/initdb") and has_pgvector(folder):
                return folder
        if given:
            raise Unavailable(f"{given} has no initdb, or no pgvector beside it")
        with zipfile.ZipFile(fetch_wheel()) as wheel:
            wheel.extractall(os.path.join(self.directory, "programs"))
        folder = os.path.join(self.directory, "programs/pgserver/pginstall/bin")
        for name in os.listdir(folder):
            os.chmod(os.path.join(folder, name), 0o755)
        return folder

    def as_user(self):
        if not self.user:
            return {}
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}

    def environment(self):
        return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "HOME": self.directory}

    def run(self, program, *arguments, **options):
        done = subprocess.run([os.path.join(self.binaries, program), *arguments], capture_output=True, text=True,
                              cwd=self.directory, env=self.environment(), timeout=PATIENCE_S, **self.as_user(), **options)
        if done.returncode:
            raise Unavailable(f"{program} fails: {(done.stderr.strip() or done.stdout.strip())[-500:]}")
        return done.stdout

    def start(self):
        end = time.monotonic() + PATIENCE_S
        self.log = open(os.path.join(self.directory, "log"), "a+")
        self.spawn()
        while True:
            try:
                self.sql("SELECT 1")
                return
            except Unavailable as fault:
                if time.monotonic() > end:
                    self.log.seek(0)
                    raise Unavailable(f"PostgreSQL does not start: {self.log.read()[-500:]}") from fault
                if self.process.poll() is not None:  # a killed server's last children still hold its memory
                    self.spawn()
                time.sleep(0.05)

    def spawn(self):
        libc = ctypes.CDLL(None)
        # SIGQUIT is PostgreSQL's immediate shutdown.
        self.process = subprocess.Popen(
            [os.path.join(self.binaries, "postgres"), "-D", self.data], cwd=self.directory, stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log, env=self.environment(), **self.as_user(),
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGQUIT))

    def sql(self, text, database="postgres"):
        """psql's unadorned output."""
        return self.run("psql", "-X", "-q", "-A", "-t", "-h", self.directory, "-U", "vlmd", "-d", database, "-c", text)

    def kill(self):
        """kill -9 of the postmaster and of every process below it, as the machine's end would be."""
        children = []
        for path in glob.glob("/proc/[0-9]*/stat"):
            try:
                with open(path) as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == self.process.pid:
                children.append(int(path.split("/")[2]))
        for pid in [self.process.pid, *children]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(PATIENCE_S)
        self.log.close()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(PATIENCE_S)
            self.log.close()
        for _ in range(50):  # its last children may still write
            shutil.rmtree(self.directory, ignore_errors=True)
            if not os.path.exists(self.directory):
                break
            time.sleep(0.1)


def main():
    server, environment = None, dict(os.environ)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is cleared away
    try:
        server = Postgres()
        environment["VLMD_TEST_POSTGRES"] = server.uri
    except Unavailable as fault:
        print(f"skipped: {fault}\n1 tests skipped", flush=True)
    try:
        return subprocess.run(sys.argv[1:], env=environment).returncode
    finally:
        if server:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
