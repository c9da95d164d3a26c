"""Makes tests/golden/instructions.json and instruction_models.json. The first: responses built to pass, to fail and to be borderline for IFEval's 25 instructions,
with the verdicts of a reference written from their description (docs/ifeval-checks.md) on Python's re, json and str. The
second: what langdetect and NLTK say of texts.

    pip install langdetect==1.0.9 nltk==3.10.4 lm_eval==0.4.13    # the last one may be left out
    pip install --no-deps --target PUNKT llama-index-core==0.14.25    # brings NLTK's punkt_tab
    NLTK_DATA=PUNKT/llama_index/core/_static/nltk_cache python tests/golden/instructions.py

Of texts whose language langdetect tells differently from draw to draw none is kept. With lm_eval installed the
reference is also held to its checks, which are those of IFEval's authors.
"""

import itertools
import json
import logging
import pathlib
import random
import re
import sys

import langdetect
import nltk

OUT = pathlib.Path(__file__).parent / "instructions.json"
rng = random.Random(20)


# --- the reference ---------------------------------------------------------------------------------------------------


class Undecided(Exception):
    """langdetect's answer depends on its random draws."""


def detected(text):
    answers = set()
    for seed in range(10):
        langdetect.DetectorFactory.seed = seed
        try:
            answers.add(langdetect.detect(text))
        except langdetect.LangDetectException:
            answers.add("")
    if len(answers) > 1:
        raise Undecided
    return answers.pop()


def in_language(text, language):
    return detected(text) in ("", language)


def relation(name, count, number):
    return {"less than": count < number, "at least": count >= number}[name]


def answers_at(divider, text, count):
    """The non-blank parts if they are so many; none if a blank one is neither first nor last."""
    parts = re.split(divider, text)
    full = [p.strip() for p in parts if p.strip()]
    return full if len(full) == count and all(p.strip() for p in parts[1:-1]) else None


def is_json(text):
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except ValueError:
        return False
    return True


def first_word_holds(text, num_paragraphs, nth_paragraph, first_word):
    parts = text.split("\n\n")
    full = [p for p in parts if p.strip()]
    if len(full) != num_paragraphs or nth_paragraph > len(full) or not parts[nth_paragraph - 1].strip():
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return "".join(c.lower() for c in re.split("[.,?!'\"]", word)[0]) == first_word.lower()


def highlights(text):
    once = [h[1:-1] for h in re.findall(r"\*[^\n\*]*\*", text)]
    twice = [h[2:-2] for h in re.findall(r"\*\*[^\n\*]*\*\*", text)]
    return sum(bool(h.strip()) for h in once + twice)


def postscript(text, postscript_marker):
    patterns = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
    return bool(re.search(patterns.get(postscript_marker, postscript_marker.lower()), text.lower(), re.M))


