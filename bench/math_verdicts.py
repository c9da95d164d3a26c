#!/usr/bin/env python3
"""Right and wrong verdicts of math_equal and of the math-verify package, on answers paired with forms of themselves.

    cmake --build build --target math_verdicts
    pip install math-verify==0.9.0 'latex2sympy2_extended[antlr4_13_2]'==1.11.0
    bench/math_verdicts.py build/math_verdicts --set MATH500 test.jsonl --set MATH-train math_train_answers.json \
        --sample 200 tests/golden/math_pairs.jsonl

A set is JSON lines or a JSON array of objects with the key "answer". Each distinct answer is rewritten in ways that keep
what it says (equivalent) and in ways that change it (inequivalent): the truth of a pair is how it was made. Formulas
are read by the small reader below, not by either judge, and rewritten by SymPy; its forms are kept only if numbers
confirm them at 40 digits. Both judges see the same pairs, reference first."""
import argparse
import collections
import json
import multiprocessing
import random
import re
import subprocess
import sys

import sympy as sp

# ---------------------------------------------------------------------------------------------- reading formulas


class Unread(Exception):
    pass


def tokens(text):
    text = re.sub(r"\\(left|right|,|;|!|:| |displaystyle)", " ", text)
    found = re.findall(r"\\[a-zA-Z]+|\d+\.\d+|\.\d+|\d+|[a-zA-Z]|[-+*/^(){}\[\]]|\S", text)
    return found + [None]


class Reader:
    """Integers, decimals, letters, + - * ^ fractions, roots and brackets: what most answers are made of."""

    def __init__(self, text):
        self.t = tokens(text)
        self.i = 0

    def take(self, what):
        if self.t[self.i] != what:
            raise Unread(what)
        self.i += 1

    def all(self):
        value = self.sum()
        if self.t[self.i] is not None:
            raise Unread(self.t[self.i])
        return value

    def sum(self):
        sign = 1
        if self.t[self.i] in ("-", "+"):
            sign = -1 if self.t[self.i] == "-" else 1
            self.i += 1
        value = sign * self.product()
        while self.t[self.i] in ("-", "+"):
            sign = -1 if self.t[self.i] == "-" else 1
            self.i += 1
            value = value + sign * self.product()
        return value

    def product(self):
        value = self.power()
        while True:
            t = self.t[self.i]
            if t in (r"\cdot", r"\times"):
                self.i += 1
            elif t == "/":
                self.i += 1
                value = value / self.power()
                continue
            elif t is None or not (t in ("(", r"\sqrt", r"\pi", r"\frac", r"\dfrac", r"\tfrac") or t.isalpha()):
                return value
            value = value * self.power()

    def power(self):
        value = self.atom()
        if self.t[self.i] == "^":
            self.i += 1
            value = value ** self.argument()
        return value

    def argument(self):
        if self.t[self.i] == "{":
            self.i += 1
            value = self.sum()
            self.take("}")
            return value
        t = self.t[self.i] or ""
        if t.isdigit() and len(t) > 1:  # \frac12
            self.t[self.i] = t[1:]
            return sp.Integer(t[0])
        return self.atom()

    def atom(self):
        t = self.t[self.i]
        self.i += 1
        if t is None:
            raise Unread("end")
        if t.isdigit():
            if self.t[self.i] in (r"\frac", r"\dfrac", r"\tfrac") and self.i == 1 + (self.t[0] == "-"):
                raise Unread("mixed number")
            return sp.Integer(t)
        if re.fullmatch(r"\d*\.\d+", t):
            return sp.Rational(t)
        if t == "i":
            return sp.I
        if t in ("e", "E"):
            raise Unread("e")
        if t.isalpha() and len(t) == 1:
            return sp.Symbol(t)
        if t == r"\pi":
            return sp.pi
        if t in (r"\frac", r"\dfrac", r"\tfrac"):
            above = self.argument()
            return above / self.argument()
        if t == r"\sqrt":
            degree = 2
            if self.t[self.i] == "[":
                self.i += 1
                degree = self.sum()
                self.take("]")
            return sp.root(self.argument(), degree)
        if t == "(":
            value = self.sum()
            self.take(")")
            return value
        raise Unread(t)


