"""Makes tests/data/tokenizers/: small tokenizers of every family and what the reference says.

    python tests/reference/tokenizer_goldens.py tests/data/tokenizers

corpus.json is the list of texts. Each folder is a checkpoint's tokenizer (tokenizer.json or
vocabulary files) with goldens.json: for each text the ids without and with special tokens, those
cut at `max_length`, and the decoded texts. Long lists are given as [length, FNV-1a hash].
Needs tokenizers, transformers and sentencepiece; everything is seeded.
"""

import io
import json
import os
import random
import shutil
import sys

import sentencepiece
import tokenizers
import transformers
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)
from transformers import AutoTokenizer, BertTokenizer, CLIPTokenizer, GPT2Tokenizer

MAX_LENGTH = 12
LIST_MAX = 400

WORDS = """a photo of the cat and dog on red table two birds flying over city at night what color is this
how many people are in picture there man riding horse left right above below small large green blue yellow
it's we'll don't you're I've they'd I'm café naïve über straße Ångström ελληνικά русский язык текст
日本語 テキスト 中文 图片 一只 猫 한국어 이미지 हिन्दी चित्र ไทย ภาพ עברית תמונה العربية صورة 2024 3.14 100 1,000
😀 👍🏽 👨‍👩‍👧 🇩🇪 ½ ² Ⅷ ﬁne ... !? -- () [x] {y} <z> #tag @user http://example.com/a?b=c""".split()

SPECIALS = ["<|endoftext|>", "<|startoftext|>", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]", "<s>", "</s>", "<unk>",
            "<pad>", "<|im_start|>", "<|im_end|>", "<image>", "yesterday", "<ent>", "[x]"]


