"""test_openai.py: OpenAI's own clients, unmodified, from Python and Node: whole and streamed replies, several choices,
log-probabilities, usage, embeddings, and the typed exceptions that each of our errors must turn into.

Each client runs one script in its own language, which prints what it saw as JSON; the checks are here."""
import json
import os
import shutil
import subprocess
import tempfile
import unittest

from clients import node_with, python_with
from harness import PATIENCE_S, Server, ServerTest, image_b64

KEY = "secret-key-of-the-app"
MODELS = {"captioner": "blip-caption-tiny", "answerer": "blip-vqa-tiny", "clip": "clip-tiny"}

PYTHON = r"""
import base64, json, sys
import openai
url, key, picture, limited = sys.argv[1:5]
client = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0)
part = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + picture}}
user = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, part]}]
only = [{"role": "user", "content": [part]}]
create = client.chat.completions.create
seen = {}

reply = create(model="answerer", messages=user)
seen["answer"] = reply.choices[0].message.content
seen["usage"] = [reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens]
seen["caption"] = create(model="captioner", messages=only).choices[0].message.content

text, usage, reasons = "", None, []
for chunk in create(model="captioner", messages=only, stream=True, stream_options={"include_usage": True}):
    for choice in chunk.choices:
        text += choice.delta.content or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
    usage = chunk.usage or usage
seen["streamed"], seen["reasons"], seen["stream_usage"] = text, reasons, usage.completion_tokens

reply = create(model="captioner", messages=only, n=3, seed=5, temperature=1.5, logprobs=True, top_logprobs=2,
               max_completion_tokens=6)
seen["choices"] = [choice.message.content for choice in reply.choices]
seen["tops"] = [len(token.top_logprobs) for token in reply.choices[2].logprobs.content]
texts, tokens = [""] * 3, [0] * 3
for chunk in create(model="captioner", messages=only, n=3, seed=5, temperature=1.5, logprobs=True, top_logprobs=2,
                    max_completion_tokens=6, stream=True):
    for choice in chunk.choices:
        texts[choice.index] += choice.delta.content or ""
        tokens[choice.index] += len(choice.logprobs.content) if choice.logprobs else 0
seen["streamed_choices"], seen["streamed_tops"] = texts, tokens
seen["stopped"] = create(model="captioner", messages=only, stop=[seen["caption"][4:8]]).choices[0].message.content

seen["vectors"] = [len(row.embedding) for row in client.embeddings.create(model="clip", input=["a cat", "a dog"]).data]
seen["models"] = sorted(model.id for model in client.models.list())
seen["model"] = client.models.retrieve("clip").id

def fault(name, act):
    try:
        act()
        seen["faults"][name] = "none"
    except openai.APIError as error:
        seen["faults"][name] = [type(error).__name__, getattr(error, "status_code", None), error.code, error.param, error.type]
seen["faults"] = {}
fault("model", lambda: create(model="gpt-4o", messages=user))
fault("temperature", lambda: create(model="captioner", messages=only, temperature=11))
fault("role", lambda: create(model="captioner", messages=[{"role": "tool", "content": "x", "tool_call_id": "1"}]))
fault("picture", lambda: create(model="captioner", messages=[{"role": "user", "content": [
    {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,bm8="}}]}]))
fault("stream", lambda: list(create(model="gpt-4o", messages=user, stream=True)))
fault("key", lambda: openai.OpenAI(base_url=url + "/v1", api_key="wrong", max_retries=0).models.list())
fault("deadline", lambda: create(model="captioner", messages=only, extra_headers={"X-Request-Timeout-Ms": "1"}, n=8, temperature=1, max_tokens=50))
fault("embedding", lambda: client.embeddings.create(model="clip", input=[]))
busy = openai.OpenAI(base_url=limited + "/v1", api_key=key, max_retries=0)
busy.models.list()
fault("rate", lambda: busy.models.list())
print(json.dumps(seen))
"""

