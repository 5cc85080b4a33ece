"""faiss_search.py FILE N DIM [M [EF...]]: faiss beside bench_search, on the vectors that it left in FILE.

    GRAPH_FROM=1 build/tests/bench/bench_search 200000 512 f32 /tmp/vectors
    python3 tests/bench/faiss_search.py /tmp/vectors 200000 512        # needs faiss-cpu

Prints the time of one exact query, of 32 at once, of building an HNSW index (of degree M; 0 = none), and its speed and
recall at several efforts.
"""
import statistics
import sys
import time

import faiss
import numpy

path, n, dim = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
degree = int(sys.argv[4]) if len(sys.argv) > 4 else 16
efforts = [int(e) for e in sys.argv[5:]] or [32, 64, 128, 256]
data = numpy.memmap(path, dtype="float32", mode="r")[: n * dim].reshape(n, dim)
queries = numpy.fromfile(path, dtype="float32", offset=n * dim * 4).reshape(-1, dim)


def times(run, count):
    spent = []
    for i in range(count):
        start = time.perf_counter()
        run(i)
        spent.append(time.perf_counter() - start)
    return statistics.median(spent) * 1e3


flat = faiss.IndexFlatIP(dim)
flat.add(data)
one = times(lambda i: flat.search(queries[i : i + 1], 10), 20)
many = times(lambda i: flat.search(queries[:32], 10), 3)
print(f"faiss flat, {faiss.omp_get_max_threads()} threads: one query {one:.1f} ms, 32 at once {many:.0f} ms")
if not degree:
    sys.exit()
_, truth = flat.search(queries, 10)
del flat
graph = faiss.IndexHNSWFlat(dim, degree, faiss.METRIC_INNER_PRODUCT)
graph.hnsw.efConstruction = 80
start = time.perf_counter()
graph.add(data)
print(f"faiss HNSW of degree {degree}: built in {time.perf_counter() - start:.0f} s")
for effort in efforts:
    graph.hnsw.efSearch = effort
    fast = times(lambda i: graph.search(queries[i : i + 1], 10), len(queries))
    _, found = graph.search(queries, 10)
    recall = numpy.mean([len(set(a) & set(b)) / 10 for a, b in zip(truth, found)])
    print(f"effort {effort}: {fast:.3f} ms, {one / fast:.0f}x as fast as flat, recall@10 {recall:.4f}")