IGNORE = re.IGNORECASE
CHECKS = {
    "keywords:existence": lambda t, keywords: all(re.search(k, t, IGNORE) for k in keywords),
    "keywords:frequency": lambda t, keyword, relation, frequency: RELATION(
        relation, len(re.findall(keyword.strip(), t, IGNORE)), frequency),
    "keywords:forbidden_words": lambda t, forbidden_words: not any(
        re.search(rf"\b{w}\b", t, IGNORE) for w in forbidden_words),
    "keywords:letter_frequency": lambda t, letter, let_relation, let_frequency: RELATION(
        let_relation, t.lower().count(letter.lower()), let_frequency),
    "language:response_language": lambda t, language: in_language(t, language),
    "length_constraints:number_sentences": lambda t, relation, num_sentences: RELATION(
        relation, len(nltk.sent_tokenize(t)), num_sentences),
    "length_constraints:number_paragraphs": lambda t, num_paragraphs: answers_at(
        r"\s?\*\*\*\s?", t, num_paragraphs) is not None,
    "length_constraints:number_words": lambda t, relation, num_words: RELATION(
        relation, len(re.findall(r"\w+", t)), num_words),
    "length_constraints:nth_paragraph_first_word": first_word_holds,
    "detectable_content:number_placeholders": lambda t, num_placeholders: len(
        re.findall(r"\[.*?\]", t)) >= num_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": lambda t, num_bullets: len(
        re.findall(r"^\s*\*[^\*].*$", t, re.M)) + len(re.findall(r"^\s*-.*$", t, re.M)) == num_bullets,
    "detectable_format:constrained_response": lambda t: any(f"My answer is {a}." in t for a in ("yes", "no", "maybe")),
    "detectable_format:number_highlighted_sections": lambda t, num_highlights: highlights(t) >= num_highlights,
    "detectable_format:multiple_sections": lambda t, section_spliter, num_sections: len(
        re.split(rf"\s?{section_spliter.strip()}\s?\d+\s?", t)) - 1 >= num_sections,
    "detectable_format:json_format": is_json,
    "detectable_format:title": lambda t: any(
        m.lstrip("<").rstrip(">").strip() for m in re.findall(r"<<[^\n]+>>", t)),
    "combination:two_responses": lambda t: len(set(answers_at(r"\*{6}", t, 2) or [])) == 2,
    "combination:repeat_prompt": lambda t, prompt_to_repeat: t.strip().lower().startswith(
        prompt_to_repeat.strip().lower()),
    "startend:end_checker": lambda t, end_phrase: t.strip().strip('"').lower().endswith(end_phrase.strip().lower()),
    "startend:quotation": lambda t: len(t.strip()) > 1 and t.strip()[0] == t.strip()[-1] == '"',
    "change_case:capital_word_frequency": lambda t, capital_relation, capital_frequency: RELATION(
        capital_relation, sum(w.isupper() for w in nltk.word_tokenize(t)), capital_frequency),
    "change_case:english_capital": lambda t: t.isupper() and in_language(t, "en"),
    "change_case:english_lowercase": lambda t: t.islower() and in_language(t, "en"),
    "punctuation:no_comma": lambda t: "," not in t,
}
RELATION = relation  # arguments of that name hide it above


def verdicts(instruction, kwargs, response):
    def follows(text):
        return bool(text.strip()) and bool(CHECKS[instruction](text, **kwargs))

    lines = response.split("\n")
    variants = [response] + ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    variants += [v.replace("*", "") for v in variants]
    return follows(response), any(map(follows, variants))


def held_to_authors(cases):
    try:
        from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT
        from lm_eval.tasks.ifeval import utils
    except ImportError:
        return print("lm_eval is not installed: not held to it")
    logging.disable()
    compared = differ = 0
    for case in cases:
        # Its constructor takes another letter for one that is none, and no constructor keeps a zero. Its words are
        # those of NLTK, whose \w has combining marks since 3.10 and none as late as 3.9.
        if case["kwargs"].get("letter", "a").lower() not in "abcdefghijklmnopqrstuvwxyz" or 0 in case["kwargs"].values() or (
                case["id"].endswith("number_words") and re.search(r"[^\x00-\x7f]", case["response"])):
            continue
        example = utils.InputExample(0, [case["id"]], "", [case["kwargs"]])
        compared += 1
        langdetect.DetectorFactory.seed = 0
        theirs = (utils.test_instruction_following_strict(example, case["response"]).follow_all_instructions,
                  utils.test_instruction_following_loose(example, case["response"]).follow_all_instructions)
        if theirs != (case["strict"], case["loose"]):
            differ += 1
            print("differs from lm_eval:", theirs, case)
    print(compared, "of", len(cases), "cases held to lm_eval,", differ, "differ")
    assert len(INSTRUCTION_DICT) >= 25


# --- the responses ---------------------------------------------------------------------------------------------------

PROSE = "The quick brown fox jumps over the lazy dog. It was a bright cold day in April, and the clocks were striking."
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund, und am Abend gehen alle Tiere nach Hause."
HINDI = "यह एक छोटी कहानी है जिसमें एक लड़का अपने गाँव से शहर की ओर जाता है और बहुत कुछ सीखता है।"
RUSSIAN = "Это короткий рассказ о мальчике, который уехал из деревни в большой город и многому там научился."
SPACES = " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u2003\u2028\u3000"
BLANKS = ["", " ", "\n", "\n\n", "\r\n\t", "\u3000\x1d", "*", "***", "* *\n*", "\ufeff"]


def wrapped(text):
    """The response as a chat model might dress it."""
    return [text, "Sure! Here it is:\n" + text, text + "\nHope this helps.", f"Of course:\n{text}\nBye, then.",
            f"**{text}**", f"*{text}*", f'"{text}"', text.replace("\n", "\r\n"), f"  \n{text}\n\t ", text.upper(),
            "\n\n" + text, text + "\n\n\n", text.replace(" ", "\u00a0"), text.replace(" ", "  ", 3)]


