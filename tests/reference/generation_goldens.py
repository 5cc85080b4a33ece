"""Goldens of generation itself: logits processors, warpers, greedy and beam search, without a network.

`TableModel` is a "model" whose logits are a formula of the last two tokens and the length (the same formula as
fake_logit() in tests/unit/runtime_fake.h), driven through transformers' own generate(). Written to
tests/data/goldens/generation.json:

* `generate`: settings, prompt, and what generate() returned: new ids and, for beams, sequences_scores;
* `rows`: rows of scores through generate()'s processors and warpers: which tokens are left, and their scores.

Cases whose result would change when all logits move by a factor of 1 ± 2e-4 are left out, so that nothing hangs on
a near-tie.

    python tests/reference/generation_goldens.py
"""

import itertools
import json
import os
import warnings

import numpy as np
import torch
import transformers
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.generation import LogitsProcessorList
from transformers.modeling_outputs import CausalLMOutput

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.normpath(os.path.join(HERE, "..", "data", "goldens", "generation.json"))
VOCAB = 24

warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()
torch.set_num_threads(1)


def mix(h, x):
    h = (h ^ x) * 0x9E3779B1 & 0xFFFFFFFF
    return h ^ (h >> 15)


def table_row(seed, last2, last, length):
    """fake_logit() for every id."""
    row = np.empty(VOCAB, np.float32)
    for token in range(VOCAB):
        h = mix(mix(mix(mix(seed, last2), last), token), 77)
        row[token] = (h >> 16) / 8192.0 - 4.0
        if token in (1, 2):
            row[token] += length * 0.25 - 2.0
    return row


class TableConfig(PretrainedConfig):
    model_type = "table"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size = VOCAB
        self.num_hidden_layers = 1
        self.hidden_size = 4


class TableModel(PreTrainedModel, GenerationMixin):
    config_class = TableConfig
    main_input_name = "input_ids"

    def __init__(self, seed):
        super().__init__(TableConfig())
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.seed = seed
        self.noise = None

    def forward(self, input_ids, **kwargs):
        rows = []
        for ids in input_ids.tolist():
            row = table_row(self.seed, ids[-2] if len(ids) > 1 else 0, ids[-1], len(ids))
            if self.noise is not None:
                # The same disturbance for the same place in the table, as a changed weight would give.
                state = np.random.default_rng([self.noise, self.seed, *ids[-2:]])
                row = row * (1 + 2e-4 * state.standard_normal(VOCAB)).astype(np.float32)
            rows.append(row)
        return CausalLMOutput(logits=torch.from_numpy(np.stack(rows))[:, None, :])


def generate(seed, prompt, settings, noise=None):
    model = TableModel(seed)
    model.noise = noise
    model.generation_config = GenerationConfig()
    settings = {"pad_token_id": 0, "use_cache": False, **settings}
    with torch.no_grad():
        result = model.generate(
            torch.tensor([prompt]), return_dict_in_generate=True, output_scores=True, **settings
        )
    eos = settings.get("eos_token_id") or []
    eos = [eos] if isinstance(eos, int) else eos
    made = []
    for ids in result.sequences.tolist():
        new = ids[len(prompt) :]
        ends = [i for i, token in enumerate(new) if token in eos]
        made.append(new[: ends[0] + 1] if ends else new)
    scores = getattr(result, "sequences_scores", None)
    return made, None if scores is None else [float(np.float32(s)) for s in scores.tolist()]