def read(text):
    try:
        return Reader(text).all()
    except (Unread, ZeroDivisionError, IndexError, TypeError):
        return None


def same_value(a, b):
    """Equal at four points, to 40 digits; None where there is no value."""
    names = sorted(a.free_symbols | b.free_symbols, key=str)
    for k in range(4):
        point = {n: sp.Rational(2 * j + 3 * k + 5, 7 + j) for j, n in enumerate(names)}
        difference = (a - b).subs(point)
        if not difference.is_finite:
            return None
        if abs(sp.N(difference, 40)) > sp.Float("1e-30") * (1 + abs(sp.N(a.subs(point), 40))):
            return False
    return True


# ---------------------------------------------------------------------------------------------- writing forms


def latex(e):
    return sp.latex(e)


def formula_forms(e, rng):
    """Other ways to write e, and formulas that are not e."""
    good, bad = [], []
    for other in (sp.expand(e), sp.factor(e), sp.together(e), sp.radsimp(e)):
        good.append(latex(other))
    terms = sp.Add.make_args(sp.expand(e))
    if 1 < len(terms) < 12:
        order = list(terms)
        rng.shuffle(order)
        good.append(" + ".join("\\left(" + latex(t) + "\\right)" if latex(t).startswith("-") else latex(t) for t in order))
        good.append(latex(terms[0]) + " + " + latex(sp.Add(*terms[1:])) if not latex(sp.Add(*terms[1:])).startswith("-") else latex(e))
        flipped = list(terms)
        at = rng.randrange(len(flipped))
        flipped[at] = -flipped[at]
        bad.append(latex(sp.Add(*flipped)))
    numerator, denominator = sp.fraction(sp.together(e))
    if denominator != 1:
        k = rng.choice([2, 3, 5])
        good.append(f"\\frac{{{latex(sp.expand(k * numerator))}}}{{{latex(sp.expand(k * denominator))}}}")
        good.append(f"\\dfrac{{{latex(numerator)}}}{{{latex(denominator)}}}")
        good.append(f"({latex(numerator)})/({latex(denominator)})")
        bad.append(latex(denominator / numerator))
        bad.append(latex(numerator / (denominator + 1)))
    if e.is_Rational and e.q > 1:
        good.append(f"{e.p}/{e.q}")
        rest = e.q
        for p in (2, 5):
            while rest % p == 0:
                rest //= p
        if rest == 1 and len(str(e.q)) < 6:
            good.append(decimal(e))
        if e.p > e.q:
            good.append(f"{e.p // e.q}\\frac{{{e.p % e.q}}}{{{e.q}}}")
    roots = [p for p in e.atoms(sp.Pow) if p.exp == sp.Rational(1, 2) and p.base.is_Integer]
    if len(roots) == 1 and e.is_Mul and e.is_positive:
        square = sp.expand(e**2)
        if square.is_Rational:
            good.append(f"\\sqrt{{{latex(square)}}}")
        good.append(f"\\frac{{{latex(e * roots[0])}}}{{{latex(roots[0])}}}")
        good.append(latex(e / roots[0]) + " \\cdot " + latex(roots[0]))
        bad.append(latex(e / roots[0] * sp.sqrt(roots[0].base + 1)))
    bad += [latex(e + 1), latex(-e), latex(2 * e), latex(e - sp.Rational(1, 2))]
    for name in sorted(e.free_symbols, key=str):
        good.append(latex(e.subs(name, sp.Symbol(str(name)))))
        bad.append(latex(e.subs(name, name + 1)))
        bad.append(latex(e.subs(name, sp.Symbol("w" if str(name) != "w" else "v"))))
        break
    if not e.free_symbols:
        good.append(f"x = {latex(e)}")
        bad.append(f"x = {latex(e + 1)}")
    # SymPy made them; numbers confirm.
    checked_good = [g for g in good if confirmed(g, e, True)]
    checked_bad = [b for b in bad if confirmed(b, e, False)]
    return checked_good, checked_bad