WORDS = ["sun moon", "sunny days, SUN!", "the ſun\nthe K and k", "ISTANBUL İstanbul ıstanbul", "naïve café CAFÉ", "sun_sun sun-sun",
         "STRASSE straße", "C++ c++", "x1 y22 z333", "日本 日本語", "don't DONT don’t", "σίσυφος ΣΊΣΥΦΟΣ", "½ ² x² Ⅳ", "a\nb\r\nc", "e\u0301 é",
         "ﬁne fine", "aaa aaaa"]
KEYWORDS = ["sun", "Sun", "K", "i", "istanbul", "café", "sun.?", "s\\w+n", "\\bsun\\b", "c\\+\\+", "[sc]un", "x\\d", "\\d{2,}",
            "(sun|moon)", "moon$", "^sun", "a*", "日本", "\\S+", "strasse", "ß", "don.t", "σ", "[^\\W\\d]+", "aa", "(?:a)(?=a)", "n\\Z",
            "[[a]un", "x{,2}", "\\w", "\\s", "y\\d+ z", "(?i:SUN)", "(a)\\1", "\\x73un", "\\u0073un", "e\\u0301", " sun", "\\Asun", "\\Bn"]


def cases():
    for keyword, text in itertools.product(KEYWORDS, WORDS):
        yield "keywords:existence", {"keywords": [keyword, "\\w"][:rng.randint(1, 2)]}, text
        yield "keywords:frequency", {"keyword": keyword, "relation": rng.choice(["less than", "at least"]),
                                     "frequency": rng.randint(1, 4)}, text
        yield "keywords:forbidden_words", {"forbidden_words": ["zebra", keyword]}, text
    for letter, text in itertools.product("aeiks#!ıßσςİ", WORDS + [PROSE]):
        yield "keywords:letter_frequency", {"letter": letter, "let_relation": rng.choice(["less than", "at least"]),
                                            "let_frequency": rng.randint(1, 4)}, rng.choice(wrapped(text))
    for language, text in itertools.product(["en", "de", "hi", "ru"], [PROSE, GERMAN, HINDI, RUSSIAN, "12345 678", "?!"]):
        for response in wrapped(text)[:4]:
            yield "language:response_language", {"language": language}, response
    for text in [PROSE, PROSE + " " + GERMAN, "Hi there! How are you? I am Dr. Smith.", "One. Two. Three", "No end",
                 "\"Stop!\" he said. \"Why?\" she asked.", "Costs rose by 3.5 percent. They fell later.", "Wait... what? Yes!!! No?!"]:
        for response in wrapped(text):
            yield "length_constraints:number_sentences", {"relation": rng.choice(["less than", "at least"]),
                                                          "num_sentences": rng.randint(1, 6)}, response
    for text in ["A\n***\nB", "A *** B *** C", "***A***B***", "A***\n\n***B", "A****B", "A *** \n *** B", "*** ***", "A\n\n***\n\nB\n", "A",
                 "Intro\nA\n***\nB\nOutro", "A\u3000***\u2003B", "******A", "A\r\n***\r\nB"]:
        for n in range(4):
            yield "length_constraints:number_paragraphs", {"num_paragraphs": n}, rng.choice(wrapped(text))
    for text in WORDS + [PROSE, GERMAN, HINDI, RUSSIAN, "snake_case x-ray", "٣٤٥ ๓", "a\u0301b", "😀 ok", "a b"]:
        count = len(re.findall(r"\w+", text))
        for n in (count - 1, count, count + 1):
            yield "length_constraints:number_words", {"relation": rng.choice(["less than", "at least"]),
                                                      "num_words": max(n, 1)}, rng.choice(wrapped(text))
    for text in ["Elm trees\n\nSend it", "Elm\n\n\n\nSend", "'\"Elm\" is\n\n'Send'", "\"'Elm\n\nx", "ELM's\n\nSend, now", "Elm\n \nSend", "\n\nElm\n\nSend",
                 "Title\nElm\n\nSend", "Elm.\n\n\nSend!", "Elm\r\n\r\nSend", "*Elm*\n\nSend", "elm\u2003tree\n\nx", "Intro\n\nElm\n\nSend", "\n\n\n\nElm",
                 "ÉLM\n\nSend", "elm-tree\n\nsend"]:
        for nth, word in [(1, "elm"), (1, "Elm"), (2, "send"), (2, "elm"), (1, "élm"), (3, "send")]:
            yield "length_constraints:nth_paragraph_first_word", {"num_paragraphs": rng.randint(nth, 3), "nth_paragraph": nth,
                                                                  "first_word": word}, text
    for text in ["[a] [b]", "[]", "[a\nb] [c]", "[[a]]", "]a[", "[ [ [ ]", "[*a*] x [b", "[\r]", "[a]]b]", "[日本]\n[x]", "no", "[[\n]]"]:
        for n in range(1, 4):
            yield "detectable_content:number_placeholders", {"num_placeholders": n}, rng.choice(wrapped(text))
    for text in ["Bye\nP.S. more", "p.s.", "P. S. x", "P.S x", "P.P.S more", "p.p.s. x", "P. P. S", "P.P. S.", "PS", "*P.S.*", "p.\ns.", "P.\u3000S.",
                 "Ap.s.", "P.  S.", "Note: x", "NOTE"]:
        for marker in ["P.S.", "P.P.S", "Note:", "n.te", "p\\.s$"]:
            yield "detectable_content:postscript", {"postscript_marker": marker}, rng.choice(wrapped(text))
    for text in ["* a\n* b", "- a\n- b", "* a\n- b", "  * a", "*\n* b", "** a\n* b", "*a*", "***", "-", "--\n---", "* a\n\n\n* b\n", "x\n * a\n\t- b", "*",
                 "*\n\n\n- x", "- a\r\n- b", "\u3000- a", "1. a\n- b", "a - b", "\n\n  \n* a", "*\n\n*\n\n* c", "-\n\n-", "*\n*\n*", "* a *\n*b"]:
        for n in range(4):
            yield "detectable_format:number_bullet_lists", {"num_bullets": n}, rng.choice(wrapped(text))
    for text in ["My answer is yes.", "My answer is no.", "my answer is maybe.", "My answer is maybe", "My answer is *yes*.", "My answer\nis yes.",
                 "Well. My answer is no. Bye", "My answer is yes"]:
        for response in wrapped(text):
            yield "detectable_format:constrained_response", {}, response
    for text in ["*a* *b*", "**a** **b**", "***a***", "* *", "****", "*a\nb*", "**a\nb**", "*a**b*", "** **", "*a* b *c*", "**a*", "***a** b*", "*\xa0*",
                 "* a * b *", "*****", "** a **"]:
        for n in range(1, 5):
            yield "detectable_format:number_highlighted_sections", {"num_highlights": n}, rng.choice(wrapped(text))
    for text in ["SECTION 1 a SECTION 2 b", "Section 1\na\nSection 2\nb", "SECTION1SECTION2", "SECTION  1", "SECTION A", "SECTION ٣ x", "SECTION 12 3",
                 "Day 1: a. Day 2: b", "*SECTION* 1", "section 1", "SECTION\n1\nSECTION\n2", "PARAGRAPH 1"]:
        for splitter in ["SECTION", " Section ", "Day", "PARAGRAPH", "(?:SECTION|Day)", "S.+?N"]:
            yield "detectable_format:multiple_sections", {"section_spliter": splitter, "num_sections": rng.randint(1, 3)}, text
    for text in ['{"a": 1}', "[1, 2.5e3, -0]", "{}", "[]", '"x"', "1", "01", "-", "1.", ".5", "1e", "1e+5", "-1.5E-3", "true", "True", "null", "nul", "NaN",
                 "-Infinity", "Infinity", "-NaN", "[1,]", "[,1]", '{"a"}', '{"a":1,}', '{"a":1 "b":2}', '{"a":1,"a":2}', '"\\u12"', '"\\ud800"', '"\\x41"',
                 '"a\nb"', '"a\tb"', '"\\n\\/\\"\\\\"', '"', '"\\', "[[[[]]]]", "[[]", "[]]", '{"a":{"b":[{}]}}', "{'a': 1}", '{"é": "日本"}', "[1 2]",
                 '{"a": 1} x', "```json\n{}\n```", "```Json {}```", "```JSON\n[]```", "```\n1\n```", "``` json\n{}```", "```json```json {}", "```{}", "{}```",
                 "\ufeff{}", "\xa0{}", "[1,\xa02]", "[1,\r\n\t 2]", "{1: 2}", "1 2", "-01", "0.0", "0x1", "+1", '"\x7f"', '{"a": nan}', "[*1*]", "1e5.5", "\x0c[]",
                 '{"a" : [ ] , "b" : { } }', "```js\n{}\n```", "{}\n```json"]:
        for response in wrapped(text)[:5:2] + [text]:
            yield "detectable_format:json_format", {}, response
    for text in ["<<a>>", "<< >>", "<<>>", "<<<>>>", "<<a\nb>>", "<<a>", "<a>>", "<<a> >>", "<< >> <<b>>", "x <<a>> y", "<<<<>>>>", "<<*>>", "<< \n<<t>>", "<<>>>",
                 "<<\xa0>>", "<<日本>>", ">><<", "<<a>>>", "<<<a>>", "<<a\r>>"]:
        for response in rng.sample(wrapped(text), 4) + [text]:
            yield "detectable_format:title", {}, response
    for text in ["A******B", "A\n******\nB", "A******A", "A ****** A", "******A******B", "A******B******", "A************B", "A******B******C", "A*******B", "A",
                 "******", "A****** ******B", "Sure\nA******B\nBye", "A***B", "a******A", "******A******", "\u2003******A******B"]:
        for response in rng.sample(wrapped(text), 3) + [text]:
            yield "combination:two_responses", {}, response
    for prompt in ["Write a poem.", "  What is\nthis? ", "ÜBER Σ?", "İstanbul", "STRASSE"]:
        for text in [prompt, prompt + " Yes", "Sure! " + prompt, prompt.lower() + "x", prompt.strip().upper() + "\nOk", "Ok\n" + prompt, "*" + prompt + "*",
                     prompt[:-3], prompt.replace("\n", " "), prompt.strip().replace(" ", "  ")]:
            yield "combination:repeat_prompt", {"prompt_to_repeat": prompt}, text
    for phrase in ["Peace!", " That is all you need! ", "ΣΑΣ", "\"Quoted\"", "thanks."]:
        for text in [phrase, "Well, " + phrase, f'"Well, {phrase}"', phrase + ".", phrase.upper() + "\n", phrase.strip() + "\nBye", f"*{phrase.strip()}*",
                     phrase.strip() + ' "', phrase.strip() + '"" ', phrase.strip()[:-1], "Hi\n" + phrase.lower(), phrase.strip() + "\u3000"]:
            yield "startend:end_checker", {"end_phrase": phrase}, text
    for text in ['"a"', '"', '""', 'a"', '"a', ' "a"\n', '"a"\nBye', 'Ok:\n"a"', "“a”", '*"a"*', "'a'", '"a" b "c"', '"\n"', '\u3000"x"\x1f', '"a".']:
        for response in rng.sample(wrapped(text), 2) + [text]:
            yield "startend:quotation", {}, response
    for text in ["HELLO World", "I am A man", "DON'T STOP", "U.S.A. and NATO.", "CANNOT", "A,B C:D", "HELLO, WORLD! YES?", "\"QUOTED\" (IN) [BOX]", "A--B", "A-B C/D",
                 "IT'S. 'TIS", "X1 2Y 33", "ÉCOLE ΣΑΣ ⅣX", "THE DOGS' BONE", "GONNA GO, WANNA", "I'm I'M I'LL", "A…B A...B", "E.G. THIS", "WORD’S “X”", "ＡＢ", "A—B", "$5M & Q",
                 "no caps", "HELLO*WORLD*", "*HELLO*\nWORLD", "Dr. WHO", "ALL IN. CAPS NOW. OK", "IBM's PC.", "HE SAID \"NO.\"", "N'T", "ǅ Ǆ"]:
        count = sum(w.isupper() for w in nltk.word_tokenize(text))
        for n in (count, count + 1):
            yield "change_case:capital_word_frequency", {"capital_relation": rng.choice(["less than", "at least"]),
                                                         "capital_frequency": max(n, 1)}, text
        yield "change_case:capital_word_frequency", {"capital_relation": rng.choice(["less than", "at least"]),
                                                     "capital_frequency": rng.randint(1, 5)}, rng.choice(wrapped(text))
    long = PROSE + " Everyone went home after the long meeting about nothing in particular, and nobody was surprised."
    for text in [long, long.upper(), long.lower(), long.lower() + " X", long.upper() + " x", GERMAN.upper(), GERMAN.lower(), "123", "ª", "Ⅳ", "ǅ", RUSSIAN.upper()]:
        for response in wrapped(text):
            yield "change_case:english_capital", {}, response
            yield "change_case:english_lowercase", {}, response
    for text in ["no comma", "a, b", "a，b", "a、b", ",", "one\ntwo, three", "first, line\nrest", "a\nb\nc,"]:
        for response in wrapped(text)[:4]:
            yield "punctuation:no_comma", {}, response
    examples = {"keywords:existence": {"keywords": ["a"]}, "keywords:frequency": {"keyword": "a", "relation": "less than", "frequency": 3},
                "length_constraints:number_words": {"relation": "less than", "num_words": 5}, "punctuation:no_comma": {},
                "keywords:forbidden_words": {"forbidden_words": ["a"]}, "detectable_format:number_bullet_lists": {"num_bullets": 1},
                "length_constraints:number_paragraphs": {"num_paragraphs": 0}, "language:response_language": {"language": "ta"},
                "detectable_format:json_format": {}, "combination:two_responses": {}, "startend:end_checker": {"end_phrase": "*"}}
    for (instruction, kwargs), text in itertools.product(examples.items(), BLANKS):
        yield instruction, kwargs, text


