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
