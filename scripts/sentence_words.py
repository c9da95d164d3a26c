"""Makes src/score/sentence_words.inc: English words that data/chat/train.jsonl and data/tinystories/train.txt write small
inside sentences (three times or more, and at most one time in fifty with a capital): where one has a capital, a sentence begins.

    python scripts/sentence_words.py
"""

import collections
import json
import pathlib
import re
import textwrap

ROOT = pathlib.Path(__file__).parents[1]

texts = [m["content"] for line in open(ROOT / "data/chat/train.jsonl") for m in json.loads(line)["messages"]]
texts += (ROOT / "data/tinystories/train.txt").read_text().split("<|endoftext|>")
small, capital = collections.Counter(), collections.Counter()
for text in texts:
    # Behind a small word and a space, so that no sentence begins here.
    for word in re.findall(r"(?<=[a-z] )[A-Za-z][a-z]+(?:'[a-z]+)?(?![\w'])", text):
        (small if word.islower() else capital)[word.lower()] += 1
words = sorted(w for w, n in small.items() if n >= 3 and 50 * capital[w] <= n)
lines = textwrap.wrap(" ".join(words), 120, break_on_hyphens=False)
(ROOT / "src/score/sentence_words.inc").write_text('// Made by scripts/sentence_words.py.\nR"(\n' + "\n".join(lines) + '\n)"\n')
