"""Makes tokenizer.json's golden file: small tokenizers of each family, trained with the `tokenizers` library, and what
the library makes of adversarial strings. Run: tokenizer.py tests/golden/tokenizer_golden.json [tok512.model]

With llama2.c's tok512.model (MIT), SentencePiece's own ids for the stories vocabulary are made too.
"""
import json
import sys

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers import decoders, processors

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
]

CASES = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", "\t\n", " \n \t\r\n  ", "Hello world", " Hello world",
    "Hello World!", " Hello, world!  ", "this is \U0001f999.cpp", "w048 7tuijk dsdfhu", "нещо на Български",
    "កាន់តែពិសេសអាចខលចេញ", "\U0001f680 (normal) \U0001f636\u200d\U0001f32b\ufe0f (multiple emojis concatenated) ✅",
    "Hello\n Hello", " (", "\n =", "' era", "Hello, y'all! How are you \U0001f601 ?我想在apple工作1314151天～",
    "!!!!!!", "3", "33", "333", "3333", "33333", "3 33 333 3333", "I'M sure you'LL see it's they've I'd don't WE'RE'S",
    "it\u017fs 'ſ K\u212a 'K", "a\u0301e\u0300 \u00e1 \ufb01 \u1e9b\u0323 \u0344 \uac00\u11a8 \u1100\u1161 \u212b",
    "\u0627\u0644\u0633\u0644\u0627\u0645 \u0639\u0644\u064a\u0643\u0645 \u0661\u0662\u0663", "日本語のテキスト、カタカナ。漢字123",
    "\x00\x01\x1b[0m\x7f\x85\xa0x", "a\u180eb\u200bc\u2028d\u2029e\u3000f\u2003 g\ufeffh", "\u0903\u0945\u0300 combining first",
    "x" * 300, "ab" * 120 + " " * 80 + "c", "==========----------/////", "def f(x):\n    return x**2  # done\n\n\n\treturn",
    "½ ² Ⅳ ⅷ ٣ 五 1,234.56e-7", "AbCdEFghIJ ǅungla ÉCOLE straße İstanbul", "<|end|>", "a<|end|>b", " <|end|> <|end|>",
    "<|end|><|en<|end|>|>", "left <strip> right", "  <strip>  <strip>x", "a word <word> here", "inside<word>x x<word>",
    "<norm> CAF\u00c9 cafe\u0301<norm>", "▁already ▁▁ here", "<s>text</s>", "<0x41>", "\U00020000\U0010fffd\ue000",
]

TEXT = [
    "The quick brown fox jumps over the lazy dog. It's the dog's day, and they're sure that he'll see the world!",
    "Once upon a time there was a little girl who lived in the woods with her mother and her dog. She said hello.",
    "def function(x):\n    return x + 1\n\n\nprint(function(2024))\n", "Größe café naïve École нещо на Български 日本語の漢字",
    "Hello world, this is a text with numbers 123 4567 89 and some more 333 333 words words words.\n\n   indented",
] * 4


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def split(*patterns):
    parts = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    return pre_tokenizers.Sequence(parts + [byte_level(False)])


def bpe(pre, normalizer=None, ignore_merges=False, bos=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, special_tokens=["<|end|>", "<s>"], show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    j = json.loads(tokenizer.to_str())
    if bos:
        j["post_processor"] = json.loads(
            json.dumps({"type": "Sequence", "processors": [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
            {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
             "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
             "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}]}))
    size = len(j["model"]["vocab"])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    for i, (content, change) in enumerate([("<strip>", {"lstrip": True, "rstrip": True}), ("<word>", {"single_word": True}),
                                           ("<norm>", {"normalized": True}), ("café", {"normalized": True, "special": True})]):
        j["added_tokens"].append({"id": size + i, "content": content, **flags, **change})
    return j


def sentencepiece(kind):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    j = json.loads(tokenizer.to_str())
    j["added_tokens"] = [t for t in j["added_tokens"] if t["id"] < 3]
    if kind == "metaspace_first":
        j["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
        j["decoder"] = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    elif kind == "metaspace_legacy":
        j["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
        j["decoder"] = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    else:
        j["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
        j["pre_tokenizer"] = None
        j["decoder"] = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    return j


def components():
    """Rarer parts, each on its own: what a normaliser or pre-tokenizer alone makes of all cases."""
    def part(normalizer=None, pre=None):
        tokenizer = Tokenizer.from_str(json.dumps(bpe(byte_level(True))))
        if normalizer:
            tokenizer.normalizer = normalizer
        if pre:
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*pre, byte_level(False)])
        j = json.loads(tokenizer.to_str())
        return {"normalizer": j["normalizer"], "pre_tokenizer": j["pre_tokenizer"], "ids": [tokenizer.encode(c).ids for c in CASES[10:30]]}

    n, p = normalizers, pre_tokenizers
    found = [part(x) for x in (n.NFD(), n.NFKC(), n.NFKD(), n.Lowercase(), n.Strip(), n.Sequence([n.NFD(), n.StripAccents()]), n.Replace(Regex(r"\s+"), " "))]
    found += [part(pre=[p.Split(" ", b)]) for b in ("removed", "merged_with_previous", "merged_with_next", "contiguous")]
    found += [part(pre=[p.Split(Regex(r"\w+"), "isolated", invert=True)]), part(pre=[p.Whitespace()]), part(pre=[p.WhitespaceSplit()]),
              part(pre=[p.Punctuation()]), part(pre=[p.Digits(False)])]
    return found


def main():
    nfc = normalizers.NFC()
    made = {
        "gpt2": bpe(byte_level(True)), "llama3": bpe(split(LLAMA3), ignore_merges=True, bos=True), "qwen2": bpe(split(QWEN2), nfc),
        "smollm": bpe(pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level(True)])),
        "tekken": bpe(split(TEKKEN), ignore_merges=True), "deepseek": bpe(split(*DEEPSEEK), normalizers.Sequence([])),
    } | {kind: sentencepiece(kind) for kind in ("llama2", "metaspace_first", "metaspace_legacy")}
    out = {"cases": CASES, "tokenizers": {}, "components": components()}
    for name, j in made.items():
        tokenizer = Tokenizer.from_str(json.dumps(j))
        ids = [tokenizer.encode(c).ids for c in CASES]
        decoded = [tokenizer.decode(i, skip_special_tokens=True) for i in ids]
        # Byte sequences cut anywhere, so that they are no UTF-8.
        pieces = [i[1::2] for i in ids]
        cut = [tokenizer.decode(i, skip_special_tokens=False) for i in pieces]
        out["tokenizers"][name] = {"tokenizer": j, "ids": ids, "decoded": decoded, "decoded_odd": cut}
    if len(sys.argv) > 2:
        import sentencepiece as spm

        model = spm.SentencePieceProcessor(sys.argv[2])
        stories = [c for c in CASES if c == " ".join(c.split(" ")).strip() and "  " not in c and "<" not in c and not set(c) & set("\t\r\n\x85\xa0\u2028\u3000\u2003")]
        stories = [c for c in stories + [t.split("\n")[0] for t in TEXT[:5]] if c.isprintable() and "▁" not in c and model.encode(c)]
        out["stories"] = [[c, model.encode(c)] for c in stories]
    with open(sys.argv[1], "w") as f:
        json.dump(out, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


main()
