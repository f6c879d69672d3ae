#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reference of lib/text: tokenizers of every layout, made with the packages `tokenizers`, `transformers` and `sentencepiece`.

    tokenizers_reference.py golden DIR           writes small tokenizers and cases: tests/golden/tokenizers
    tokenizers_reference.py compare LIBRARY DATA [NAME ...]
                                                 compares liborrery.so with the package on generated text and on that of DATA, a
                                                 folder with gpt2-bpe/, bert-vocab/, shakespeare/, agnews/ and wnut17/
    tokenizers_reference.py train COMMAND DATA   compares `orrery tokenize --train` with the package's trainer

Nothing is downloaded: what has to be trained is trained here.
"""
import collections
import ctypes
import glob
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata

import sentencepiece as spm
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers)
from transformers import PreTrainedTokenizerFast

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT4 = (r"(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
RULES = ("FF21\t0041\nFB01\t0066 0069\n00C0\t0041\n0041 0300\t0041\n00BD\t0031 2044 0032\n"
         "3000\t0020\n00A0\t0020\n0009\t0020\n000A\t0020\n")


# ---- text ------------------------------------------------------------------------------------------------------------

EMOJI = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "👍🏽", "❤️", "🤷🏿‍♀️", "1️⃣", "😀😃", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n ", "\u00a0", "\u2003", "\u3000", "\u0085", "\u2028", "\u200b", "\u180e", "\x0b",
          "\x1f", "\x00", "\ufeff", "\u00ad", "\u200d", "\x7f"]
WORDS = ["Hello", "world", "can't", "WE'LL", "it's", "don't", "don’t", "naïve", "café", "cafe\u0301", "Å", "A\u030a", "ﬁne", "½", "①", "Ⅷ",
         "x²", "ſ", "'S", "'ſ", "K", "İstanbul", "ΌΣΟΣ", "straße", "ẞ", "ǅ", "日本語", "東京タワー", "中文字符", "한국어", "\u1112\u1161\u11ab",
         "مرحبا", "بِسْمِ", "שלום", "שָׁלוֹם", "हिन्दी", "क्षि", "ไทย", "Привет", "ёлка", "e\u0301\u0323", "12345", "1234567890", "3.14", "٣٤",
         "१२३", "a_b", "foo.bar()", "http://x.y/z?q=1", "<br/>", "{}[]()", "...", "—", "“q”", "'''", "a,b", "$5", "50%", "▁", "Ġ", "##a",
         "don't!", "n't", "<s>", "</s>", "<unk>", "<pad>", "<mask>", "[MASK]", "[CLS]", "[SEP]", "<|endoftext|>", "<0x41>", "ＡＢＣ", "ｶﾞ", "㌔",
         "ﷺ", "Ａ", "À", "A\u0300", "\u0345", "\U0001d400", "𠮷", "\U0010fffd", "\ue000", "\ufffd", "ÿ", "\u0149", "word", "words", "[DAY]",
         "day", "Day", "DAY"]


# Categories that changed after the Unicode that the package's tables are of.
CHANGED = set("\u1734\u1885\u1886\ua9bd\U000111c9\u1cf2\u1cf3\u166d")


def is_settled(c):
    """Not younger than this interpreter's Unicode, so that the libraries compared may or may not know it, and not CHANGED."""
    return c not in CHANGED and (unicodedata.category(c) != "Cn" or 0x40000 <= ord(c) < 0xe0000 or ord(c) & 0xfffe == 0xfffe)


def character(rng):
    """Of every plane, and of those that are in use more often."""
    while True:
        c = any_character(rng)
        if is_settled(c):
            return c


def any_character(rng):
    which = rng.random()
    if which < 0.3:
        return chr(rng.randrange(0x20, 0x250))
    if which < 0.6:
        c = rng.randrange(0x250, 0x10000)
    elif which < 0.9:
        c = rng.randrange(0x10000, 0x32000)
    else:
        c = rng.randrange(0, 0x110000)
    return chr(c) if not 0xd800 <= c < 0xe000 else "\u0300"


