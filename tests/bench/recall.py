"""recall.py: the graphs' recall on embeddings of real pictures, beside the exact search, through the server.

    recall.py PICTURES [N [QUERIES]]                     the embedded store
    python3 tests/http/postgres.py python3 tests/bench/recall.py PICTURES [N [QUERIES]]      and PostgreSQL's

PICTURES is a folder; the embedded CLIP embeds it (`vlmd index`). Where it holds fewer than N (100,000), the rest is
put between a picture and one of its neighbours, so that the spread stays that of pictures. Queries are pictures that
were left out, and texts. Recall@10: how many of the ten best by the exact search are among those found."""
import base64
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

import numpy

BINARY = os.environ.get("VLMD_TEST_BINARY", "build/vlmd")
FOLDER = sys.argv[1]
N = int(sys.argv[2]) if len(sys.argv) > 2 else 100000
QUERIES = int(sys.argv[3]) if len(sys.argv) > 3 else 100
TOP_K = 10


def embedded(directory):
    """All pictures' vectors and the collection's space."""
    store = ["--store", f"sqlite:{directory}/pictures.db"]
    subprocess.run([BINARY, "index", "p", FOLDER, "--thumbnail", "false", *store], check=True, stdout=subprocess.DEVNULL)
    out = subprocess.run([BINARY, "export", "p", "-", "--images", "false", *store], check=True, capture_output=True).stdout
    rows = [json.loads(line) for line in out.splitlines()]
    vectors = [numpy.frombuffer(base64.b64decode(row["vector"]), "<f4") for row in rows[1:]]
    return numpy.stack(vectors)


def spread(real, n, source):
    """n vectors: the real ones, and points between neighbours."""
    near = numpy.argsort(-(real @ real.T), axis=1)[:, 1:11]
    first = source.integers(len(real), size=n - len(real))
    other = near[first, source.integers(10, size=len(first))]
    part = source.uniform(0, 0.7, (len(first), 1)).astype("f4")
    made = real[first] * (1 - part) + real[other] * part
    made += source.standard_normal(made.shape).astype("f4") * 0.01 * numpy.linalg.norm(made, axis=1, keepdims=True) / real.shape[1]**.5
    made /= numpy.linalg.norm(made, axis=1, keepdims=True)
    return numpy.concatenate([real, made])


class Server:
    def __init__(self, store, n):
        self.process = subprocess.Popen([BINARY, "serve", "--listen", "127.0.0.1:0", "--store", store, "--set", f"graph_from={n}",
                                         "--set", "log_level=error"], stdout=subprocess.PIPE, text=True)
        host, port = self.process.stdout.readline().split("http://")[1].split()[0].rsplit(":", 1)
        self.connection = http.client.HTTPConnection(host, int(port), timeout=3600)

    def ask(self, method, path, body=None, kind="application/json"):
        self.connection.request(method, path, json.dumps(body) if isinstance(body, dict) else body, {"Content-Type": kind} if body else {})
        reply = self.connection.getresponse()
        text = reply.read()
        assert reply.status in (200, 201), text[:300]
        return text

    def search(self, body):
        start = time.perf_counter()
        rows = json.loads(self.ask("POST", "/v1/collections/bench/search", {**body, "top_k": TOP_K}))["results"]
        return [row["id"] for row in rows], (time.perf_counter() - start) * 1e3


def measure(server, name, queries):
    times, recalls = {True: [], False: []}, []
    for query in queries:
        found = {}
        for exact in (True, False):
            found[exact], spent = server.search({**query, "exact": exact})
            times[exact].append(spent)
        recalls.append(len(set(found[True]) & set(found[False])) / len(found[True]))
    exact, graph = (statistics.median(times[each]) for each in (True, False))
    print(f"  {name}: recall@{TOP_K} {statistics.mean(recalls):.4f} (worst query {min(recalls):.1f}), graph {graph:.2f} ms, "
          f"exact {exact:.2f} ms, over HTTP", flush=True)


def bench(what, store, vectors, pictures, texts):
    server = Server(store, len(vectors))
    try:
        # Vectors from elsewhere, as far as the server knows: that is also how texts are asked for.
        server.ask("PUT", "/v1/collections/bench", {"dimensions": vectors.shape[1]})
        start = time.perf_counter()
        for at in range(0, len(vectors), 10000):
            lines = "".join(f'{{"id":"{at + i}","vector":"{base64.b64encode(row.tobytes()).decode()}"}}\n'
                            for i, row in enumerate(vectors[at:at + 10000]))
            server.ask("POST", "/v1/collections/bench/items", lines, "application/x-ndjson")
        added = time.perf_counter() - start
        while (indexed := json.loads(server.ask("GET", "/v1/collections/bench"))["indexed"]) < len(vectors):
            time.sleep(0.2)
        print(f"{what}: {len(vectors)} of {vectors.shape[1]} added in {added:.1f} s, {indexed} indexed after "
              f"{time.perf_counter() - start:.1f} s", flush=True)
        text_vectors = json.loads(server.ask("POST", "/v1/embeddings", {"input": texts}))["data"]
        measure(server, f"{len(pictures)} pictures", [{"vector": row.tolist()} for row in pictures])
        measure(server, f"{len(texts)} texts", [{"vector": row["embedding"]} for row in text_vectors])
    finally:
        server.process.terminate()
        server.process.wait()


def main():
    source, words = numpy.random.default_rng(1), random.Random(1)
    with tempfile.TemporaryDirectory(dir=os.environ.get("DIRECTORY")) as directory:
        real = embedded(directory)
        assert len(real) > 2 * QUERIES, "too few pictures"
        order = source.permutation(len(real))
        pictures, kept = real[order[:QUERIES]], real[order[QUERIES:]]
        vectors = spread(kept, N, source) if N > len(kept) else kept[:N]
        things = "cat dog pizza bus car tulip butterfly guitar rocket moon apple pear lemon elephant house tree clock fish".split()
        texts = [f"{words.choice(['a', 'two', 'a red', 'a small', 'three'])} {words.choice(things)} "
                 f"{words.choice(['above', 'left of', 'and', 'beside'])} a {words.choice(things)}" for _ in range(QUERIES)]
        print(f"{len(kept)} real pictures, {len(vectors) - len(kept)} between them")
        bench("embedded store", f"sqlite:{directory}/bench.db", vectors, pictures, texts)
        if os.environ.get("VLMD_TEST_POSTGRES"):
            bench("PostgreSQL", os.environ["VLMD_TEST_POSTGRES"], vectors, pictures, texts)


main()
