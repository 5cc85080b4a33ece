"""The two tokenizers, made from language.all_words(): WordPiece for BLIP, byte-level BPE for CLIP.

Every word of the training texts is one token; anything else is spelt in letters (WordPiece) or bytes
(BPE), so that no text is refused.
"""
import string

from tokenizers import pre_tokenizers
from transformers import BertTokenizer, CLIPTokenizer

import language

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
BLIP_POSITIONS, CLIP_POSITIONS = 64, 48


def wordpiece():
    """{token: id}"""
    letters = list(string.ascii_lowercase + string.digits)
    tokens = SPECIALS + list(string.punctuation) + letters + ["##" + c for c in letters]
    tokens += [w for w in language.all_words() if w not in set(tokens)]
    return {token: i for i, token in enumerate(tokens)}


def bert_tokenizer():
    return BertTokenizer(vocab=wordpiece(), do_lower_case=True, bos_token="[DEC]",
                         additional_special_tokens=["[ENC]"], model_max_length=BLIP_POSITIONS)


def learn_merges(words):
    """Byte-pair merges until every word is one token; ties go by the alphabet, so that it is always the same."""
    split = [list(w[:-1]) + [w[-1] + "</w>"] for w in words]
    merges = []
    while True:
        pairs = {}
        for parts in split:
            for pair in zip(parts, parts[1:]):
                pairs[pair] = pairs.get(pair, 0) + 1
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in split:
            i = 0
            while i + 1 < len(parts):
                if (parts[i], parts[i + 1]) == best:
                    parts[i:i + 2] = [parts[i] + parts[i + 1]]
                i += 1


def clip_tokenizer():
    """CLIP's own tokenizer class, with merges learnt from our words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges([w for w in language.all_words() if w.isalpha()])
    tokens = list(dict.fromkeys(alphabet + [c + "</w>" for c in alphabet] + [a + b for a, b in merges]))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, model_max_length=CLIP_POSITIONS)


class Encoder:
    """Fast ids for the texts of training: words looked up in a table that the real tokenizer filled."""

    def __init__(self, tokenizer, start, end):
        self.tokenizer, self.start, self.end, self.words = tokenizer, start, end, {}

    def __call__(self, text):
        ids = [self.start]
        for word in text.replace("?", " ?").replace(",", " ,").split():
            if word not in self.words:
                self.words[word] = self.tokenizer(word, add_special_tokens=False).input_ids
            ids += self.words[word]
        ids.append(self.end)
        return ids


if __name__ == "__main__":
    bert, clip = bert_tokenizer(), clip_tokenizer()
    print(len(bert), len(clip))
    for text in ["how many cats are there?", "a photo of a dog, two cats and 3 mice to the left of the ufo.", "Zebra qwxyz £5 é 漢字 😀"]:
        print(bert.convert_ids_to_tokens(bert(text).input_ids))
        print(clip.convert_ids_to_tokens(clip(text).input_ids), clip.decode(clip(text).input_ids))
    print([w for w in language.all_words() if len(clip(w).input_ids) != 3 or len(bert(w).input_ids) != 3])
    print(clip.bos_token_id, clip.eos_token_id, clip.pad_token_id)
