"""How often the three checks of IFEval that need a model give langdetect's and NLTK's own answer. Prints the table of
docs/ifeval-checks.md.

    pip install langdetect==1.0.9 nltk==3.10.4 django==5.2
    pip install --no-deps --target PUNKT llama-index-core==0.14.25     # brings NLTK's punkt_tab
    cmake --build build --target bench_instructions
    NLTK_DATA=PUNKT/llama_index/core/_static/nltk_cache python tests/peers/instructions_agreement.py build/bench_instructions

Texts in 22 languages are translated messages of Django, put together at random; English ones are this repository's data.
"""

import collections
import json
import pathlib
import random
import re
import subprocess
import sys

import django
import langdetect
import nltk

ROOT = pathlib.Path(__file__).resolve().parents[2]
LENGTHS = [20, 50, 100, 200, 500, 1000, 2000]
SEEDS = 10
# IFEval's 22 languages and English, as Django names its folders.
LANGUAGES = "ar bg bn de en fa fi hi it kn ko mr ne pa pt ru sw ta te th ur vi".split()
GUJARATI = """અમદાવાદ ગુજરાત રાજ્યનું સૌથી મોટું શહેર છે. આ શહેર સાબરમતી નદીના કિનારે વસેલું છે. દર વર્ષે હજારો લોકો અહીં નોકરી અને ધંધા
માટે આવે છે. ગાંધીજીનો આશ્રમ પણ અહીં આવેલો છે. મારા ઘરમાં મારી માતા, મારા પિતા અને મારી નાની બહેન રહે છે. અમે રોજ સાંજે સાથે બેસીને
જમીએ છીએ. મારી બહેનને વાર્તાઓ વાંચવી ખૂબ ગમે છે. ગઈકાલે તેણે મને એક જૂના રાજાની વાર્તા સંભળાવી. એ રાજા પોતાની પ્રજાને બહુ પ્રેમ કરતો
હતો. ચોમાસામાં ખેતરો લીલાછમ થઈ જાય છે. ખેડૂતો વહેલી સવારે ઊઠીને કામ શરૂ કરે છે. વરસાદ સારો પડે તો પાક પણ સારો થાય છે. શાળામાં
શિક્ષક અમને ગણિત અને વિજ્ઞાન ભણાવે છે. પરીક્ષા પહેલાં બધા વિદ્યાર્થીઓ મહેનત કરે છે. રજાના દિવસે અમે મિત્રો સાથે મેદાનમાં રમીએ છીએ.
નવરાત્રિમાં લોકો રાત સુધી ગરબા રમે છે. દિવાળીના દિવસે ઘરને દીવાથી શણગારવામાં આવે છે. રેલગાડી આજે એક કલાક મોડી આવી. ડૉક્ટરે કહ્યું કે
રોજ ચાલવાથી તબિયત સારી રહે છે. નવું પુસ્તક લખવા માટે લેખકને બે વર્ષ લાગ્યાં."""


def messages(code):
    if code == "gu":
        return re.split(r"(?<=\.)\s+", GUJARATI)
    found = []
    for path in pathlib.Path(django.__file__).parent.rglob(f"locale/{code}/LC_MESSAGES/django.po"):
        for entry in path.read_text(encoding="utf-8").split("\n\n"):
            if "fuzzy" in entry or entry.startswith("#~"):
                continue
            # English has no translations: its messages stand under msgid.
            part = re.search(("msgid" if code == "en" else r"msgstr(?:\[0\])?") + r' ((?:"(?:[^"\\]|\\.)*"\s*)+)', entry)
            text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', part.group(1))) if part else ""
            text = re.sub(r"%\(\w+\)\w|%\w|\{\w*\}|<[^>]*>|\\.", " ", text).strip()
            if len(text) > 15 and "@" not in text and "Charset" not in text:
                found.append(text)
    return found


def texts_in(code, rng):
    parts = messages(code)
    for length in LENGTHS:
        for _ in range(2):
            text = ""
            while len(text) < length:
                text += rng.choice(parts) + " "
            yield text[:length].strip()


