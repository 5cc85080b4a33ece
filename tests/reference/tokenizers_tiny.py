"""Builds small tokenizers of the kinds that the checkpoints use, from corpus.py, deterministically."""

import os

import corpus
from common import write_json
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CLIP_SPLIT = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


def byte_characters():
    """The 256 printable stand-ins of byte-level BPE, in CLIP's order (plain bytes first)."""
    plain = list(range(ord("!"), ord("~") + 1)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    rest = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(rest))]


def clip_bpe(n_merges):
    """Returns (vocab, merges): CLIP's layout, 256 bytes, 256 bytes that end a word, merges, the two specials."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=5000, show_progress=False, initial_alphabet=byte_characters(), end_of_word_suffix="</w>"
    )
    tokenizer.train_from_iterator(corpus.lines(), trainer)
    from json import loads

    merges = [tuple(pair) for pair in loads(tokenizer.to_str())["model"]["merges"]][:n_merges]
    tokens = byte_characters()
    tokens += [c + "</w>" for c in tokens[:256]]
    tokens += ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(set(tokens)) == len(tokens)
    return {token: i for i, token in enumerate(tokens)}, merges


def write_vocab_and_merges(folder, vocab, merges):
    """The two files of the old layout."""
    write_json(os.path.join(folder, "vocab.json"), vocab)
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as out:
        out.write("#version: 0.2\n")
        out.writelines(f"{a} {b}\n" for a, b in merges)


def bert_vocab(size, n_unused=7, extra=()):
    """WordPiece vocabulary in BERT's layout: [PAD] first, some [unusedN], then [UNK] [CLS] [SEP] [MASK]."""
    special = ["[PAD]"] + [f"[unused{i}]" for i in range(n_unused)] + ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        show_progress=False,
        special_tokens=special,
        continuing_subword_prefix="##",
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz0123456789.,?!'()"),
    )
    tokenizer.train_from_iterator(corpus.lines(), trainer)
    vocab = tokenizer.get_vocab()
    assert sorted(vocab.values()) == list(range(len(vocab)))
    for token in extra:
        vocab[token] = len(vocab)
    return vocab


def unigram(size, **options):
    """A SentencePiece-like Unigram tokenizer, with scores."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=size,
        show_progress=False,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz0123456789"),
    )
    tokenizer.train_from_iterator(corpus.lines(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return tokenizer


SIGLIP_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""


def sentencepiece_unigram(folder, size):
    """A Unigram model by SentencePiece itself, and the same as tokenizer.json in the public SigLIP layout.

    Returns (tokenizers.Tokenizer, path of the SentencePiece model in `folder`).
    """
    import base64
    import json

    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as proto

    source = os.path.join(folder, "corpus.txt")
    with open(source, "w", encoding="utf-8") as out:
        out.writelines(line.lower() + "\n" for line in corpus.lines())
    prefix = os.path.join(folder, "spiece")
    sentencepiece.SentencePieceTrainer.train(
        input=source, model_prefix=prefix, vocab_size=size, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        pad_piece="<pad>", character_coverage=0.999, num_threads=1, minloglevel=2, hard_vocab_limit=False,
    )
    model = proto.ModelProto()
    with open(prefix + ".model", "rb") as binary:
        model.ParseFromString(binary.read())
    charsmap = base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()
    description = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for i, text in ((1, "</s>"), (2, "<unk>"))
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Lowercase"},
                {"type": "Replace", "pattern": {"Regex": SIGLIP_PUNCTUATION}, "content": ""},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Strip", "strip_left": True, "strip_right": True},
                {"type": "Precompiled", "precompiled_charsmap": charsmap},
            ],
        },
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "model": {
            "type": "Unigram",
            "unk_id": 2,
            "vocab": [[piece.piece, piece.score] for piece in model.pieces],
            "byte_fallback": False,
        },
    }
    return Tokenizer.from_str(json.dumps(description)), prefix + ".model"


def probe(tokenizer, **options):
    """The ids of every probe text, with special tokens and without, cut at the tokenizer's own length."""
    rows = []
    for text in corpus.PROBES:
        rows.append(
            {
                "text": text,
                "ids": tokenizer(text, truncation=True, **options)["input_ids"],
                "ids_plain": tokenizer(text, add_special_tokens=False, **options)["input_ids"],
            }
        )
    return rows