def generated(rng, count):
    """Texts as bytes; some are not UTF-8."""
    texts = [b"", b" ", b"\n", b"\x00", b"\xff", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\x80", b"a\xf4\x90\x80\x80b"]
    texts += [("x" * n).encode() for n in (99, 100, 101, 5000)] + [("é" * 20000).encode(), ("ab1 " * 9 + "\n" * 3000).encode()]
    texts += [w.encode() for w in WORDS] + [s.encode() for s in SPACES] + [(" " + w).encode() for w in WORDS]
    while len(texts) < count:
        kind = rng.random()
        if kind < 0.35:
            parts = [rng.choice(WORDS + EMOJI) + rng.choice(SPACES[:6] + [""]) for _ in range(rng.randrange(1, 12))]
            texts.append("".join(parts).encode())
        elif kind < 0.6:
            texts.append("".join(rng.choice([character(rng), rng.choice(SPACES)]) for _ in range(rng.randrange(1, 20))).encode())
        elif kind < 0.85:
            texts.append("".join(rng.choice([rng.choice(WORDS), rng.choice(SPACES), character(rng), rng.choice(EMOJI), " "])
                                 for _ in range(rng.randrange(1, 30))).encode())
        else:
            text = bytearray("".join(rng.choice(WORDS + SPACES) for _ in range(rng.randrange(1, 8))).encode())
            for _ in range(rng.randrange(1, 4)):
                text.insert(rng.randrange(len(text) + 1), rng.randrange(0x80, 0x100))
            if all(map(is_settled, text.decode(errors="replace"))):
                texts.append(bytes(text))
    return texts


def real(data):
    """Lines, and pieces with line ends in them."""
    texts = []
    for path in sorted(glob.glob(os.path.join(data, "shakespeare/*")) + glob.glob(os.path.join(data, "agnews/test.tsv")) +
                       glob.glob(os.path.join(data, "wnut17/*"))):
        with open(path, "rb") as f:
            text = f.read()
        texts += text.split(b"\n")[:9000]
        texts += [text[i:i + 3000] for i in range(0, min(len(text), 600000), 3000)]
    return texts


# ---- tokenizers -----------------------------------------------------------------------------------------------------

def corpus(rng, lines):
    """Text to train small vocabularies on. Tokens with a zero byte cannot be read: JSON's reader here has none in names."""
    texts = [t.decode(errors="replace").replace("\0", "") for t in generated(rng, lines) if len(t) < 2000]
    return texts + ["the quick brown fox jumps over the lazy dog and it's only the other one of them"] * 40


def byte_level_bpe(texts, size, special, pre, post=None, ignore_merges=False, normalizer=None):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    if normalizer:
        t.normalizer = normalizer
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False,
                                                     initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if post:
        t.post_processor = post(t)
    return t


def template(single, pair, *tokens):
    return lambda t: processors.TemplateProcessing(single=single, pair=pair, special_tokens=[(k, t.token_to_id(k)) for k in tokens])


def llama3(texts, size, pattern=LLAMA3):
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    bos = template("<|begin_of_text|> $A", "<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", "<|begin_of_text|>")
    post = lambda t: processors.Sequence([processors.ByteLevel(trim_offsets=False), bos(t)])
    return byte_level_bpe(texts, size, ["<|begin_of_text|>", "<|end_of_text|>"], pre, post, ignore_merges=True)


def roberta(texts, size):
    special = ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)]
    post = lambda t: processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>")))
    return byte_level_bpe(texts, size, special, pre_tokenizers.ByteLevel(add_prefix_space=False), post)


def bert(vocab, lowercase):
    t = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.add_special_tokens([AddedToken(s, special=True) for s in ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")])
    t.post_processor = template("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", "[CLS]", "[SEP]")(t)
    return t


def trained_bert(texts, size, lowercase):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=size, show_progress=False,
                                                           special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    return bert(t.get_vocab(), lowercase)


def sentencepiece(texts, size, kind, **options):
    model = io.BytesIO()
    common = {c for c, _ in collections.Counter(c for t in texts for c in t if c not in "\0\n").most_common(size // 3)}
    lines = ["".join(c for c in line[:2000] if c in common) for t in texts for line in t.split("\n")]
    lines = [line for line in lines if line.strip()]
    spm.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, vocab_size=size, model_type=kind,
                                   hard_vocab_limit=False, minloglevel=2, character_coverage=1.0, num_threads=1, **options)
    from sentencepiece import sentencepiece_model_pb2 as pb
    proto = pb.ModelProto()
    proto.ParseFromString(model.getvalue())
    return proto


def merges_of(pieces):
    """The merges of a SentencePiece model: every way to cut a piece in two that are pieces, by the rank of the whole."""
    rank = {p: i for i, p in enumerate(pieces)}
    merges = []
    for piece in pieces:
        ways = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in rank and piece[i:] in rank]
        merges += sorted(ways, key=lambda w: (rank[w[0]], rank[w[1]]))
    return merges


def llama2(texts, size, legacy=True):
    """Normalized by Prepend and Replace (Llama 2), or cut by Metaspace (Mistral's later layout)."""
    proto = sentencepiece(texts, size, "bpe", byte_fallback=True, normalization_rule_name="identity",
                          add_dummy_prefix=True, remove_extra_whitespaces=False)
    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    t = Tokenizer(models.BPE(vocab, merges_of([p.piece for p in proto.pieces if p.type == 1]), unk_token="<unk>", fuse_unk=True,
                             byte_fallback=True))
    if legacy:
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in ("<unk>", "<s>", "</s>")])
    t.post_processor = template("<s> $A", "<s> $A <s>:1 $B:1", "<s>")(t)
    return t