# --- what the models say ---------------------------------------------------------------------------------------------

IN_LANGUAGES = [PROSE, GERMAN, HINDI, RUSSIAN, """
ذهب الولد إلى المدرسة في الصباح ثم عاد إلى البيت مع أصدقائه
Момчето отиде на училище сутринта и след това се върна у дома със своите приятели
ছেলেটি সকালে স্কুলে গেল এবং তারপর বন্ধুদের সঙ্গে বাড়ি ফিরে এল
پسر صبح به مدرسه رفت و سپس با دوستانش به خانه برگشت
Poika meni aamulla kouluun ja palasi sitten kotiin ystäviensä kanssa
છોકરો સવારે શાળાએ ગયો અને પછી તેના મિત્રો સાથે ઘરે પાછો આવ્યો
Il ragazzo andò a scuola la mattina e poi tornò a casa con i suoi amici
ಹುಡುಗ ಬೆಳಿಗ್ಗೆ ಶಾಲೆಗೆ ಹೋದನು ಮತ್ತು ನಂತರ ತನ್ನ ಸ್ನೇಹಿತರೊಂದಿಗೆ ಮನೆಗೆ ಮರಳಿದನು
소년은 아침에 학교에 갔다가 친구들과 함께 집으로 돌아왔다
मुलगा सकाळी शाळेत गेला आणि नंतर आपल्या मित्रांसोबत घरी परत आला
केटा बिहान विद्यालय गयो र त्यसपछि आफ्ना साथीहरूसँग घर फर्कियो
ਮੁੰਡਾ ਸਵੇਰੇ ਸਕੂਲ ਗਿਆ ਅਤੇ ਫਿਰ ਆਪਣੇ ਦੋਸਤਾਂ ਨਾਲ ਘਰ ਵਾਪਸ ਆਇਆ
O menino foi à escola de manhã e depois voltou para casa com os seus amigos
Mvulana alikwenda shule asubuhi kisha akarudi nyumbani pamoja na marafiki zake
சிறுவன் காலையில் பள்ளிக்குச் சென்றான் பிறகு தன் நண்பர்களுடன் வீடு திரும்பினான்
బాలుడు ఉదయం పాఠశాలకు వెళ్ళి తరువాత తన స్నేహితులతో ఇంటికి తిరిగి వచ్చాడు
เด็กชายไปโรงเรียนในตอนเช้าแล้วกลับบ้านกับเพื่อนของเขา
لڑکا صبح اسکول گیا اور پھر اپنے دوستوں کے ساتھ گھر واپس آیا
Cậu bé đi học vào buổi sáng rồi trở về nhà cùng với các bạn của mình
Câ\u0323u be\u0301 đi ho\u0323c va\u0300o buô\u0309i sa\u0301ng
少年は朝学校に行き、それから友達と一緒に家に帰った
男孩早上去上學，然後和朋友們一起回家
Băiatul a mers dimineaţa la școală și apoi s-a întors acasă cu prietenii săi
Le garçon est allé à l'école le matin, puis il est rentré à la maison avec ses amis
El niño fue a la escuela por la mañana y luego volvió a casa con sus amigos
THE BOY WENT TO SCHOOL IN THE MORNING AND THEN CAME BACK HOME WITH HIS FRIENDS
See https://example.org/der/die/das or write to die.und.der@example.org before the end of the week
12 345 +++ 6
""".strip().split("\n")]
SENTENCES = """
Dr. Smith and Mrs. Jones met at 5 p.m. in Washington, D.C. yesterday. They talked. Nobody came.
He lives in the U.S. and works for Acme Inc. on Fifth Ave. in New York. The office is large.
"Stop!" he said. "Why?" she asked. (He did not know.) Then he left.
Really?! Yes!!! No... well, maybe. I think so... But who knows? . . . Nobody.
J. R. R. Tolkien wrote it. See plan B. Then go on. George W. Bush was there.
Prices rose 3.5 percent in Jan. 1990. After that they fell to 7. by noon.
Visit www.example.com. Or write to a.b@example.com! It's version 2.0.1. ok
First line without end
Second line. third line in lower case. Ok
1. Buy milk. 2. Buy eggs. 3) Cook.
“Curly quotes.” ‘They too.’ she said. «Et voilà.» Done.
He said -- quietly -- nothing.--And left. End.

  Leading space.Missing space? Yes.  Two  spaces.
# Title

* item one.
* item two!

**Bold.** Not bold. _x_. [link]. {y}. `code.` End
Is it 5:30? It is: "yes." etc. and so on. e.g. this one. vs. that.
I can't. You're DON'T N'T I'LL cannot GONNA 'TIS dogs' A,B C:D 3,000 5:30 (X) [Y]--Z… "Q" `r` U.S.A. it's.
Well-known A-B x/y $5M & Q% #1 @me; a...b «n» — dash 'quoted' ''two'' he'd've
""".strip("\n")
WHOLE = ["", " \n ", ".", "...", "?!", "No end", "a.b", "Hi.)", "\"Hi.\"", "x.\u00a0Y z.", "One.\r\nTwo.\r\n", "日本。です. Yes."]