def decimal(q):
    sign, q = ("-" if q < 0 else ""), abs(q)
    digits = 0
    while (q * 10**digits).q != 1:
        digits += 1
    text = str((q * 10**digits).p).rjust(digits + 1, "0")
    return sign + text[:-digits] + "." + text[-digits:]


def confirmed(form, e, equal):
    body = form.split("= ")[-1]
    mixed = re.fullmatch(r"(\d+)\\frac\{(\d+)\}\{(\d+)\}", body)
    if mixed:
        a, b, c = map(int, mixed.groups())
        value = sp.Rational(a * c + b, c)
    else:
        value = read(body)
    return value is not None and same_value(value, e) is equal


UNITS = r"(?:\\text|\\mbox|\\textnormal)\s*\{([^}]*)\}(\^\{?\d\}?)?\.?$"


def number_forms(text, rng):
    """Of an integer or decimal as written with separators, dollar signs, percent, degrees."""
    good, bad = [], []
    plain = re.sub(r"\\!|\{,\}|,| ", lambda m: "", text)
    value = sp.Rational(plain)
    digits = plain.lstrip("-")
    sign = "-" if plain.startswith("-") else ""
    whole, point, fraction = digits.partition(".")
    if len(whole) > 3:
        for mark in (",", ",\\!", "{,}"):
            good.append(sign + re.sub(r"(?<=\d)(?=(\d{3})+$)", lambda m: mark, whole) + point + fraction)
    good += [plain, f"x = {plain}", f"{plain}.", f"\\left({plain}\\right)"]
    if point:
        good += [f"{plain}0", latex(value)]
    else:
        k = rng.choice([2, 3, 4])
        good += [f"{plain}.0", f"\\frac{{{value * k}}}{{{k}}}", f"{value - 7} + 7", f"\\sqrt[3]{{{value**3}}}" if value > 0 else plain]
        if value >= 0:
            good.append(f"\\sqrt{{{value**2}}}")
    bad += [latex(value + 1) if not point else decimal(value + sp.Rational(1, 10)), f"{plain}1" if not point else f"{plain}3"]
    if value != 0:
        bad += ["-" + plain if not sign else plain[1:], f"{plain}0" if not point else decimal(value * 10) if (value * 10).q != 1 else str(value * 10)]
        bad += [f"\\frac{{1}}{{{value}}}" if not point and value not in (1, -1) else latex(value + 2)]
    swapped = digits[:-2] + digits[-1:] + digits[-2:-1]
    if not point and len(digits) > 1 and swapped != digits:
        bad.append(sign + swapped)
    return good, bad


def split(text, separators=",;"):
    """At top level."""
    parts, depth, part = [], 0, ""
    for c in text:
        depth += c in "([{"
        depth -= c in ")]}"
        if depth == 0 and c in separators:
            parts.append(part)
            part = ""
        else:
            part += c
    return [p.strip() for p in parts + [part]]


BRACKETS = re.compile(r"^(\\left)?\s*(\(|\[)(.*?)(\\right)?\s*(\)|\])$", re.S)


def element_forms(text, rng):
    """Forms of one element of something, at least itself; and one that is not it."""
    if re.fullmatch(r"-?\\infty", text):
        return [text], "0"
    e = read(text)
    if e is None:
        return [text], None
    good, bad = ([f for f in forms if "=" not in f] for forms in formula_forms(e, rng))
    return good or [text], (bad[0] if bad else latex(e + 1))


