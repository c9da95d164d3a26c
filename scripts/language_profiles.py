"""Makes src/score/language_profiles.inc from the profiles of langdetect 1.0.9 (Apache-2.0; NOTICE): n-gram frequencies of
55 languages' Wikipedias.

    pip install langdetect==1.0.9 && python scripts/language_profiles.py

Left out are n-grams that langdetect's own normalisation makes unreachable (Hangul other than U+AC00, most ideographs).
Probabilities are rounded to an eighth of a power of two, within 4.5 %.
"""

import collections
import json
import math
import pathlib

import langdetect
from langdetect.utils.ngram import NGram

OUT = pathlib.Path(__file__).parents[1] / "src/score/language_profiles.inc"


def reachable(gram):
    if not 1 <= len(gram) <= 3 or any(NGram.normalize(c) != c for c in gram):
        return False
    if gram.strip() == "" or gram[1:-1] == " ":  # a gram starts anew after a space
        return False
    return not (len(gram) > 1 and gram[-1].isupper() and gram[-2].isupper())  # inside a word of capitals


lines, used = [], set()
for path in sorted((pathlib.Path(langdetect.__file__).parent / "profiles").iterdir()):
    profile = json.loads(path.read_text(encoding="utf-8"))
    lines.append(profile["name"])
    groups = collections.defaultdict(list)
    for gram, count in profile["freq"].items():
        if reachable(gram):
            groups[len(gram), round(-8 * math.log2(count / profile["n_words"][len(gram) - 1]))].append(gram)
            used.update(gram)
    for (n, level), grams in sorted(groups.items()):
        lines.append(f"{n} {level} " + "".join(sorted(grams)).replace(" ", "_"))
for members in NGram.CJK_CLASS:
    if members[0] in used:
        lines.append("= " + members)
OUT.write_text(
    "// Made by scripts/language_profiles.py from langdetect 1.0.9 (NOTICE): frequencies rounded, n-grams left out.\n"
    'R"~~(' + "\n".join(lines) + '\n)~~"\n', encoding="utf-8")
