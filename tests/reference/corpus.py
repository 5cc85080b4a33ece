"""The small text from which the tokenizers of the tiny checkpoints are trained, and texts to try them on."""

import itertools

COLOURS = ["red", "green", "blue", "yellow", "black", "white", "brown", "purple", "grey", "orange"]
THINGS = ["cat", "dog", "bicycle", "house", "boat", "umbrella", "apple", "banana", "teapot", "horse"]
THINGS += ["square", "circle", "triangle", "star", "train", "surfboard", "elephant", "window", "chair", "flower"]
PLACES = ["on the table", "under the bridge", "left of the tree", "in the garden", "above the river", "next to a wall"]
VERBS = ["sleeping", "running", "standing", "jumping", "sitting", "flying", "waiting", "playing"]
NUMBERS = ["one", "two", "three", "four", "five", "12", "2024", "0"]


def lines():
    """Captions, questions and answers made by rule."""
    made = []
    for i, (colour, thing) in enumerate(itertools.product(COLOURS, THINGS)):
        place, verb = PLACES[i % len(PLACES)], VERBS[i % len(VERBS)]
        made.append(f"a photo of a {colour} {thing} {verb} {place}")
        made.append(f"a picture of {NUMBERS[i % len(NUMBERS)]} {colour} {thing}s {place}.")
        made.append(f"what colour is the {thing} {place}?")
        made.append(f"is there a {colour} {thing} {place}? yes, no, maybe")
        made.append(f"how many {thing}s are {verb}? {NUMBERS[(i * 3) % len(NUMBERS)]}")
        made.append(f"the {thing}'s shadow isn't {colour}; it's {verb} (we've seen them)!")
    made += ["café déjà vu naïve résumé", "über straße größe", "日本語 の テキスト", "привет мир", "an emoji 😀 🐱"]
    return made


# Texts that show a tokenizer's corners; every checkpoint's golden has the ids for them.
PROBES = [
    "",
    " ",
    "a",
    "a photo of a cat",
    "A Photo  of\ta\nCAT ",
    "what colour is the dog's umbrella?",
    "it's we've they'll I'm you'd isn't can't",
    "café déjà vu naïve RÉSUMÉ",
    "cafe\u0301 combining",
    "straße GRÖSSE İstanbul ΑΣ",
    "日本語のテキスト 漢字かな交じり",
    "привет мир",
    "emoji 😀🐱👩‍👩‍👧‍👦 end",
    "2024-11-25 12:30 3.14159 1,000",
    "hello...world!!! (what?) [brackets] {x} <y> a/b\\c",
    "under_score and-hyphen — dash … “quotes” ‘single’",
    "zero\u200bwidth \u00a0nbsp \u3000ideographic",
    "control\x01char\x7f and \ufffd replacement",
    "supercalifragilisticexpialidocious",
    "xqzj",
    "ﬁ ligature ① ½ ²",
    "العربية עברית हिन्दी ไทย",
    "<|startoftext|> a <|endoftext|> b",
    "[CLS] a [SEP] b [MASK] c [PAD]",
    "</s> a <pad> b <unk>",
    "a photo of a red square above a blue circle " * 12,
]