def training_texts():
    rng = random.Random(1)
    return [" ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 14))) for _ in range(3000)]


def corpus():
    rng = random.Random(2)
    texts = [
        "", " ", "  ", "a", "\n", "\t", "\0", "a\0b", "\r\n", " a", "a ", "  a  b  ", "A photo of a cat.",
        "Two dogs, three cats & 1 bird!", "what color is the car?", "It's WE'LL don't YOU'RE I've they'd I'm 'S 'LL",
        "HELLO World hElLo", "naïve café über STRASSE straße ẞ Ångström İstanbul ıi ΑΣ ΣΑΣ ǅ ŉ",
        "nai\u0308ve cafe\u0301 A\u030angstro\u0308m e\u0323\u0302 q\u0307\u0323 \u1100\u1161\u11a8 \uac01 \u0344 \u0958",
        "日本語のテキスト、中文图片。한국어 이미지 ｆｕｌｌｗｉｄｔｈ ﾊﾝｶｸ ㌀ ㍻", "一只猫坐在桌子上", "हिन्दी में चित्र क्षत्रिय", "ภาพแมวสองตัว น้ำ ๑๒๓",
        "שָׁלוֹם עולם תמונה", "العَرَبِيَّة صورة قطة ٠١٢٣ ﷺ ﻻ", "Привет, мир! ЁЖ й и\u0306", "Ωμέγα ΆΈΉ ᾳ ᾼ",
        "😀😃 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷🇯 ❤️ ☺︎ 1️⃣ 🧑🏿‍🦰", "a\u200bb\u200cc\u200dd\ufeffe\u2060f\u00adg\u180eh\u061ci",
        "nbsp\u00a0here\u2028line\u2029para\u3000ideo\u1680ogham\u2003em\u202fnarrow\u205fmath\u0085nel\x0bvt\x0cff",
        "ctrl\x01\x02\x1b[0m\x7f\x80\x9f\x1c\x1d\x1e\x1f end\ufffd\ufffe\uffff\ue000\U000f0000\U0010ffff",
        "tabs\tand\nnewlines\r\nand  \n\n  more   \t\n", "½ ² ³ ¹ Ⅷ ⅷ ① ⑩ ﬁ ﬀ ﬆ ™ ℃ Å K Ω µ ſ ʼn x⁵ ₂ ٣ 𝟘𝟙 𝐀𝒜",
        "3.14159 1,000,000 12345678901234567890 0x1F 1e-5 2024-01-31", "a.b,c;d:e!f?g-h_i/j\\k|l+m=n*o&p^q%r$s#t@u~v`w\"x'y",
        "!?...--()[]{}<>«»“”‘’„…—–¿¡、。！？「」٪؟।॥‿⁀\u2e43\u1b7d", "http://example.com/a?b=c&d=e#f user@example.com C:\\dir",
        "<|endoftext|>", "a<|endoftext|>b", "<|startoftext|>a cat<|endoftext|>", "<|ENDOFTEXT|>", "<|endoftext|><|endoftext|> x",
        "[CLS] hello [SEP] [MASK]", "[cls] [sep]x[MASK]y", "<s>hi</s> <unk> <pad>", " <s> hi </s> ", "<s",
        "<|im_start|>user\n<image>describe<|im_end|>\n", "yesterday Yesterday yesterdays (yesterday)", "<ent>a <ent> b<ent>",
        "I  <mask>  am[x]", "x [x]", "▁a ▁▁b▁", "_under_ __init__", "</w> a</w>", "##a ## b##c", "<0x41><0xE2><0x96>",
        "don 't do not ca n't it ' s he 's we 've you 're I 'm .", "a , b . c ! d ?", "ﷲ ﷽ \u0e33 \u0eb3 \u0f77",
        "\u0301 leading", "a\u0334\u0301\u0327\u0345\u0316b", "e" + "\u0301\u0323" * 40, "𐐀𐐨 Ა ა ꭰ Ꭰ Ɐ ꞌ Ꟃ \u1c89 \u10d50",
        "\U00013460 \U00031350 \U0002ebf0 \U0001e5d0 \U00010d40", "ñ" * 50, "x" * 99, "x" * 100, "x" * 101, "é" * 101,
        "supercalifragilisticexpialidocious antidisestablishmentarianism", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "the quick brown fox " * 30, " " * 300, "\n" * 50, "a\n" * 40, " \n " * 30,
    ]
    pools = [
        [chr(c) for c in range(0x20, 0x7F)],
        [chr(c) for c in list(range(0xA0, 0x250)) + list(range(0x300, 0x370))],
        [chr(c) for c in list(range(0x370, 0x5F5)) + list(range(0x600, 0x700)) + list(range(0x900, 0x980))],
        [chr(c) for c in list(range(0xE00, 0xE80)) + list(range(0x1100, 0x1200)) + list(range(0x1E00, 0x2000))],
        [chr(c) for c in list(range(0x2000, 0x2600)) + list(range(0x3000, 0x3100)) + list(range(0xFB00, 0xFFFE))],
        [chr(c) for c in list(range(0x1F300, 0x1F700)) + list(range(0x1F1E6, 0x1F200)) + [0x200D, 0xFE0F]],
        WORDS, SPECIALS, [" ", " ", "\n", "\t", "  ", "\u00a0"],
    ]
    for i in range(60):
        chosen = rng.sample(pools, 3) + [[" "]]
        texts.append("".join(rng.choice(rng.choice(chosen)) for _ in range(rng.randint(4, 40))))
    texts.append("".join(rng.choice("abcdefghij") for _ in range(10000)))
    texts.append("".join(rng.choice(pools[rng.randrange(6)]) for _ in range(3000)))
    texts.append(" ".join(rng.choice(WORDS) for _ in range(1500)))
    texts.append("日本" * 5000)
    assert all(not any(0xD800 <= ord(c) < 0xE000 for c in t) for t in texts)
    return texts


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def pack_ids(ids):
    if len(ids) <= LIST_MAX:
        return ids
    return {"n": len(ids), "fnv": "%016x" % fnv(b"".join(i.to_bytes(4, "little") for i in ids))}


def pack_text(text):
    data = text.encode()
    if len(data) <= 2 * LIST_MAX:
        return text
    return {"n": len(data), "fnv": "%016x" % fnv(data)}


def write_goldens(folder, texts, encode, decode, length=MAX_LENGTH):
    """encode(text, special, max_length or None) -> ids, decode(ids, skip) -> text"""
    rows = []
    for text in texts:
        plain, special = encode(text, False, None), encode(text, True, None)
        rows.append([pack_ids(plain), pack_ids(special), encode(text, True, length),
                     pack_text(decode(special, False)), pack_text(decode(special, True))])
    out = {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__, "max_length": length,
           "columns": ["ids", "ids_special", "ids_truncated", "text", "text_without_special"], "rows": rows}
    with open(os.path.join(folder, "goldens.json"), "w") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in out.items() if k != "rows"))
        f.write(',\n"rows": [\n' + ",\n".join(json.dumps(r, ensure_ascii=True) for r in rows) + "\n]}\n")


