"""http_load.py: requests per second of a running server, with N clients that keep their connections.

    python3 tests/bench/http_load.py URL --clients 16 --seconds 10 --picture a.jpg [--path /v1/embeddings]

Each client POSTs the picture (a JPEG) in base64 JSON, each time with other entries in its quantisation table: a
different picture that decodes as fast, so that neither caches nor equal pictures in a batch flatter the figure. Prints
throughput, latency percentiles, statuses and the batch sizes that replies tell of. Standard library only."""
import argparse
import base64
import collections
import http.client
import itertools
import json
import threading
import time
import urllib.parse


def request_body(path, picture):
    text = base64.b64encode(picture).decode()
    if path == "/v1/embeddings":
        return {"input": [{"image": text}]}
    if path == "/v1/vqa":
        return {"image": text, "question": "what is it?"}
    if path == "/v1/classify":
        return {"image": text, "labels": ["cat", "dog", "car"]}
    return {"image": text}


def varied(picture, number):
    """The JPEG with three entries of its first quantisation table changed by number, in base 8."""
    table = picture.index(b"\xff\xdb") + 5
    data = bytearray(picture)
    for place in (20, 30, 40):
        data[table + place] = max(1, min(255, data[table + place] + number % 8))
        number //= 8
    return bytes(data)


def client(address, path, picture, numbers, until, results):
    connection = http.client.HTTPConnection(*address, timeout=120)
    headers = {"Content-Type": "application/json"}
    while time.monotonic() < until:
        body = json.dumps(request_body(path, varied(picture, next(numbers))))
        begin = time.monotonic()
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            text = response.read()
            batch = json.loads(text).get("timings", {}).get("batch_size", 0) if response.status == 200 else 0
            results.append((time.monotonic() - begin, response.status, batch))
        except OSError:
            results.append((time.monotonic() - begin, 0, 0))
            connection.close()
            connection = http.client.HTTPConnection(*address, timeout=120)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--picture", required=True)
    parser.add_argument("--path", default="/v1/embeddings")
    arguments = parser.parse_args()
    url = urllib.parse.urlparse(arguments.url)
    with open(arguments.picture, "rb") as file:
        picture = file.read()
    numbers = itertools.count()  # next() of it is atomic
    # The first second warms up and does not count.
    client((url.hostname, url.port), arguments.path, picture, numbers, time.monotonic() + 1, [])
    results = []
    begin = time.monotonic()
    threads = [threading.Thread(target=client, args=((url.hostname, url.port), arguments.path, picture, numbers,
                                                     begin + arguments.seconds, results))
               for _ in range(arguments.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begin
    times = sorted(row[0] for row in results if row[1] == 200)
    statuses = collections.Counter(row[1] for row in results)
    batches = [row[2] for row in results if row[1] == 200]
    if not times:
        raise SystemExit(f"no request was answered: {dict(statuses)}")
    print(f"{arguments.path} {arguments.clients} clients: {len(times) / seconds:.1f} requests/s, "
          f"p50 {times[len(times) // 2] * 1e3:.0f} ms, p99 {times[len(times) * 99 // 100] * 1e3:.0f} ms, "
          f"mean batch {sum(batches) / len(batches):.1f}, statuses {dict(statuses)}")


main()