def english():
    chats = [json.loads(line) for name in ("validation", "test") for line in open(ROOT / f"data/chat/{name}.jsonl")]
    yield "chat answers", [m["content"] for c in chats for m in c["messages"] if m["role"] == "assistant"]
    yield "IFEval's prompts", [json.loads(line)["prompt"] for line in open(ROOT / "data/benchmarks/ifeval.jsonl")]
    yield "stories", (ROOT / "data/tinystories/test.txt").read_text().split("<|endoftext|>")


def ours(program, texts):
    done = subprocess.run([program], input="".join(json.dumps(t) + "\n" for t in texts), text=True, capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def theirs(text):
    """langdetect's answers by seed."""
    answers = []
    for langdetect.DetectorFactory.seed in range(SEEDS):
        try:
            answers.append(langdetect.detect(text))
        except langdetect.LangDetectException:
            answers.append("")
    return answers


def compare_languages(title, texts, labels, program):
    rows = collections.defaultdict(lambda: [0] * 6)
    for (text, truth, group), own in zip([(t, *label) for t, label in zip(texts, labels)], ours(program, texts)):
        seeds, own = theirs(text), own["language"]
        row = rows[group]
        row[0] += 1
        row[1] += own == seeds[0]
        row[2] += seeds[1] == seeds[0]
        row[3] += own == collections.Counter(seeds).most_common(1)[0][0]
        row[4] += own == truth
        row[5] += seeds[0] == truth
        if "-v" in sys.argv and own != seeds[0]:
            print(truth, own, seeds, repr(text[:80]))
    print(f"\n| {title} | texts | ours = seed 0 | seed 1 = seed 0 | ours = majority of {SEEDS} seeds | ours right | seed 0 right |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    if len(rows) > 1:
        rows["all"] = [sum(column) for column in zip(*rows.values())]
    for group, (n, *counts) in rows.items():
        print(f"| {group} | {n} | " + " | ".join(f"{100 * c / n:.1f} %" for c in counts) + " |")


def compare_sentences(program):
    print("\n| English text | texts | sentences: same count | same sentences | sentences, NLTK | ours | capital words: same count |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, texts in english():
        texts = [t for t in texts if t.strip()]
        counts = same = capitals = nltk_sentences = own_sentences = 0
        for text, own in zip(texts, ours(program, texts)):
            expected = [s.strip() for s in nltk.sent_tokenize(text)]
            counts += len(expected) == len(own["sentences"])
            same += expected == own["sentences"]
            nltk_sentences += len(expected)
            own_sentences += len(own["sentences"])
            upper = [w for w in nltk.word_tokenize(text) if w.isupper()]
            capitals += len(upper) == own["capitals"]
            if "-v" in sys.argv and expected != own["sentences"]:
                print("NLTK", [s for s in expected if s not in own["sentences"]])
                print("ours", [s for s in own["sentences"] if s not in expected])
            if "-v" in sys.argv and len(upper) != own["capitals"]:
                print("capitals", own["capitals"], upper)
        n = len(texts)
        print(f"| {name} | {n} | {100 * counts / n:.1f} % | {100 * same / n:.1f} % | {nltk_sentences} | {own_sentences} | {100 * capitals / n:.1f} % |")


def main():
    program, rng = sys.argv[1], random.Random(0)
    pairs = [(text, code) for code in [*LANGUAGES, "gu"] for text in texts_in(code, rng)]
    compare_languages("by length", [t for t, _ in pairs], [(c, f"to {min(n for n in LENGTHS if n >= len(t))} characters") for t, c in pairs], program)
    if "-v" in sys.argv:
        compare_languages("by language", [t for t, _ in pairs], [(c, c) for _, c in pairs], program)
    answers = [t for _, texts in english() for t in texts if len(t) > 20][::3]
    mixed = [t + " " + answers[i % len(answers)][:len(t) * (1 + i % 3)] for i, (t, _) in enumerate(pairs)]
    compare_languages("two languages", mixed, [(c, "English behind another") for _, c in pairs], program)
    for name, change in [("as it is", str), ("in lower case", str.lower), ("in capitals", str.upper)]:
        compare_languages(f"English {name}", [change(t) for t in answers], [("en", "English")] * len(answers), program)
    compare_sentences(program)


if __name__ == "__main__":
    main()