def golden_transformers(folder, texts, loaded=None):
    tok = loaded or AutoTokenizer.from_pretrained(folder)

    def encode(text, special, length):
        extra = {"truncation": True, "max_length": length} if length else {}
        return tok(text, add_special_tokens=special, **extra)["input_ids"]

    write_goldens(folder, texts, encode, lambda ids, skip: tok.decode(ids, skip_special_tokens=skip))


def golden_tokenizers(folder, texts):
    tok = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))

    def encode(text, special, length):
        if length:
            tok.enable_truncation(length)
        else:
            tok.no_truncation()
        return tok.encode(text, add_special_tokens=special).ids

    write_goldens(folder, texts, encode, lambda ids, skip: tok.decode(ids, skip_special_tokens=skip))


def fresh(root, name):
    folder = os.path.join(root, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    return folder


def compact(folder):
    """tokenizer.json without its indentation."""
    path = os.path.join(folder, "tokenizer.json")
    with open(path) as f:
        data = json.load(f)
    with open(path, "w") as f:
        json.dump(data, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def bpe_parts(tok):
    model = json.loads(tok.to_str())["model"]
    return model["vocab"], [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]


def keep_only(folder, names):
    for name in os.listdir(folder):
        if name not in names:
            os.remove(os.path.join(folder, name))


def write_bpe_files(folder, vocab, merges, config):
    with open(os.path.join(folder, "vocab.json"), "w") as f:
        json.dump(vocab, f, ensure_ascii=False)
    with open(os.path.join(folder, "merges.txt"), "w") as f:
        f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump(config, f)


def make_clip(root, texts):
    shell = CLIPTokenizer()
    tok = shell.backend_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=900, end_of_word_suffix="</w>", show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(training_texts(), trainer)
    vocab, merges = bpe_parts(tok)
    # As in the real files: every byte alone, every byte ending a word, merges, the special tokens.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    order = alphabet + [c + "</w>" for c in alphabet] + [a + b for a, b in merges]
    order += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(order))}
    folder = fresh(root, "clip")
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77).save_pretrained(folder)
    compact(folder)
    golden_transformers(folder, texts)
    folder = fresh(root, "clip_files")
    write_bpe_files(folder, vocab, merges, {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77,
                                            "unk_token": {"__type": "AddedToken", "content": "<|endoftext|>",
                                                          "lstrip": False, "normalized": True, "rstrip": False,
                                                          "single_word": False},
                                            "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
                                            "pad_token": "!", "do_lower_case": True, "errors": "replace"})
    golden_transformers(folder, texts, CLIPTokenizer.from_pretrained(folder))


def make_bert(root, texts):
    for name, lower, files in (("bert_uncased", True, False), ("bert_cased_files", False, True),
                               ("bert_uncased_files", True, True)):
        shell = BertTokenizer(do_lower_case=lower)
        tok = shell.backend_tokenizer
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        tok.train_from_iterator(training_texts(), trainers.WordPieceTrainer(
            vocab_size=700, special_tokens=specials, show_progress=False, limit_alphabet=260))
        vocab = tok.get_vocab(with_added_tokens=False)
        folder = fresh(root, name)
        if files:
            with open(os.path.join(folder, "vocab.txt"), "w") as f:
                f.write("".join(t + "\n" for t in sorted(vocab, key=vocab.get)))
            config = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower, "model_max_length": 512}
            if not lower:
                config.update(tokenize_chinese_chars=False, model_max_length=int(1e30),
                              clean_up_tokenization_spaces=True, bos_token="[DEC]",
                              additional_special_tokens=["[ENC]"])
            with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
                json.dump(config, f)
            golden_transformers(folder, texts, BertTokenizer.from_pretrained(folder))
        else:
            BertTokenizer(vocab=vocab, do_lower_case=lower, model_max_length=512).save_pretrained(folder)
            compact(folder)
            golden_transformers(folder, texts)


