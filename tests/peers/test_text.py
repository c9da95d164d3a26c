"""Ids against the tokenizers library, renderings against jinja2 as Transformers sets it up."""
import json

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from conftest import ROOT, qad

TEXTS = ["", " ", "Once upon a time", "  two  spaces\n\n\ttab ", "don't we'LL 12345 3.14", "naïve café — “quotes”",
         "日本語のテキスト と 한국어", "👩‍👩‍👧‍👦 🇩🇪", "a" * 500, "<s>[INST] hi [/INST]</s>", "\u0301combining", "x\u0000y"]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_the_library(tokenizer_files, tmp_path, text):
    path = tmp_path / "t.txt"
    path.write_bytes(text.encode())
    ours = json.loads(qad("tokenize", tokenizer_files, "--file", path))
    assert ours == Tokenizer.from_file(str(tokenizer_files / "tokenizer.json")).encode(text).ids


def test_ids_of_whole_files(tokenizer_files):
    library = Tokenizer.from_file(str(tokenizer_files / "tokenizer.json"))
    for path in (ROOT / "data/tinystories/validation.txt", ROOT / "data/chat/validation.jsonl"):
        ours = json.loads(qad("tokenize", tokenizer_files, "--file", path))
        assert ours == library.encode(path.read_text()).ids


CHATML = ("{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\n"
          "Be kind.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + "
          "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def test_chat_equals_apply_chat_template(tokenizer_files, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tokenizer_files / name).read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"chat_template": CHATML}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": " Wie geht's? 🙂\n"}, {"role": "assistant", "content": "Gut."}]
    (tmp_path / "m.json").write_text(json.dumps(messages))
    for flags, prompt in (([], False), (["--generation-prompt"], True)):
        expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        assert qad("tokenize", tmp_path, "--chat", tmp_path / "m.json", "--text", *flags) == expected