def write_models():
    languages = []
    for text in itertools.chain(*(t if isinstance(t, list) else [t] for t in IN_LANGUAGES)):
        try:
            languages.append({"text": text, "language": detected(text)})
        except Undecided:
            print("no one language:", text)
    sentences = []
    for text in WHOLE + SENTENCES.split("\n") + SENTENCES.split("\n\n"):
        found = nltk.sent_tokenize(text)
        words = [[{"``": '"', "''": '"'}.get(w, w) for w in nltk.tokenize.NLTKWordTokenizer().tokenize(s)] for s in found]
        sentences.append({"text": text, "sentences": [s.strip() for s in found], "words": words})
    lists = {"languages": languages, "sentences": sentences}
    (OUT.parent / "instruction_models.json").write_text("{" + ",\n".join(
        f'"{name}": [\n' + ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases) + "\n]" for name, cases in lists.items()) + "}\n")


def main():
    write_models()
    made, seen, tally = [], set(), {}
    for instruction, kwargs, response in cases():
        key = json.dumps([instruction, kwargs, response])
        if key in seen:
            continue
        seen.add(key)
        try:
            strict, loose = verdicts(instruction, kwargs, response)
        except Undecided:
            continue
        kind = (instruction, strict, loose)
        tally[kind] = tally.get(kind, 0) + 1
        if tally[kind] <= 40 or len(instruction) + tally[kind] < 62:
            made.append({"id": instruction, "kwargs": kwargs, "response": response, "strict": strict, "loose": loose})
    for instruction in CHECKS:
        print(instruction, *(tally.get((instruction, *v), 0) for v in [(True, True), (False, True), (False, False)]))
    held_to_authors(made)
    OUT.write_text("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in made) + "\n]\n", encoding="utf-8")
    print(len(made), "cases")


if __name__ == "__main__":
    sys.exit(main())