def make_gpt2(root, texts):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.train_from_iterator(training_texts(), trainers.BpeTrainer(
        vocab_size=800, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    vocab, merges = bpe_parts(tok)
    folder = fresh(root, "gpt2")
    GPT2Tokenizer(vocab=vocab, merges=merges).save_pretrained(folder)
    compact(folder)
    golden_transformers(folder, texts)
    folder = fresh(root, "gpt2_files")
    write_bpe_files(folder, vocab, merges, {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True,
                                            "add_bos_token": True, "clean_up_tokenization_spaces": True,
                                            "added_tokens_decoder": {
                                                str(len(vocab)): {"content": "<image>", "lstrip": True, "rstrip": True,
                                                                  "normalized": False, "single_word": False,
                                                                  "special": False}},
                                            "pad_token": "<pad>"})
    golden_transformers(folder, texts, GPT2Tokenizer.from_pretrained(folder))


def make_qwen(root, texts):
    pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
               r"\s+(?!\S)|\s+")
    for name, ignore, rx in (("qwen2", False, pattern), ("llama3", True, pattern.replace(r"\p{N}|", r"\p{N}{1,3}|"))):
        tok = Tokenizer(models.BPE(ignore_merges=ignore))
        tok.normalizer = normalizers.NFC() if not ignore else None
        tok.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(rx), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
        tok.decoder = decoders.ByteLevel()
        tok.train_from_iterator(training_texts(), trainers.BpeTrainer(
            vocab_size=800, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        tok.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        tok.add_tokens([AddedToken("<image>", special=False, normalized=False, rstrip=True)])
        tok.post_processor = processors.ByteLevel(trim_offsets=False)
        if ignore:
            tok.post_processor = processors.Sequence([
                processors.ByteLevel(trim_offsets=True),
                processors.TemplateProcessing(single="<|im_start|> $A", pair="<|im_start|> $A $B",
                                              special_tokens=[("<|im_start|>", tok.token_to_id("<|im_start|>"))])])
        folder = fresh(root, name)
        tok.save(os.path.join(folder, "tokenizer.json"))
        data = json.load(open(os.path.join(folder, "tokenizer.json")))
        if ignore:  # words of the vocabulary that no merges lead to
            for word in ("photo", "Ġphoto", "ĠcatĠdog"):
                data["model"]["vocab"].setdefault(word, len(data["model"]["vocab"]) + 4)
            used = set(data["model"]["vocab"].values())
            free = iter(i for i in range(10 ** 6) if i not in used)
            data["added_tokens"] = [{**t, "id": next(free)} for t in data["added_tokens"]]
        json.dump(data, open(os.path.join(folder, "tokenizer.json"), "w"))
        compact(folder)
        golden_tokenizers(folder, texts)


def make_llama(root, texts):
    for name, first in (("llama_legacy", False), ("llama_first", True)):
        vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
        for byte in range(256):
            vocab["<0x%02X>" % byte] = len(vocab)
        tok = Tokenizer(models.BPE())
        tok.pre_tokenizer = pre_tokenizers.Metaspace()
        tok.train_from_iterator(training_texts(), trainers.BpeTrainer(vocab_size=600, show_progress=False,
                                                                      limit_alphabet=70))
        trained, merges = bpe_parts(tok)
        for token in trained:
            vocab.setdefault(token, len(vocab))
        tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=not first))
        if first:
            tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
            tok.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\A +| +\z"), ""),
                                                   normalizers.Replace(Regex(" {2,}"), " ")])
        else:
            tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                         decoders.Strip(content=" ", left=1, right=0)])
        tok.add_special_tokens([AddedToken("<unk>", normalized=first), "<s>", "</s>"])
        tok.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
        folder = fresh(root, name)
        tok.save(os.path.join(folder, "tokenizer.json"))
        compact(folder)
        golden_tokenizers(folder, texts)


def fields(data):
    """The fields of a protobuf message: number -> last bytes or number."""
    out, i = {}, 0

    def varint():
        nonlocal i
        value = shift = 0
        while True:
            byte = data[i]
            i += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while i < len(data):
        key = varint()
        if key & 7 == 2:
            size = varint()
            out[key >> 3] = data[i : i + size]
            i += size
        elif key & 7 == 0:
            out[key >> 3] = varint()
        else:
            size = {5: 4, 1: 8}[key & 7]
            out[key >> 3] = data[i : i + size]
            i += size
    return out


