"""Runs generate() and records what it made, with the settings as generate() itself resolved them."""

import copy

import torch

# The fields of GenerationConfig that a server has to know, in this order.
FIELDS = [
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "num_beams", "num_return_sequences",
    "early_stopping", "length_penalty", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty",
    "no_repeat_ngram_size", "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id",
    "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens",
]


class Watched:
    """While open, remembers the generation config that the decoder's generate() settled on."""

    def __init__(self, decoder):
        self.decoder = decoder
        self.resolved = None

    def __enter__(self):
        inner = self.decoder._prepare_generated_length

        def watch(**kwargs):
            config = inner(**kwargs)
            self.resolved = {field: getattr(config, field, None) for field in FIELDS}
            return config

        self.decoder._prepare_generated_length = watch
        return self

    def __exit__(self, *_):
        del self.decoder._prepare_generated_length


def steps_margin(scores):
    """The least distance between the best and the second score over all steps of a greedy run."""
    least = float("inf")
    for step in scores:
        top = step.topk(2, dim=-1).values
        least = min(least, (top[:, 0] - top[:, 1]).min().item())
    return least


def run(decoder, generate, settings):
    """One generate() call: sequences, scores, resolved settings, and for greedy the per-step logits."""
    with Watched(decoder) as watched:
        result = generate(return_dict_in_generate=True, output_scores=True, output_logits=True, **settings)
    made = {"sequences": result.sequences.tolist(), "resolved": watched.resolved}
    beam_scores = getattr(result, "sequences_scores", None)
    if beam_scores is not None:
        made["scores"] = beam_scores.tolist()
        made["logits"] = None
    else:
        made["margin"] = steps_margin(result.scores)
        made["logits"] = torch.stack([step[0] for step in result.logits])
    return made


def nudged(model, seed, size=2e-4):
    """A copy of the model with every weight moved by a tiny random factor, to expose near-ties."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1 + size * torch.randn(parameter.shape, generator=generator))
    return other


def converse(loaded, model, conversations, generate):
    """{name: [a greedy run, one of three beams]}. loaded.inputs(messages) → prompt, pictures, inputs; generate(inputs) → what run() calls."""
    results = {}
    for name, messages in conversations.items():
        prompt, pictures, inputs = loaded.inputs(messages)
        start = inputs["input_ids"][0].tolist()
        results[name] = []
        for run_name, settings in (("greedy", {}), ("beam3", {"num_beams": 3})):
            made = run(model, generate(inputs), settings)
            made["texts"] = [loaded.tokenizer.decode(ids[len(start):], skip_special_tokens=True)
                             for ids in made["sequences"]]
            made.update(run=run_name, settings=settings, start_ids=start, prompt=prompt, pictures=pictures,
                        messages=messages)
            results[name].append(made)
    return results


def conversations_fault(results, loaded, again, most_alike):
    """Why these are no goldens, or None. again(model) → the results of another model."""
    greedy = [made[0] for made in results.values()]
    if len({made["texts"][0] for made in greedy}) < len(greedy) - most_alike:
        return "texts too much alike"
    if min(made["margin"] for made in greedy) < 2e-3:
        return "a near-tie"
    for seed in 1, 2:
        other = again(nudged(loaded.model, seed))
        for name in results:
            for a, b in zip(results[name], other[name]):
                if a["sequences"] != b["sequences"]:
                    return f"{name}, {a['run']} hangs on a near-tie"
    return None


def conversation_cases(out, results):
    """Into a Golden."""
    for conversation, runs in results.items():
        for made in runs:
            logits = made.pop("logits")
            tensors = {"logits": logits} if logits is not None else {}
            out.case(f"chat:{conversation}|{made['run']}", tensors, kind="chat", **made)