def bracket_forms(text, rng):
    m = BRACKETS.match(text)
    if not m or r"\cup" in text:
        return None
    opening, inside, closing = m.group(2), m.group(3), m.group(5)
    parts = split(inside)
    if len(parts) < 2 or any(not p for p in parts):
        return None
    forms = [element_forms(p, rng) for p in parts]
    good = [f"{opening}{','.join(parts)}{closing}", f"\\left{opening} {', '.join(parts)} \\right{closing}",
            f"{opening}{', '.join(rng.choice(f[0]) for f in forms)}{closing}"]
    bad = []
    for at in rng.sample(range(len(parts)), min(2, len(parts))):
        if forms[at][1] is not None:
            bad.append(f"{opening}{', '.join(p if i != at else forms[at][1] for i, p in enumerate(parts))}{closing}")
    point = opening == "(" and closing == ")" and r"\infty" not in text
    other = {"(": "[", "[": "("}[opening]
    if len(parts) == 2 and not parts[0].startswith(r"-\infty"):
        bad.append(f"{other}{', '.join(parts)}{closing}")
    if not point and len(parts) == 2 and all(r"\infty" not in p for p in parts):
        sign = {"(": "<", "[": r"\le"}
        right = {")": "<", "]": r"\le"}
        good.append(f"{parts[0]} {sign[opening]} x {right[closing]} {parts[1]}")
    if len(parts) == 2 and r"\infty" in parts[1] and r"\infty" not in parts[0]:
        good.append(f"x {'>' if opening == '(' else chr(92) + 'ge'} {parts[0]}")
        bad.append(f"x {'<' if opening == '(' else chr(92) + 'le'} {parts[0]}")
    if len(parts) > 2 or point:
        if parts != parts[::-1] and r"\infty" not in text:
            swapped = parts[::-1]
            if not all(confirmed(a, read(b), True) if read(b) is not None else a == b for a, b in zip(parts, swapped)):
                bad.append(f"({', '.join(swapped)})")
    if point:
        good.append(f"(x,y) = {text}" if len(parts) == 2 else f"({','.join(parts)})")
    bad.append(f"{opening}{', '.join(parts + ['1'])}{closing}")
    return good, bad


def union_forms(text, rng):
    if r"\cup" not in text:
        return None
    pieces = re.split(r"\\cup", text)
    matches = [BRACKETS.match(p.strip()) for p in pieces]
    if not all(matches):
        return None
    pieces = [p.strip() for p in pieces]
    plain = [re.sub(r"\\left|\\right", "", p) for p in pieces]
    good = [r"\cup ".join(plain), r" \cup ".join(pieces[::-1]), r"x \in " + text]
    bad = [r" \cup ".join(pieces[1:]), r" \cup ".join(pieces[:-1]), r"\cap".join(pieces)]
    first = plain[0]
    last = plain[-1]
    flip = {")": "]", "]": ")"}
    if first[-1] in flip and r"\infty" not in first.split(",")[-1]:
        bad.append(r" \cup ".join([first[:-1] + flip[first[-1]]] + pieces[1:]))
    flip = {"(": "[", "[": "("}
    if r"\infty" not in last.split(",")[0]:
        bad.append(r" \cup ".join(pieces[:-1] + [flip[last[0]] + last[1:]]))
    # (-inf, a) u (a, inf) with its point is everything: not the same, but the first flip may also be undone.
    inequalities = []
    for p in plain:
        low, high = split(p[1:-1])
        left = {"(": "<", "[": r"\le"}[p[0]]
        right = {")": "<", "]": r"\le"}[p[-1]]
        if r"\infty" in low:
            inequalities.append(f"x {right} {high}")
        elif r"\infty" in high:
            inequalities.append(f"x {'>' if left == '<' else chr(92) + 'ge'} {low}")
        else:
            inequalities.append(f"{low} {left} x {right} {high}")
    good.append(r" \text{ or } ".join(inequalities))
    return good, bad