def generate_cases():
    eos_sets = {"one": 1, "two": [1, 2], "three": [1, 2, 9], "none": None}
    plain = [
        {},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.8},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 3},
        {"min_length": 9},
        {"min_new_tokens": 9},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
    ]
    prompts = [[3], [5, 3, 7, 3, 7]]
    seed = 100
    for settings, (_, eos), prompt in itertools.product(plain, eos_sets.items(), prompts):
        seed += 1
        yield seed, prompt, {"eos_token_id": eos, "max_new_tokens": 14, **settings}
    for max_length in (6, 7, 12):
        seed += 1
        yield seed, prompts[1], {"eos_token_id": 1, "max_length": max_length}
    for beams, early, penalty, (_, eos) in itertools.product(
        (2, 3, 4, 5), (False, True, "never"), (-1.0, 0.0, 0.6, 1.0, 2.0), eos_sets.items()
    ):
        seed += 1
        yield seed, prompts[seed % 2], {
            "eos_token_id": eos,
            "max_new_tokens": 4 + seed % 9,
            "num_beams": beams,
            "early_stopping": early,
            "length_penalty": penalty,
            "num_return_sequences": 1 + seed % beams,
        }
    for settings, beams in itertools.product(plain[1:], (2, 4)):
        seed += 1
        yield seed, prompts[1], {"eos_token_id": [1, 2], "max_new_tokens": 12, "num_beams": beams, **settings}
    yield seed + 1, prompts[0], {"eos_token_id": 1, "max_new_tokens": 1, "num_beams": 3, "num_return_sequences": 3}


def make_generate():
    made, dropped = [], 0
    for seed, prompt, settings in generate_cases():
        for attempt in range(20):  # another table where this one has near-ties
            use = seed + 1000 * attempt
            sequences, scores = generate(use, prompt, settings)
            if all(generate(use, prompt, settings, noise)[0] == sequences for noise in (1, 2, 3)):
                made.append({"seed": use, "prompt": prompt, "settings": settings, "new_ids": sequences, "scores": scores})
                break
        else:
            dropped += 1
    print(f"{len(made)} generations, {dropped} left out for near-ties")
    return made


def make_rows():
    """Rows through the processors and warpers that generate() itself puts together."""
    model = TableModel(1)
    rng = np.random.default_rng(7)
    made = []
    for settings in [
        {"temperature": 0.5},
        {"temperature": 1.7, "top_k": 0},
        {"top_k": 1},
        {"top_k": 5},
        {"top_k": 23},
        {"top_k": 24},
        {"top_k": 1000},
        {"top_k": 0, "top_p": 0.9},
        {"top_k": 0, "top_p": 0.5},
        {"top_k": 0, "top_p": 0.05},
        {"top_k": 0, "top_p": 0.999},
        {"top_k": 8, "top_p": 0.7, "temperature": 0.8},
        {"top_k": 3, "top_p": 0.95, "temperature": 3.0},
        {"top_k": 6, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_length": 20},
        {"top_k": 4, "num_beams": 3},
        {"top_k": 1, "num_beams": 3},
        {"top_k": 0, "top_p": 0.1, "num_beams": 3},
        {"top_k": 6, "suppress_tokens": [3, 9], "bad_words_ids": [[4], [11]]},
    ]:
        for kind in ("spread", "flat", "peaked"):
            scale = {"spread": 2.0, "flat": 0.05, "peaked": 8.0}[kind]
            row = (rng.standard_normal(VOCAB) * scale).astype(np.float32)
            ids = [5, 3, 7, 3, 7, 5, 3]
            config = GenerationConfig(do_sample=True, **{"eos_token_id": [1, 2], "top_k": 50, **settings})
            config._eos_token_tensor = torch.tensor([1, 2])
            processors = model._get_logits_processor(
                generation_config=config, input_ids_seq_length=2, logits_processor=LogitsProcessorList()
            )
            out = processors(torch.tensor([ids]), torch.from_numpy(row.copy())[None])[0].tolist()
            made.append({
                "kind": kind,
                "settings": settings,
                "row": row.tolist(),
                "ids": ids,
                "n_prompt": 2,
                "out": [None if value == float("-inf") else value for value in out],
            })
    print(f"{len(made)} rows")
    return made


def main():
    golden = {
        "tools": {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__},
        "command": "python tests/reference/generation_goldens.py",
        "vocab": VOCAB,
        "generate": make_generate(),
        "rows": make_rows(),
    }
    lines = []
    for key, value in golden.items():
        if isinstance(value, list):
            rows = ",\n".join("  " + json.dumps(row) for row in value)
            lines.append(f" {json.dumps(key)}: [\n{rows}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    with open(OUT, "w") as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