def unigram(texts, size, xlmr=False, byte_fallback=False, rules=None):
    options = {"normalization_rule_name": "nmt_nfkc"}
    if rules:
        with tempfile.NamedTemporaryFile("w", suffix=".tsv", delete=False) as f:
            f.write(rules)
        options = {"normalization_rule_tsv": f.name}
    proto = sentencepiece(texts, size, "unigram", byte_fallback=byte_fallback, **options)
    if rules:
        os.unlink(f.name)
    vocab = [(p.piece, p.score) for p in proto.pieces]
    t = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=byte_fallback))
    steps = [normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)]
    t.normalizer = normalizers.Sequence(steps + [normalizers.Replace(Regex(" {2,}"), " ")] if xlmr else
                                        steps + [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")])
    meta = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), meta]) if xlmr else meta
    t.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in ("<s>", "</s>", "<unk>")])
    if xlmr:
        t.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False, special=True)])
        t.post_processor = template("<s> $A </s>", "<s> $A </s> </s> $B </s>", "<s>", "</s>")(t)
    else:
        t.post_processor = template("$A </s>", "$A </s> $B </s>", "</s>")(t)
    return t


def splits(texts, pattern, behavior, invert=False):
    """A vocabulary that shows where text is cut: whole pieces are its words."""
    return words(texts, pre_tokenizers.Split(pattern, behavior, invert))


def words(texts, pre, normalizer=None, limit=6000):
    t = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    t.pre_tokenizer = pre
    if normalizer:
        t.normalizer = normalizer
    t.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=limit, special_tokens=["[UNK]"], show_progress=False))
    return t


def affixes(texts, size):
    """Parts of words with a prefix, last ones with a suffix."""
    t = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="@", end_of_word_suffix="</w>"))
    t.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()])
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.decoder = decoders.BPEDecoder()
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=["<unk>"], show_progress=False,
                                                     continuing_subword_prefix="@", end_of_word_suffix="</w>"))
    return t


def added(texts, size):
    """Added tokens of every kind."""
    t = byte_level_bpe(texts, size, ["<s>"], pre_tokenizers.ByteLevel(add_prefix_space=True), normalizer=normalizers.Lowercase())
    t.add_tokens([AddedToken("day", single_word=True, normalized=True), AddedToken("[DAY]", normalized=False, rstrip=True),
                  AddedToken("<mask>", lstrip=True, rstrip=True), AddedToken("WORLD", normalized=True),
                  AddedToken("world wide", normalized=False), AddedToken("  ", normalized=False)])
    return t


def characters(texts, pre=None, normalizer=None, fuse=False):
    """Every character is a token, so that each step of a chain shows."""
    alphabet = sorted({c for t in texts for c in t} | set(map(chr, range(0x20, 0x7f))))
    t = Tokenizer(models.BPE({c: i for i, c in enumerate(["<unk>"] + alphabet)}, [], unk_token="<unk>", fuse_unk=fuse))
    if pre:
        t.pre_tokenizer = pre
    if normalizer:
        t.normalizer = normalizer
    return t


def small(texts):
    """Name and maker of all tokenizers that are trained; the small ones are goldens."""
    return {
        "llama3": lambda n: llama3(texts, n),
        "gpt4": lambda n: llama3(texts, n, GPT4),
        "o200k": lambda n: llama3(texts, n, O200K),
        "gpt2-small": lambda n: byte_level_bpe(texts, n, ["<|endoftext|>"], pre_tokenizers.ByteLevel(add_prefix_space=False)),
        "roberta": lambda n: roberta(texts, n),
        "bert-cased": lambda n: trained_bert(texts, n, False),
        "bert-uncased": lambda n: trained_bert(texts, n, True),
        "llama2": lambda n: llama2(texts, n),
        "mistral": lambda n: llama2(texts, n, legacy=False),
        "affixes": lambda n: affixes(texts, n),
        "added": lambda n: added(texts, n),
    }