def list_forms(text, rng):
    body = re.sub(r"\\text\s*\{\s*,?\s*(and|or)\s*\}", ",", text)
    body = re.sub(r",\s*,", ",", body)
    braces = re.match(r"^\\\{(.*)\\\}$", body)
    if braces:
        body = braces.group(1)
    body = body.replace(r"\,", "")
    parts = [p for p in split(body) if p]
    if len(parts) < 2 or any(read(p) is None and not BRACKETS.match(p) for p in parts):
        return None
    shuffled = parts[:]
    rng.shuffle(shuffled)
    forms = [element_forms(p, rng) for p in parts]
    good = [", ".join(shuffled), r"\{" + ",".join(parts) + r"\}", ", ".join(parts[:-1]) + r" \text{ and } " + parts[-1],
            ", ".join(rng.choice(f[0]) for f in forms)]
    if all(read(p) is not None for p in parts):
        good.append(r" \text{ or } ".join(f"x = {p}" for p in parts))
    bad = [", ".join(parts[1:]), ", ".join(parts[:-1]), ", ".join(parts + ["17"])]
    values = [read(p) for p in parts]
    for at, p in enumerate(parts):
        other = forms[at][1]
        value = read(other) if other else None
        if value is not None and all(v is not None and not same_value(v, value) for v in values):
            bad.append(", ".join(q if i != at else other for i, q in enumerate(parts)))
            break
    if len(set(parts)) != len(parts):  # whether 1, 1, 2 is 1, 2 is a matter of taste
        good, bad = good[:1], bad[2:]
    return good, bad


def matrix_forms(text, rng):
    m = re.fullmatch(r"\s*\\begin\{pmatrix\}(.*?)\\end\{pmatrix\}\.?\s*", text, re.S)
    if not m or "phantom" in text:
        return None
    rows = [[c.strip() for c in r.split("&")] for r in m.group(1).split(r"\\") if r.strip()]

    def write(table, kind="pmatrix"):
        return f"\\begin{{{kind}}}" + r" \\ ".join(" & ".join(r) for r in table) + f"\\end{{{kind}}}"

    good = [write(rows, "bmatrix"), write(rows).replace(" ", "")]
    forms = [[rng.choice(element_forms(c, rng)[0]) for c in r] for r in rows]
    good.append(write(forms))
    good.append(r"\left(\begin{array}{" + "c" * len(rows[0]) + "}" + r"\\".join("&".join(r) for r in rows) + r"\end{array}\right)")
    bad = []
    for _ in range(2):
        i, j = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
        other = element_forms(rows[i][j], rng)[1]
        if other:
            bad.append(write([[other if (a, b) == (i, j) else c for b, c in enumerate(r)] for a, r in enumerate(rows)]))
    if len(rows) > 1 and rows[0] != rows[1]:
        bad.append(write([rows[1], rows[0]] + rows[2:]))
    if len(rows) > 1:
        bad.append(write(rows[:-1]))
    return good, bad


def equation_forms(text, rng):
    m = re.fullmatch(r"\s*([a-zA-Z])\s*=\s*([^=]+)", text)
    if m:
        name, body = m.groups()
        e = read(body)
        if e is None:
            return None
        good, bad = formula_forms(e, rng)
        forms = [f"{name} = {g}" for g in good if "=" not in g] + [g for g in good if "=" not in g][:2]
        forms.append(f"{latex(e)} = {name}")
        if e.free_symbols:
            forms.append(f"{latex(sp.expand(3 * (sp.Symbol(name) - e)))} = 0")
        return forms, [f"{name} = {b}" for b in bad if "=" not in b]
    m = re.fullmatch(r"\s*([^=]+)=\s*0\s*", text)
    if m:
        e = read(m.group(1))
        if e is None or not e.free_symbols:
            return None
        terms = sp.Add.make_args(sp.expand(e))
        good = [f"{latex(sp.expand(-2 * e))} = 0", f"0 = {latex(e)}", f"{latex(e - terms[0])} = {latex(-terms[0])}"]
        bad = [f"{latex(e + 1)} = 0", f"{latex(sp.expand(e - 2 * terms[0]))} = 0", f"{latex(e)} = 1"]
        return good, bad
    return None


