"""stream_stall.py: how long a text that is being written waits for its next token while long prompts come.

    python3 tests/bench/stream_stall.py URL --picture a.jpg [--model NAME] [--prompt-words 300] [--prompts 8]

One client streams a caption of --tokens tokens. After a while --prompts others ask about the same picture with a prompt
of so many words, one after the other; each wants one token. Printed are the pauses between the stream's events alone and
while the prompts are there. Compare a server with prefill_chunk=0 (prompts run whole). Standard library only."""
import argparse
import base64
import http.client
import json
import threading
import time
import urllib.parse


def ask(address, body):
    connection = http.client.HTTPConnection(*address, timeout=300)
    connection.request("POST", "/v1/caption", json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--picture", required=True)
    parser.add_argument("--model")
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--prompt-words", type=int, default=300)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--alone", type=float, default=2, help="seconds before the prompts come")
    arguments = parser.parse_args()
    parsed = urllib.parse.urlparse(arguments.url)
    address = (parsed.hostname, parsed.port)
    with open(arguments.picture, "rb") as file:
        body = {"image": base64.b64encode(file.read()).decode()}
    if arguments.model:
        body["model"] = arguments.model
    ask(address, {**body, "max_tokens": 1}).read()  # the picture is known from here on
    times, done = [], threading.Event()

    def stream():
        n = arguments.tokens
        reply = ask(address, {**body, "stream": True, "temperature": 1.5, "seed": 1, "min_tokens": n, "max_tokens": n})
        while line := reply.readline():
            if line.startswith(b"data: "):
                times.append(time.monotonic())
        done.set()

    threading.Thread(target=stream).start()
    time.sleep(arguments.alone)
    begin = time.monotonic()
    n_prompts = 0
    while n_prompts < arguments.prompts and not done.is_set():
        prompt = " ".join(["picture"] * arguments.prompt_words) + f" {n_prompts}"
        reply = ask(address, {**body, "prompt": prompt, "max_tokens": 1})
        text = reply.read()
        if reply.status != 200:
            raise SystemExit(text.decode())
        n_prompts += 1
    end = time.monotonic()
    done.wait()
    pauses = [(at, at - before) for before, at in zip(times, times[1:])]
    for name, some in (("alone", [p for at, p in pauses if at < begin]), ("with prompts", [p for at, p in pauses if begin <= at <= end])):
        print(f"  {name}: {len(some)} events, pauses p50 {1e3 * percentile(some, 0.5):.0f} ms, "
              f"p99 {1e3 * percentile(some, 0.99):.0f} ms, longest {1e3 * max(some, default=0):.0f} ms")
    print(f"  {n_prompts} prompts of {arguments.prompt_words} words took {1e3 * (end - begin) / max(n_prompts, 1):.0f} ms each")


main()