NODE = r"""
import OpenAI from 'openai';
const [url, key, picture, limited] = process.argv.slice(2);
const client = new OpenAI({baseURL: url + '/v1', apiKey: key, maxRetries: 0});
const part = {type: 'image_url', image_url: {url: 'data:image/jpeg;base64,' + picture}};
const user = [{role: 'user', content: [{type: 'text', text: 'what is it?'}, part]}];
const only = [{role: 'user', content: [part]}];
const create = (body, options) => client.chat.completions.create(body, options);
const seen = {};

let reply = await create({model: 'answerer', messages: user});
seen.answer = reply.choices[0].message.content;
seen.usage = [reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens];
seen.caption = (await create({model: 'captioner', messages: only})).choices[0].message.content;

seen.streamed = ''; seen.reasons = [];
for await (const chunk of await create({model: 'captioner', messages: only, stream: true, stream_options: {include_usage: true}})) {
    for (const choice of chunk.choices) {
        seen.streamed += choice.delta.content ?? '';
        if (choice.finish_reason) seen.reasons.push(choice.finish_reason);
    }
    if (chunk.usage) seen.stream_usage = chunk.usage.completion_tokens;
}
const several = {model: 'captioner', messages: only, n: 3, seed: 5, temperature: 1.5, logprobs: true, top_logprobs: 2, max_completion_tokens: 6};
reply = await create(several);
seen.choices = reply.choices.map((choice) => choice.message.content);
seen.tops = reply.choices[2].logprobs.content.map((token) => token.top_logprobs.length);
seen.streamed_choices = ['', '', '']; seen.streamed_tops = [0, 0, 0];
for await (const chunk of await create({...several, stream: true}))
    for (const choice of chunk.choices) {
        seen.streamed_choices[choice.index] += choice.delta.content ?? '';
        seen.streamed_tops[choice.index] += choice.logprobs?.content?.length ?? 0;
    }
seen.stopped = (await create({model: 'captioner', messages: only, stop: [seen.caption.slice(4, 8)]})).choices[0].message.content;

seen.vectors = (await client.embeddings.create({model: 'clip', input: ['a cat', 'a dog']})).data.map((row) => row.embedding.length);
seen.models = [];
for await (const model of client.models.list()) seen.models.push(model.id);
seen.models.sort();
seen.model = (await client.models.retrieve('clip')).id;

seen.faults = {};
const fault = async (name, act) => {
    try { await act(); seen.faults[name] = 'none'; }
    catch (error) { seen.faults[name] = [error.constructor.name, error.status ?? null, error.code ?? null, error.param ?? null, error.type ?? null]; }
};
const drain = async (stream) => { for await (const chunk of stream) void chunk; };
await fault('model', () => create({model: 'gpt-4o', messages: user}));
await fault('temperature', () => create({model: 'captioner', messages: only, temperature: 11}));
await fault('role', () => create({model: 'captioner', messages: [{role: 'tool', content: 'x', tool_call_id: '1'}]}));
await fault('picture', () => create({model: 'captioner', messages: [{role: 'user', content: [{type: 'image_url', image_url: {url: 'data:image/jpeg;base64,bm8='}}]}]}));
await fault('stream', async () => drain(await create({model: 'gpt-4o', messages: user, stream: true})));
await fault('key', () => new OpenAI({baseURL: url + '/v1', apiKey: 'wrong', maxRetries: 0}).models.list());
await fault('deadline', () => create({model: 'captioner', messages: only, n: 8, temperature: 1, max_tokens: 50}, {headers: {'X-Request-Timeout-Ms': '1'}}));
await fault('embedding', () => client.embeddings.create({model: 'clip', input: []}));
const busy = new OpenAI({baseURL: limited + '/v1', apiKey: key, maxRetries: 0});
await busy.models.list();
await fault('rate', () => busy.models.list());
console.log(JSON.stringify(seen));
"""

# What each client calls the exception of a status; InternalServerError is any 5xx.
WANTED = {
    "model": ("NotFoundError", 404, "model_not_found", "model"),
    "temperature": ("BadRequestError", 400, "out_of_range", "temperature"),
    "role": ("UnprocessableEntityError", 422, "unprocessable", "messages[0]"),
    "picture": ("UnprocessableEntityError", 422, "unsupported_image_format", "messages[0].content[0].image_url"),
    "stream": ("NotFoundError", 404, "model_not_found", "model"),
    "key": ("AuthenticationError", 401, "invalid_api_key", None),
    "deadline": ("InternalServerError", 504, "deadline_exceeded", None),
    "embedding": ("UnprocessableEntityError", 422, "unprocessable", "input"),
    "rate": ("RateLimitError", 429, "rate_limited", None),
}


class OpenAI(ServerTest):
    models = MODELS
    settings = {"api_key": f"app:{KEY}"}

    def check(self, seen):
        headers = {"Authorization": f"Bearer {KEY}"}
        ask = lambda path, **body: self.server.post(path, {"image": image_b64(), **body}, headers).json
        caption = ask("/v1/caption", model="captioner")["caption"]
        self.assertEqual(seen["answer"], ask("/v1/vqa", question="what is it?", model="answerer")["answer"])
        self.assertEqual((seen["caption"], seen["streamed"]), (caption, caption))
        self.assertEqual(seen["usage"][2], seen["usage"][0] + seen["usage"][1])
        self.assertEqual(seen["reasons"], ["stop"])
        self.assertGreater(seen["stream_usage"], 1)
        self.assertEqual(seen["choices"], seen["streamed_choices"])
        self.assertGreater(len(set(seen["choices"])), 1)
        self.assertEqual(set(seen["tops"]), {2})
        self.assertEqual(seen["streamed_tops"][2], len(seen["tops"]))
        self.assertEqual(seen["stopped"], caption[:caption.index(caption[4:8])].rstrip())
        self.assertEqual(len(seen["vectors"]), 2)
        self.assertEqual((seen["models"], seen["model"]), (sorted(MODELS), "clip"))
        for name, want in WANTED.items():
            self.assertEqual(tuple(seen["faults"][name][:4]), want, name)

    def run_client(self, *command, directory):
        limited = Server({"clip": "clip-tiny"}, api_key=f"app:{KEY}", key_rate_per_minute=1)
        self.addCleanup(limited.stop)
        arguments = ["http://%s:%d" % self.server.address, KEY, image_b64(), "http://%s:%d" % limited.address]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=directory, timeout=PATIENCE_S)
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        return json.loads(done.stdout)

    def test_python(self):
        python = python_with("openai==3.57.0")
        with tempfile.TemporaryDirectory() as directory:
            with open(os.path.join(directory, "ask.py"), "w") as script:
                script.write(PYTHON)
            seen = self.run_client(python, "ask.py", directory=directory)
        self.check(seen)

    @unittest.skipUnless(shutil.which("node"), "no Node.js here")
    def test_node(self):
        # A module's imports are found beside its file or above: the script goes where the package is.
        with tempfile.TemporaryDirectory(dir=node_with("openai@6.49.0")) as directory:
            with open(os.path.join(directory, "ask.mjs"), "w") as script:
                script.write(NODE)
            seen = self.run_client("node", "ask.mjs", directory=directory)
        self.check(seen)


if __name__ == "__main__":
    unittest.main()
