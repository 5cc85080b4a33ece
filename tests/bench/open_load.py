"""open_load.py: what a running server does at 0.5, 1 and 2 times what it can: an open-loop load generator.

    python3 tests/bench/open_load.py URL --picture a.jpg [--path /v1/caption] [--seconds 10] [--rates 0.5,1,2]

First the capacity is measured: --clients connections that each ask again as soon as they are answered. Then requests
arrive at fixed rates, at random (Poisson) or evenly (--uniform) and whether or not earlier ones were answered: each
takes an idle connection or opens another, as a crowd of browsers would. That is what a closed loop hides: it slows
down together with the server. Printed per rate: what arrived, what was served and how fast, what was refused and how
fast, and how late the generator itself was; where that is much, the figures are not the server's. With --pid (the
server's, on this machine) also answers per second of its processor time: what refusals cost, on a busy machine too.

Each request is a JPEG with other entries in its quantisation table, so that no cache answers. Standard library only."""
import argparse
import asyncio
import collections
import itertools
import os
import random
import time
import urllib.parse

N_PICTURES = 512
CONNECTIONS_MAX = 1000
ANSWER_S = 120


def varied(picture, number):
    """The JPEG with three entries of its first quantisation table changed by number, in base 8."""
    table = picture.index(b"\xff\xdb") + 5
    data = bytearray(picture)
    for place in (20, 30, 40):
        data[table + place] = max(1, min(255, data[table + place] + number % 8))
        number //= 8
    return bytes(data)


class Target:
    """The server: sends one request at a time on each of its connections, which it keeps."""

    def __init__(self, url, path, picture):
        parsed = urllib.parse.urlparse(url)
        self.host, self.port = parsed.hostname, parsed.port
        head = f"POST {path} HTTP/1.1\r\nHost: {parsed.netloc}\r\nContent-Type: image/jpeg\r\n"
        self.requests = []
        for i in range(N_PICTURES):
            body = varied(picture, i)
            self.requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        random.Random(1).shuffle(self.requests)
        self.numbers = itertools.cycle(range(N_PICTURES))
        self.idle = []

    async def ask(self):
        """→ status (0: no answer), whether it came with Retry-After."""
        reader = writer = None
        try:
            reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection(self.host, self.port)
            writer.write(self.requests[next(self.numbers)])
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            await reader.readexactly(length)
            if b"connection: close" in head:
                writer.close()
            else:
                self.idle.append((reader, writer))
            return int(head.split(b" ", 2)[1]), b"\r\nretry-after:" in head
        except (OSError, asyncio.IncompleteReadError, IndexError, ValueError):
            if writer:
                writer.close()
            return 0, False


async def closed_loop(target, clients, seconds):
    """Answers per second."""
    served, begin = 0, time.monotonic()

    async def client():
        nonlocal served
        while time.monotonic() < begin + seconds:
            status, _ = await target.ask()
            served += status == 200
            if status != 200:
                await asyncio.sleep(0.05)
    await asyncio.gather(*(client() for _ in range(clients)))
    return served / (time.monotonic() - begin)


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def cpu_seconds(pid):
    """Of a process so far; 0 without one."""
    if not pid:
        return 0
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Run:
    def __init__(self):
        self.served, self.refused, self.late = [], [], []
        self.statuses = collections.Counter()
        self.n_unsaid = 0  # refusals without Retry-After
        self.last_answer = 0

    async def one(self, target):
        begin = time.monotonic()
        status, retry_after = await target.ask()
        now = time.monotonic()
        self.statuses[status] += 1
        if status == 200:
            self.served.append(now - begin)
            self.last_answer = now
        elif status in (429, 503):
            self.refused.append(now - begin)
            self.n_unsaid += not retry_after


async def open_loop(target, rate, seconds, uniform, seed):
    run, tasks, rng = Run(), set(), random.Random(seed)
    begin = due = time.monotonic()
    while due < begin + seconds:
        due += 1 / rate if uniform else rng.expovariate(rate)
        wait = due - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        run.late.append(time.monotonic() - due)
        if len(tasks) >= CONNECTIONS_MAX:
            run.statuses["not sent"] += 1
            continue
        task = asyncio.create_task(run.one(target))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks, timeout=ANSWER_S)
    run.seconds = max(seconds, run.last_answer - begin)
    return run


async def measure(arguments):
    with open(arguments.picture, "rb") as file:
        target = Target(arguments.url, arguments.path, file.read())
    await closed_loop(target, arguments.clients, 1)  # warms up
    capacity = await closed_loop(target, arguments.clients, arguments.seconds)
    if not capacity:
        raise SystemExit("no request was answered")
    print(f"{arguments.path}: capacity {capacity:.1f} answers/s with {arguments.clients} clients")
    for number, factor in enumerate(float(text) for text in arguments.rates.split(",")):
        cpu = cpu_seconds(arguments.pid)
        run = await open_loop(target, factor * capacity, arguments.seconds, arguments.uniform, number)
        cpu = cpu_seconds(arguments.pid) - cpu
        throughput = len(run.served) / run.seconds
        others = {key: n for key, n in run.statuses.items() if key not in (200, 429, 503)}
        print(f"  {factor:g}x: {factor * capacity:.1f}/s arrive, {throughput:.1f}/s served "
              f"({100 * throughput / capacity:.0f} % of capacity), "
              f"p50 {1e3 * percentile(run.served, 0.5):.0f} ms, p99 {1e3 * percentile(run.served, 0.99):.0f} ms; "
              f"{len(run.refused)} refused in p99 {1e3 * percentile(run.refused, 0.99):.0f} ms"
              f"{f', {run.n_unsaid} of them without Retry-After' if run.n_unsaid else ''}; "
              f"generator late p99 {1e3 * percentile(run.late, 0.99):.0f} ms"
              f"{f'; {len(run.served) / cpu:.1f} served per processor second' if cpu else ''}"
              f"{f'; others {others}' if others else ''}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--picture", required=True, help="a JPEG")
    parser.add_argument("--path", default="/v1/caption")
    parser.add_argument("--seconds", type=float, default=10, help="for each rate")
    parser.add_argument("--rates", default="0.5,1,2", help="of the measured capacity")
    parser.add_argument("--clients", type=int, default=32, help="of the capacity's closed loop")
    parser.add_argument("--pid", type=int, help="of the server")
    parser.add_argument("--uniform", action="store_true", help="arrivals at even distances")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