def large(texts):
    """Those that only `compare` makes."""
    fields = dict(small(texts))
    fields.update({
        "t5": lambda n: unigram(texts, n),
        "xlm-roberta": lambda n: unigram(texts, n, xlmr=True),
        "unigram-bytes": lambda n: unigram(texts, n, byte_fallback=True),
        "whitespace": lambda n: words(texts, pre_tokenizers.Whitespace()),
        "whitespace-split": lambda n: words(texts, pre_tokenizers.WhitespaceSplit()),
        "punctuation": lambda n: words(texts, pre_tokenizers.Punctuation("merged_with_previous")),
        "digits": lambda n: words(texts, pre_tokenizers.Sequence([pre_tokenizers.Digits(True),
                                                                  pre_tokenizers.CharDelimiterSplit("a")])),
        "digits-runs": lambda n: words(texts, pre_tokenizers.Digits(False)),
        "metaspace-first": lambda n: words(texts, pre_tokenizers.Metaspace(prepend_scheme="first")),
        "metaspace-never": lambda n: words(texts, pre_tokenizers.Metaspace(prepend_scheme="never")),
        "nfc": lambda n: characters(texts, normalizer=normalizers.NFC()),
        "nfd": lambda n: characters(texts, normalizer=normalizers.NFD()),
        "nfkc": lambda n: characters(texts, normalizer=normalizers.NFKC()),
        "nfkd": lambda n: characters(texts, normalizer=normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()])),
        "nmt": lambda n: characters(texts, normalizer=normalizers.Sequence([normalizers.Nmt(), normalizers.Strip(),
                                                                            normalizers.Lowercase()])),
        "byte-normal": lambda n: characters(texts, normalizer=normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), "_"),
                                                                                    normalizers.ByteLevel()]), fuse=True),
        "boundary": lambda n: splits(texts, Regex(r"\b"), "isolated"),
        "word-class": lambda n: splits(texts, Regex(r"[\w']+"), "removed", True),
        "script": lambda n: splits(texts, Regex(r"\p{Han}+|\p{Greek}{1,2}+|[^\s]\h"), "contiguous"),
        "string": lambda n: splits(texts, " ", "merged_with_next"),
        "lines": lambda n: splits(texts, Regex(r"^.|.$"), "merged_with_previous"),
    })
    return fields


# ---- the library ----------------------------------------------------------------------------------------------------------

class Encoding(ctypes.Structure):
    _fields_ = [("count", ctypes.c_size_t)] + [(k, ctypes.POINTER(ctypes.c_int32)) for k in ("ids", "types", "words")]


class Library:
    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        self.libc = ctypes.CDLL(None)
        self.libc.free.argtypes = [ctypes.c_void_p]
        for name in ("orr_error", "orr_error_remedy"):
            getattr(self.c, name).restype = ctypes.c_char_p
        self.c.orr_tokenizer_open.restype = ctypes.c_void_p
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self.c.orr_tokenizer_encode.argtypes = [pointer, ctypes.c_char_p, size, pointer, pointer]
        self.c.orr_tokenizer_decode.argtypes = [pointer, pointer, size, pointer, pointer]
        self.c.orr_tokenizer_encode_input.argtypes = [pointer, ctypes.c_char_p, size, ctypes.c_char_p, size, pointer]
        self.c.orr_tokenizer_encode_words.argtypes = [pointer, pointer, size, pointer]

    def fail(self):
        raise SystemExit(self.c.orr_error().decode() + "\n" + self.c.orr_error_remedy().decode())

    def open(self, path):
        return self.c.orr_tokenizer_open(path.encode()) or self.fail()

    def encode(self, t, text):
        ids, count = ctypes.POINTER(ctypes.c_int32)(), ctypes.c_size_t()
        if self.c.orr_tokenizer_encode(t, text, len(text), ctypes.byref(ids), ctypes.byref(count)):
            self.fail()
        out = ids[:count.value]
        self.libc.free(ids)
        return out

    def decode(self, t, ids):
        array = (ctypes.c_int32 * max(1, len(ids)))(*ids)
        text, size = ctypes.c_void_p(), ctypes.c_size_t()
        if self.c.orr_tokenizer_decode(t, array, len(ids), ctypes.byref(text), ctypes.byref(size)):
            self.fail()
        out = ctypes.string_at(text, size.value)
        self.libc.free(text)
        return out

    def taken(self, e):
        out = [list(getattr(e, k)[:e.count]) for k in ("ids", "types", "words")]
        self.c.orr_encoding_free(ctypes.byref(e))
        return out

    def input(self, t, first, second=None):
        e = Encoding()
        if self.c.orr_tokenizer_encode_input(t, first, len(first), second, len(second or b""), ctypes.byref(e)):
            self.fail()
        return self.taken(e)

    def words(self, t, words):
        e, array = Encoding(), (ctypes.c_char_p * max(1, len(words)))(*words)
        if self.c.orr_tokenizer_encode_words(t, array, len(words), ctypes.byref(e)):
            self.fail()
        return self.taken(e)