def make_unigram(root, texts):
    for name, rule, fallback in (("xlmr", "nmt_nfkc", False), ("siglip", "identity", True)):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(training_texts()), model_writer=model, vocab_size=700 if not fallback else 900,
            model_type="unigram", normalization_rule_name=rule, byte_fallback=fallback, character_coverage=0.98,
            pad_id=3, hard_vocab_limit=False, minloglevel=2, num_threads=1)
        sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        charsmap = fields(fields(model.getvalue())[3]).get(2, b"")
        pieces = [(sp.id_to_piece(i), sp.get_score(i)) for i in range(sp.get_piece_size())]
        tok = Tokenizer(models.Unigram(pieces, unk_id=sp.unk_id(), byte_fallback=fallback))
        if fallback:
            punctuation = "[" + "".join("\\" + c for c in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + "]"
            tok.normalizer = normalizers.Sequence([
                normalizers.Lowercase(), normalizers.Replace(Regex(punctuation), ""),
                normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
            tok.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>",
                                                               special_tokens=[("</s>", 2)])
        else:
            tok.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap),
                                                   normalizers.Replace(Regex(" {2,}"), " ")])
            tok.post_processor = processors.TemplateProcessing(
                single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
        tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]) \
            if not fallback else pre_tokenizers.Metaspace()
        tok.decoder = decoders.Metaspace() if not fallback else decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace()])
        tok.add_special_tokens(["<s>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, normalized=False)])
        folder = fresh(root, name)
        tok.save(os.path.join(folder, "tokenizer.json"))
        compact(folder)
        golden_tokenizers(folder, texts)


def make_mixed(root, texts):
    """Every other component, in tokenizers that no model has."""
    words = sorted({w for t in training_texts() for w in t.split()})
    added = [AddedToken("yesterday", single_word=True), AddedToken("<ent>", lstrip=True, rstrip=True),
             AddedToken("[x]", rstrip=True, normalized=False), AddedToken("<s>", special=True),
             AddedToken("</s>", special=True, lstrip=True), AddedToken("[UNK]", special=True),
             AddedToken("HELLO World", normalized=True), AddedToken("</w>", special=True, normalized=True)]

    def save(name, tok):
        tok.add_tokens(added)
        folder = fresh(root, name)
        tok.save(os.path.join(folder, "tokenizer.json"))
        compact(folder)
        golden_tokenizers(folder, texts)

    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["[UNK]"] + words)}, unk_token="[UNK]"))
    tok.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKD(), normalizers.StripAccents(),
                                           normalizers.Strip(left=True, right=False)])
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    save("mixed_wordlevel", tok)

    letters = {w: i for i, w in enumerate(["[UNK]", "##", "a"] + sorted({c for w in words for c in w} - {"a"}) + [
        "##" + c for c in sorted({c for w in words for c in w})])}
    tok = Tokenizer(models.WordPiece(letters, unk_token="[UNK]", max_input_chars_per_word=20))
    tok.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(),
                                           normalizers.Replace("!", "? "), normalizers.Replace(Regex(r"\d+"), "9")])
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=False),
        pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.Split("o", "merged_with_next"),
        pre_tokenizers.Split(Regex("[aeiu]"), "merged_with_previous"),
        pre_tokenizers.Split(Regex("x+"), "contiguous", invert=True), pre_tokenizers.CharDelimiterSplit("z")])
    tok.decoder = decoders.WordPiece(cleanup=True)
    tok.post_processor = processors.BertProcessing(("[UNK]", 0), ("a", 2))
    save("mixed_wordpiece", tok)

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.train_from_iterator(training_texts(), trainers.BpeTrainer(
        vocab_size=500, show_progress=False, continuing_subword_prefix="@@", end_of_word_suffix="</w>",
        limit_alphabet=60))
    vocab, merges = bpe_parts(tok)
    vocab["[UNK]"] = len(vocab)
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="[UNK]", continuing_subword_prefix="@@",
                               end_of_word_suffix="</w>"))
    tok.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False)])
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(),
                                                 pre_tokenizers.Digits(individual_digits=True)])
    tok.decoder = decoders.BPEDecoder("</w>")
    save("mixed_bpe", tok)

    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["[UNK]", "Ġ", "a", "Ġa", "▁"] + words)},
                                     unk_token="[UNK]"))
    tok.normalizer = normalizers.Sequence([normalizers.Strip(left=False, right=True), normalizers.Prepend("a ")])
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("merged_with_previous"), pre_tokenizers.Metaspace(prepend_scheme="never"),
        pre_tokenizers.Split(Regex(r"(?<=\w)(?=[A-Z])|\w{2,3}+|[[:punct:]]"), "removed")])
    save("mixed_split", tok)


def main():
    root = sys.argv[1]
    os.makedirs(root, exist_ok=True)
    texts = corpus()
    with open(os.path.join(root, "corpus.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(t) for t in texts) + "\n]\n")
    for make in (make_clip, make_bert, make_gpt2, make_qwen, make_llama, make_unigram, make_mixed):
        make(root, texts)


main()