WORDS = ["Monday", "Friday", "ellipse", "circle", "hyperbola", "odd", "even", "east", "north", "Evelyn", "blue", "neither"]


def text_forms(text, rng):
    m = re.fullmatch(r"\\(?:text|mbox)\s*\{([^}]*)\},?", text)
    if not m:
        return None
    word = m.group(1)
    choice = re.fullmatch(r"\(?([A-H])\)?", word)
    if choice:
        letter = choice.group(1)
        other = rng.choice([c for c in "ABCDE" if c != letter])
        return ([letter, f"({letter})", f"\\text{{({letter})}}", f"\\textbf{{({letter})}}", f"\\mathrm{{{letter}}}"],
                [other, f"({other})", f"\\text{{({other})}}"])
    if re.fullmatch(r"[A-Z](, ?[A-Z])+", word):
        letters = re.findall("[A-Z]", word)
        missing = [c for c in "ABCDEFGH" if c not in letters]
        return ([", ".join(letters), "\\text{" + ",".join(letters) + "}", ",".join(letters)],
                [", ".join(letters[1:]), ", ".join(letters[:-1] + missing[:1]), ", ".join(letters + missing[:1])])
    if not re.fullmatch(r"[A-Za-z]+( [A-Za-z]+)*", word):
        return None
    others = [w for w in WORDS if w.lower() != word.lower()]
    return ([word, word.lower(), f"\\text{{{word}}}", f"\\textbf{{{word}}}", f"\\mathrm{{{word}}}"],
            [rng.choice(others), f"\\text{{{rng.choice(others)}}}", f"\\text{{not {word}}}"])


def unit_forms(text, rng):
    """A quantity with a unit, percent, degrees or dollars: forms of the quantity, with and without."""
    for pattern, write in (
            (r"^(.*?)\s*\\%$", [r"%s\%%", r"%s", r"%s\text{ percent}"]),
            (r"^(.*?)\s*\^\{?\\circ\}?\.?$", [r"%s^\circ", r"%s^{\circ}", r"%s\text{ degrees}", r"%s"]),
            (r"^\\\$\s*(.*)$", [r"\$%s", r"%s", r"%s\text{ dollars}", r"\$ %s"]),
            (r"^(.*?)\s*" + UNITS, None)):
        m = re.match(pattern, text)
        if not m:
            continue
        quantity = m.group(1).strip()
        if write is None:
            unit = m.group(2).strip() + ((m.group(3) or "").replace("{", "").replace("}", ""))
            word = m.group(2).strip()
            if not word or word.split()[0] in ("and", "or", "p.m.", "a.m.") or "," in quantity and not re.fullmatch(r"[\d,\\!]+", quantity):
                return None
            tail = m.group(3) or ""
            write = [r"%s\text{ " + word + "}" + tail, r"%s\ \text{" + word + "}" + tail, "%s", r"%s\mbox{ " + word + "}" + tail]
        forms = quantity_forms(quantity, rng)
        if forms is None:
            return None
        good, bad = forms
        good = [g for g in good if "=" not in g and not g.endswith(".")]
        percents = [read(b) for b in bad if pattern.endswith("%$")]  # 10 percent is 1/10
        whole = read(quantity)
        bad = [b for b, p in zip(bad, percents or [None] * len(bad)) if "=" not in b and not (p is not None and whole == 100 * p)]
        return ([w % quantity for w in write] + [rng.choice(write) % g for g in good[:4]],
                [rng.choice(write) % b for b in bad])
    return None