def numbers(words):
    return [-1 if w is None else w for w in words]


class Tally:
    def __init__(self, name):
        self.name, self.compared, self.wrong = name, 0, 0

    def check(self, what, text, ours, theirs):
        self.compared += 1
        if ours == theirs:
            return
        self.wrong += 1
        if self.wrong <= 5:
            print(f"{self.name}: {what} of {text!r:.300}\n  ours   {ours!r:.300}\n  theirs {theirs!r:.300}")


def compare(library, name, path, tokenizer, texts, round_trips):
    t, tally = library.open(path), Tally(name)
    clean = [x.decode(errors="replace") for x in texts]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    for start in range(0, len(texts), 4096):
        part, raw = clean[start:start + 4096], texts[start:start + 4096]
        for text, bytes_, e in zip(part, raw, tokenizer.encode_batch(part, add_special_tokens=False)):
            ids = library.encode(t, bytes_)
            tally.check("ids", text, ids, e.ids)
            decoded = library.decode(t, e.ids)
            tally.check("decode", e.ids, decoded.decode(), tokenizer.decode(e.ids, skip_special_tokens=False))
            if round_trips:
                tally.check("round trip", text, decoded.decode(), text)
    rng = random.Random(3)
    for _ in range(2000):
        a, b = rng.randrange(len(texts)), rng.randrange(len(texts))
        one, two = fast(clean[a]), tokenizer.encode(clean[a], clean[b])
        ours = library.input(t, texts[a])
        tally.check("input", clean[a], ours[0], one["input_ids"])
        ours = library.input(t, texts[a], texts[b])
        tally.check("pair", clean[a], ours[:2], [two.ids, two.type_ids])
        given = [w for w in clean[a].replace("\0", "").split(" ")][:50]
        split = fast(given, is_split_into_words=True)
        ours = library.words(t, [w.encode() for w in given])
        tally.check("words", given, [ours[0], ours[2]], [split["input_ids"], numbers(split.word_ids())])
        ids = [rng.randrange(tokenizer.get_vocab_size()) for _ in range(rng.randrange(1, 12))]
        tally.check("decode", ids, library.decode(t, ids).decode(), tokenizer.decode(ids, skip_special_tokens=False))
    print(f"{name}: {tally.compared} comparisons, {tally.wrong} differences", flush=True)
    return tally.wrong


def from_vocabulary_files(data):
    with open(os.path.join(data, "gpt2-bpe/vocab.bpe"), encoding="utf-8") as f:
        merges = [tuple(line.split()) for line in f.read().split("\n")[1:] if line]
    with open(os.path.join(data, "gpt2-bpe/encoder.json"), encoding="utf-8") as f:
        gpt2 = Tokenizer(models.BPE(json.load(f), merges))
    gpt2.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    gpt2.decoder = decoders.ByteLevel()
    gpt2.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    vocab = models.WordPiece.read_file(os.path.join(data, "bert-vocab/vocab.txt"))
    return {"gpt2": (os.path.join(data, "gpt2-bpe"), gpt2), "bert": (os.path.join(data, "bert-vocab"), bert(vocab, True))}


def run_compare(path, data, names):
    library, rng = Library(path), random.Random(1)
    texts = generated(rng, 40000) + real(data)
    training = corpus(random.Random(2), 6000) + [t.decode(errors="replace") for t in real(data)[:4000]]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, (where, tokenizer) in from_vocabulary_files(data).items():
            if not names or name in names:
                wrong += compare(library, name, where, tokenizer, texts, name == "gpt2")
        for name, make in large(training).items():
            if names and name not in names:
                continue
            tokenizer = make(3000)
            file = os.path.join(folder, name + ".json")
            tokenizer.save(file)
            wrong += compare(library, name, file, tokenizer, texts, name in ("gpt2-small", "llama3", "gpt4", "o200k"))
    print(f"{len(texts)} texts; {wrong} differences in all")
    return wrong != 0


