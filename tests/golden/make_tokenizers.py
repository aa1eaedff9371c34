#!/usr/bin/env python3
"""Makes tokenizers.jsonl: small tokenizers of every form that core/data/tokenizer.h reads, with the ids and texts that
Hugging Face tokenizers gives for them. Needs: pip install tokenizers (made with 0.22.2). Usage: make_tokenizers.py"""
import json
import os
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "a", " a", "a ", "  a  b ", "Hello world", "Hello  world!",
    "I'll've DON'T don't we'd WE'D it's IT'S 'tis", "The 3 small dogs ran 12 km in 1999, 12345678 steps; 3.14159!",
    "x=1;y+=2;\n\tif (x < y) { return x*y; }\n\n\n  // done\n", "naïve café Zürich Ångström", "e\u0301 = é, ﬁ ligature, ① ② ½ Ⅷ",
    "中文字符测试，你好！", "日本語のテキスト。カタカナ", "한국어 텍스트 입니다", "Привет, мир! Как дела?", "שלום עולם", "مرحبا بالعالم",
    "🙂🙃 👩‍👩‍👧‍👦 🇩🇪", "a\u00a0b\u2003c\u3000d\u200be\u180ef", "tabs\tand\u0085next\u2028line", "____ -- *** ...!?", "http://example.com/a?b=c&d=e#f",
    "<s>", "<s>Hello</s>", "a <s> b", "</s></s>", " <mask> here", "dogs dog dogma dog", "underdog dog_ dog", "<extra> x <extra>y",
    "mixedCASEWords and ALLCAPS and snake_case and kebab-case", "१२३ ٣٤٥ 12½", "\u0000zero\u0000", "ends with space ", "\u2581already \u2581marked",
    "The quick brown fox jumps over the lazy dog. " * 3, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "ababababababababababab", "  leading\n  and\n    indented\n",
    "Ünïcödé ŞŘ ſs K", "'S'T 'ſ 'm 'M", "1,000,000.00 $ € £ ¥ + < = > ^ ` | ~", "don\u2019t \u201cquote\u201d \u2014 dash", "\ufeffbom", "\U0001d518\U0001d52b",
    "the the the then there these other others otherwise", "low lower lowest new newer newest wide wider widest",
]
CORPUS = [text for text in TEXTS if "\0" not in text] * 3 + ["the small dog ran to the other dog and they were happy in the new house near the water " * 4] * 5
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ALPHABET = pre_tokenizers.ByteLevel.alphabet()
pt = pre_tokenizers


def split(pattern, behavior="isolated", invert=False):
    return pt.Split(Regex(pattern), behavior, invert)


def trained(model, normalizer, pre_tokenizer, decoder, special=("<s>", "</s>"), size=340, alphabet=ALPHABET, added=(), **extra):
    tokenizer = Tokenizer(model)
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    if decoder:
        tokenizer.decoder = decoder
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False, **extra)
    tokenizer.train_from_iterator(CORPUS, trainer)
    if added:
        tokenizer.add_tokens(list(added))
    return tokenizer


def byte_level(pre_tokenizer, normalizer=None, added=(), **options):
    return trained(models.BPE(**options), normalizer, pre_tokenizer, decoders.ByteLevel(), added=added)


def with_bytes(normalizer, pre_tokenizer, decoder):
    """LLaMA-2's form: <unk> <s> </s>, 256 byte tokens, characters, merges."""
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    tokenizer = trained(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True), normalizer, pre_tokenizer, decoder, special, 480, [],
                        limit_alphabet=60, max_token_length=12)
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = data["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(data))


def llama2_decoder():
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def make():
    made = {}
    made["gpt2"] = byte_level(pt.ByteLevel(add_prefix_space=False))
    made["llama3"] = byte_level(pt.Sequence([split(LLAMA3), pt.ByteLevel(add_prefix_space=False, use_regex=False)]), ignore_merges=True)
    made["qwen2"] = byte_level(pt.Sequence([split(QWEN2), pt.ByteLevel(add_prefix_space=False, use_regex=False)]), normalizers.NFC())
    made["falcon"] = byte_level(pt.Sequence([pt.Punctuation("contiguous"), pt.ByteLevel(add_prefix_space=False), pt.Digits(False), split("[0-9][0-9][0-9]")]))
    made["starcoder"] = byte_level(pt.Sequence([pt.Digits(True), pt.ByteLevel(add_prefix_space=False)]))
    made["deepseek"] = byte_level(pt.Sequence([split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), pt.Digits(True),
                                               pt.ByteLevel(add_prefix_space=False, use_regex=False)]))
    made["prefixed"] = byte_level(pt.ByteLevel(add_prefix_space=True), normalizers.NFKC(), added=[
        AddedToken("<mask>", lstrip=True, normalized=False), AddedToken("dog", single_word=True), AddedToken("<extra>", rstrip=True, normalized=False),
        AddedToken("  ", normalized=True), AddedToken("é", normalized=True)])
    made["merged"] = byte_level(pt.Sequence([split(r"\s", "merged_with_previous"), split(r"[a-f]+", "merged_with_next"), split(r"\p{P}", "contiguous"),
                                             split(r"[0-9]", "removed"), pt.ByteLevel(add_prefix_space=False, use_regex=False)]), normalizers.NFD())
    made["whitespace"] = trained(models.BPE(unk_token="<unk>", fuse_unk=True), None, pt.Sequence([pt.WhitespaceSplit(), pt.Whitespace()]), None,
                                 ["<unk>", "<s>", "</s>"], 140, [], limit_alphabet=40)
    prepend = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made["llama2"] = with_bytes(prepend, None, llama2_decoder())
    made["metaspace-first"] = with_bytes(None, pt.Metaspace("▁", "first", split=False), llama2_decoder())
    made["metaspace-always"] = with_bytes(normalizers.Replace(Regex(" {2,}"), " "), pt.Metaspace("▁", "always", split=True), decoders.Metaspace("▁", "always", split=True))
    made["gemma"] = with_bytes(normalizers.Replace(" ", "▁"), split("▁", "merged_with_previous"), decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]))
    made["llama2"].post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    return made


def main():
    rng = random.Random(1)
    out = []
    for name, tokenizer in make().items():
        cases = []
        for text in TEXTS:
            row = {"text": text}
            for key, special in (("parsed", False), ("plain", True)):
                tokenizer.encode_special_tokens = special
                row[key] = tokenizer.encode(text, add_special_tokens=False).ids
            row["decoded"] = tokenizer.decode(row["parsed"], skip_special_tokens=False)
            cases.append(row)
        size = tokenizer.get_vocab_size()
        decoded = []
        for _ in range(40):
            ids = [rng.randrange(size) for _ in range(rng.randrange(1, 20))]
            decoded.append({"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=False), "skipped": tokenizer.decode(ids, skip_special_tokens=True)})
        out.append({"name": name, "tokenizer": json.loads(tokenizer.to_str()), "cases": cases, "decoded": decoded})
        print(name, size)
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizers.jsonl")
    with open(path, "w", encoding="utf-8") as file:
        for row in out:
            file.write(json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n")


main()