def quantity_forms(text, rng):
    if re.fullmatch(r"-?\d{1,3}((,\\! ?|,|\{,\})\d{3})+(\.\d+)?|-?\d+(\.\d+)?|-?\.\d+", text):
        return number_forms(text, rng)
    e = read(text)
    if e is not None:
        return formula_forms(e, rng)
    m = re.fullmatch(r"(-?)(\d+)\s*\\frac\s*(?:\{(\d+)\}\{(\d+)\}|(\d)(\d))", text)
    if m:
        sign, whole = m.group(1), int(m.group(2))
        above, below = (int(x) for x in (m.group(3, 4) if m.group(3) else m.group(5, 6)))
        value = sp.Rational(whole * below + above, below) * (-1 if sign else 1)
        good, bad = formula_forms(value, rng)
        return good, bad + [latex(sp.Rational(whole * above, below) * (-1 if sign else 1))]
    return None


def based_forms(text, rng):
    m = re.fullmatch(r"(-?)([0-9]+)_\{?(\d+)\}?\.?", text)
    if not m:
        return None
    sign, digits, base = m.groups()
    last = str((int(digits[-1]) + 1) % int(base))
    good = [f"{sign}{digits}_{{{base}}}", f"{sign}{digits}_{base}" if len(base) == 1 else text, f"{sign}{digits}_{{\\text{{{base}}}}}"]
    return good[:2], [f"{sign}{digits[:-1]}{last}_{{{base}}}", f"{sign}1{digits}_{{{base}}}"]


def forms_of(text, rng):
    for maker in (matrix_forms, union_forms, text_forms, equation_forms, unit_forms, quantity_forms, bracket_forms,
                  based_forms, list_forms):
        found = maker(text.strip(), rng)
        if found is not None:
            return maker.__name__.removesuffix("_forms"), *found
    return "as it is", [], []


def pairs_of(answer, seed):
    rng = random.Random(f"{seed} {answer}")
    kind, good, bad = forms_of(answer, rng)
    spaced = re.sub(r"(?<![\\a-zA-Z])([-+=])(?![a-zA-Z]*\})", r" \1 ", answer)
    clothes = ["$" + answer + "$", r"\boxed{" + answer + "}", answer.replace(r"\frac{", r"\dfrac{"), "$" + answer + "$."]
    if kind == "quantity":
        clothes.append(spaced)
    good = list(dict.fromkeys(g for g in good if g != answer))
    bad = list(dict.fromkeys(b for b in bad if b != answer and b not in good))
    rng.shuffle(good)
    rng.shuffle(bad)
    clothed = [rng.choice(clothes)]
    return [(answer, g, True, kind) for g in good[:4] + clothed] + [(answer, b, False, kind) for b in bad[:4]]


# ---------------------------------------------------------------------------------------------- the judges


def peer_verdict(pair):
    from math_verify import parse, verify  # imported here: --no-peer does without

    def dressed(text):
        return text if text.startswith(("$", r"\boxed")) else "$" + text + "$"

    try:
        gold, answer = (parse(dressed(text), parsing_timeout=60) for text in pair[:2])
        return bool(verify(gold, answer, timeout_seconds=60))
    except Exception:  # a verdict all the same: not equal
        return False


def our_verdicts(program, pairs):
    lines = "".join(json.dumps({"reference": p[0], "answer": p[1]}) + "\n" for p in pairs)
    done = subprocess.run([program], input=lines, capture_output=True, text=True, check=True)
    return [line == "1" for line in done.stdout.split()]


def answers_of(path):
    text = open(path, encoding="utf-8").read()
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines() if line]
    return list(dict.fromkeys(r["answer"].strip() for r in rows if r.get("answer")))