def run_train(command, data):
    wrong = 0
    for size, special in ((300, []), (2000, ["<|endoftext|>"]), (8000, ["<s>", "</s>"])):
        paths = [os.path.join(data, "shakespeare/input.txt"), os.path.join(data, "agnews/test.tsv")]
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "tokenizer.json")
            options = [x for s in special for x in ("--special", s)] + [x for p in paths for x in ("--data", p)]
            subprocess.run([command, "tokenize", "--train", file, "--vocab-size", str(size)] + options, check=True)
            ours = Tokenizer.from_file(file)
            theirs = Tokenizer(models.BPE())
            theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            theirs.train(paths, trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False,
                                                    initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
            a, b = json.loads(ours.to_str())["model"], json.loads(theirs.to_str())["model"]
            same = a["vocab"] == b["vocab"] and a["merges"] == b["merges"]
            print(f"train {size}: {len(a['merges'])} merges, {'the same' if same else 'NOT the same'}")
            wrong += not same
    return wrong != 0


# ---- goldens --------------------------------------------------------------------------------------------------------------------

def cases(tokenizer):
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    rng = random.Random(5)
    texts = ["", " ", "Hello world! It's 12345 o'clock.", "  two  blanks\n\nand lines\r\n", "naïve café 日本語 👩‍👩‍👧‍👦 \u00a0 x"]
    texts += [t.decode() for t in generated(rng, 300) if 0 < len(t) < 60 and b"\0" not in t and is_utf8(t)][-25:]
    rows = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        given = text.split(" ")
        pair = fast(text, "a pair", return_token_type_ids=True)
        split = fast(given, is_split_into_words=True)
        rows.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                     "input": fast(text)["input_ids"], "pair": pair["input_ids"], "types": pair["token_type_ids"],
                     "split": split["input_ids"], "words": numbers(split.word_ids())})
    return rows


def is_utf8(text):
    try:
        text.decode()
        return True
    except UnicodeDecodeError:
        return False


def run_golden(folder):
    texts = corpus(random.Random(4), 500)
    makers = small(texts)
    makers["t5"] = lambda n: unigram(texts, n, rules=RULES)
    makers["xlm-roberta"] = lambda n: unigram(texts, n, xlmr=True, rules=RULES)
    makers["metaspace"] = lambda n: words(texts, pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="first"),
                                                                          pre_tokenizers.Digits(True), pre_tokenizers.Punctuation()]),
                                          normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Strip()]), n)
    makers["split"] = lambda n: words(texts, pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\s+|\p{Greek}{1,2}+"), "contiguous"),
                                                                      pre_tokenizers.Split("e", "merged_with_previous"),
                                                                      pre_tokenizers.CharDelimiterSplit("n")]), None, n)
    os.makedirs(folder, exist_ok=True)
    for name, make in makers.items():
        tokenizer = make(400)
        with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as f:
            whole = {"tokenizer": json.loads(tokenizer.to_str()), "cases": cases(tokenizer)}
            json.dump(whole, f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")
    with open(os.path.join(folder, "trained.json"), "w", encoding="utf-8") as f:
        json.dump(trained(), f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def trained():
    """A text and what the package's trainer makes of it."""
    rng = random.Random(6)
    text = "".join(t.decode().replace("\0", "") + "\n" for t in generated(rng, 260) if is_utf8(t) and len(t) < 80)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", delete=False) as f:
        f.write(text)
    special = ["<|endoftext|>", "<pad>"]
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.train([f.name], trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False,
                                          initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    os.unlink(f.name)
    model = json.loads(t.to_str())["model"]
    return {"text": text, "vocab_size": 700, "special": special, "vocab": model["vocab"], "merges": model["merges"]}


def main():
    arguments = sys.argv[1:]
    if arguments[:1] == ["golden"] and len(arguments) == 2:
        return run_golden(arguments[1])
    if arguments[:1] == ["compare"] and len(arguments) >= 3:
        return run_compare(os.path.abspath(arguments[1]), arguments[2], arguments[3:])
    if arguments[:1] == ["train"] and len(arguments) == 3:
        return run_train(arguments[1], arguments[2])
    raise SystemExit(__doc__)


if __name__ == "__main__":
    sys.exit(main())