def table(sets, judges):
    lines = ["| set | pairs | judge | TP | FN | FP | TN | right |", "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |"]
    for name, pairs in sets:
        for judge, verdicts in judges:
            count = collections.Counter((p[2], v) for p, v in zip(pairs, verdicts[name]))
            tp, fn, fp, tn = count[True, True], count[True, False], count[False, True], count[False, False]
            lines.append(f"| {name} | {len(pairs)} | {judge} | {tp} | {fn} | {fp} | {tn} | {100 * (tp + tn) / len(pairs):.2f} % |")
    return "\n".join(lines)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("program", help="the program math_verdicts")
    options.add_argument("--set", nargs=2, action="append", metavar=("NAME", "FILE"), required=True, dest="sets")
    options.add_argument("--seed", default="1")
    options.add_argument("--sample", help="write this many pairs as JSON lines", nargs=2, metavar=("COUNT", "FILE"))
    options.add_argument("--peer-verdicts", help="keep the peer's verdicts here, and use those that are there")
    options.add_argument("--disagreements", help="write pairs that somebody got wrong")
    options.add_argument("--no-peer", action="store_true")
    args = options.parse_args()

    sets = []
    for name, path in args.sets:
        with multiprocessing.Pool() as pool:
            made = pool.starmap(pairs_of, [(a, args.seed) for a in answers_of(path)], chunksize=16)
        sets.append((name, [p for ps in made for p in ps]))
    if args.sample:
        everything = [p for _, pairs in sets for p in pairs]
        by_kind = collections.defaultdict(list)
        for p in everything:
            by_kind[p[3], p[2]].append(p)
        rng = random.Random(args.seed)
        chosen = []
        while len(chosen) < int(args.sample[0]):
            for kind in sorted(by_kind):
                if by_kind[kind]:
                    chosen.append(by_kind[kind].pop(rng.randrange(len(by_kind[kind]))))
        with open(args.sample[1], "w", encoding="utf-8") as out:
            for reference, answer, equal, kind in chosen[:int(args.sample[0])]:
                out.write(json.dumps({"reference": reference, "answer": answer, "equal": equal, "kind": kind}) + "\n")

    ours = {name: our_verdicts(args.program, pairs) for name, pairs in sets}
    judges = [("qad", ours)]
    if not args.no_peer:
        known = {}
        if args.peer_verdicts:
            try:
                known = {(r[0], r[1]): r[2] for r in map(json.loads, open(args.peer_verdicts, encoding="utf-8"))}
            except FileNotFoundError:
                pass
        new = list(dict.fromkeys(p for _, pairs in sets for p in pairs if (p[0], p[1]) not in known))
        with multiprocessing.Pool(maxtasksperchild=2000) as pool:
            for p, v in zip(new, pool.imap(peer_verdict, new, chunksize=32)):
                known[p[0], p[1]] = v
        if args.peer_verdicts:
            with open(args.peer_verdicts, "w", encoding="utf-8") as out:
                out.writelines(json.dumps([*k, v]) + "\n" for k, v in known.items())
        judges.append(("math-verify", {name: [known[p[0], p[1]] for p in pairs] for name, pairs in sets}))
    print(table(sets, judges))
    kinds = collections.defaultdict(collections.Counter)
    for name, pairs in sets:
        for i, p in enumerate(pairs):
            kinds[p[3]]["pairs"] += 1
            for judge, verdicts in judges:
                kinds[p[3]][judge] += verdicts[name][i] == p[2]
    for kind, count in sorted(kinds.items()):
        print(f"  {kind:10} " + ", ".join(f"{k} {v}" for k, v in count.items()))
    if args.disagreements:
        with open(args.disagreements, "w", encoding="utf-8") as out:
            for name, pairs in sets:
                for i, p in enumerate(pairs):
                    wrong = [judge for judge, verdicts in judges if verdicts[name][i] != p[2]]
                    if wrong:
                        out.write(json.dumps({"set": name, "reference": p[0], "answer": p[1], "equal": p[2], "wrong": wrong}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
