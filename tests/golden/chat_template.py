"""Makes chat_template.json: what Transformers' own Jinja environment renders for the templates in chat_template/ over
many conversations, and for a table of snippets. An entry without "text" is one that raises there.

    python tests/golden/chat_template.py
"""

import json
import pathlib

from transformers.utils.chat_template_utils import _compile_jinja_template

HERE = pathlib.Path(__file__).parent
TOOLS = [
    {"type": "function", "function": {
        "name": "weather", "description": " The weather <now> in a city & more. ",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "Zürich, 東京"},
            "unit": {"type": "string", "enum": ["C", "F"], "default": None},
            "days": {"type": ["integer", "null"], "minimum": 1, "x-extra": {"a": 0.5, "b": [True]}}},
            "required": ["city"]}}},
    {"type": "function", "function": {"name": "add", "description": "It adds.", "parameters": {
        "type": "object", "properties": {}}, "strict": True}},
]


def call(*functions):
    return {"role": "assistant", "content": None, "tool_calls": [
        {"id": "abcdefgh%d" % i, "type": "function", "function": f} for i, f in enumerate(functions)]}


WEATHER = {"name": "weather", "arguments": {"city": "Zürich", "days": 2, "more": {"x": [1, 2.5, None, True]}}}
S = {"role": "system", "content": " Be kind. /no_think "}
U = {"role": "user", "content": "Hello  "}
A = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHi there! "}
U2 = {"role": "user", "content": "日本語 & <b>🙂</b>\n\"q\""}
CHATS = {
    "user": [U],
    "system": [S, U],
    "turns": [U, A, U2],
    "system turns": [S, U, A, U2, {"role": "assistant", "content": "Fin."}],
    "empty": [U, {"role": "assistant", "content": ""}, {"role": "user", "content": ""}],
    "null": [U, {"role": "assistant", "content": None}, U2],
    "call": [U, call(WEATHER), {"role": "tool", "content": "{\"t\": 21.5}"}, {"role": "assistant", "content": "21.5 °C"}],
    "calls": [S, U, call(WEATHER, {"name": "add", "arguments": {}}), {"role": "tool", "content": "1"},
              {"role": "tool", "content": "2"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
    "bad order": [U, U2],
    "reasoning": [U, {"role": "assistant", "content": "So.", "reasoning_content": "\nlong\n"}],
}
OPTIONS = [{}, {"add_generation_prompt": True}, {"add_generation_prompt": True, "tools": TOOLS, "enable_thinking": False}]
COVERED = [{"turns", "system turns", "call"}, set(CHATS), {"user", "calls", "system turns"}]  # by option
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

DATA = {"n": None, "t": True, "i": 7, "f": 2.5, "s": "Hällo Wörld", "l": [3, 1, 2], "e": [], "d": {"b": 1, "a": "x"},
        "m": [{"r": "u", "k": 2}, {"r": "A", "k": 1}, {"r": "u"}], "sp": "  a b\t\n"}

EXPRESSIONS = r"""
1 + 2 * 3 - 4 / 2
7 // 2 ~ '|' ~ -7 // 2 ~ '|' ~ -7 % 3 ~ '|' ~ 7 % -3
2 ** 10 ~ ' ' ~ 2 ** -1 ~ ' ' ~ -2 ** 2
7.5 // 2 ~ ' ' ~ -7.5 % 2
1e16 ~ ' ' ~ 1e15 ~ ' ' ~ 0.0001 ~ ' ' ~ 0.00001 ~ ' ' ~ 1.5e300 ~ ' ' ~ 0.1
0.1 + 0.2
1_000 + 1
t + 1
true and 0 or 'x'
not t
not n and t
1 < 2 < 3
1 < 3 < 2
1 == 1.0 == true
'a' in s
'H' in s and 'z' not in s
2 in l
'a' in d
1 not in d
n is none
n is not none
x is defined
x is undefined and i is defined
x
x ~ '|' ~ (x | length)
x == y
x or 'fallback'
d.missing is defined
d['a'] ~ d.a
d.items() | list
d.keys() | list
d.values() | list
d.get('a') ~ d.get('z') ~ d.get('z', 5)
d | items | list
d | length
d
l ~ e
[1, 'a', none, true, 2.0, "it's", 'q"', [], {}, ()]
(1,) ~ (1, 2) ~ ()
{'a': 1, 2: 'b', 'c': [none]}
"tab\tnl\\n" ~ 'x'
['a\n\t\\', "é\u200b\x01", "'", "'\""]
'a' 'b' "c"
'\x41\u00e9\101\q'
s[0] ~ s[-1] ~ s[1:4] ~ s[::-1] ~ s[-3:] ~ s[:-3] ~ s[10:2:-2]
s[100] is defined
l[0] ~ l[-1] ~ l[1:] ~ l[::-1] ~ l[5:] ~ l[-2:] ~ l[::2]
l[9] is defined
(1, 2, 3)[1:]
s | length
s | upper ~ s | lower ~ s | title ~ ('aBC dEF' | capitalize)
'foo-bar (baz) <qux>' | title
s.upper() ~ s.lower() ~ "it's héllo".title() ~ s.capitalize()
sp | trim ~ '|' ~ sp.strip() ~ '|' ~ sp.lstrip() ~ '|' ~ sp.rstrip() ~ '|'
'xxaxbxx'.strip('x') ~ ('xxaxx' | trim('x')) ~ 'abca'.lstrip('ab') ~ 'abc'.rstrip('')
' a b  c '.split()
'a,b,,c'.split(',')
'a,b,c'.split(',', 1) ~ 'a,b,c'.rsplit(',', 1)
' a b  c '.split(none, 1) ~ ' a b  c '.rsplit(none, 1)
''.split() ~ ''.split(',')
'a\nb\r\nc\n\nd'.splitlines() ~ 'a\n'.splitlines(true)
s.startswith('H') ~ s.endswith('x') ~ s.startswith(('x', 'Hä'))
s.find('W') ~ s.find('zz') ~ s.rfind('l') ~ s.count('l') ~ s.index('l')
s.replace('l', 'L') ~ s.replace('l', '', 1) ~ 'ab'.replace('', '-')
s | replace('l', 'L') ~ 'aaa' | replace('a', 'b', 2)
', '.join(['a', 'b']) ~ (l | join('-')) ~ (l | join)
m | join(',', attribute='r')
'a'.isdigit() ~ '12'.isdigit() ~ 'AB'.isupper() ~ ' '.isspace() ~ ''.isspace()
'prefix-x'.removeprefix('prefix-') ~ 'x.txt'.removesuffix('.txt')
'{} and {b} {0}'.format(1, b=2) if false else '{} and {b}'.format(1, b=2)
'%s is %d, %.2f %r%%' % ('x', 3, 2.5, 'y')
'%s' | format(5)
'%s' % 'one'
'ab' * 3 ~ [0] * 2 ~ 2 * 'x' ~ 'x' * -1
[1] + [2, 3]
(1, 2) + (3,)
d | tojson
m | tojson
[1, 2.0, none, true, 'é"\\\n\u0001', {'a': []}] | tojson
d | tojson(indent=2)
[[], {}, [1]] | tojson(indent=4)
'é😀\x7f' | tojson(ensure_ascii=true)
'é😀\x7f' | tojson
d | tojson(sort_keys=true)
d | tojson(separators=(',', ':'))
{1: 2, none: 3, true: 4, 1.5: 6} | tojson
(1, 2) | tojson
s | tojson | safe
('<a>' | safe) + '<b>'
'<b>' + ('<a>' | safe)
('<a>' | safe) ~ '<b>'
'<a href="x">\'&' | escape
'<' | e | e
x | default('d') ~ n | default('d') ~ n | default('d', true) ~ '' | d('z', boolean=true) ~ (x | d)
l | sort ~ (l | sort(reverse=true)) ~ (['b', 'A', 'c'] | sort) ~ (['b', 'A', 'c'] | sort(case_sensitive=true))
m | selectattr('k', 'defined') | sort(attribute='k') | map(attribute='k') | list
m | map(attribute='k', default=0) | list
m | map(attribute='k') | map('default', 'none') | join(' ')
['a', 'b'] | map('upper') | list
l | select('gt', 1) | list ~ (l | reject('odd') | list) ~ ([0, 1, ''] | select | list)
m | selectattr('r', 'equalto', 'u') | list | length
m | rejectattr('k') | list
m | selectattr('k') | map(attribute='r') | join
['a', 'b'] | reject('in', ['a']) | list
l | first ~ l | last ~ (e | first) ~ (s | first) ~ (s | last)
l | min ~ l | max ~ l | sum ~ (m[:2] | sum(attribute='k')) ~ ([1, 2] | sum(start=10))
(e | max) is defined
(m[:2] | max(attribute='k')).r
['a', 'A', 'b', 'a'] | unique | list
[1, 2, 1] | unique | list
l | reverse | list ~ (s | reverse)
d | dictsort ~ (d | dictsort(reverse=true)) ~ ({'x': 2, 'y': 1} | dictsort(by='value'))
'abc' | list
d | list
'3' | int + '4.7' | int + 'x' | int(5) + 2.9 | int
' -12 ' | int ~ ('1e3' | int) ~ (true | int)
'3.5' | float ~ ('x' | float) ~ ('x' | float(1)) ~ (2 | float)
-5 | abs ~ -2.5 | abs
(-5) | abs
2.5 | round ~ ' ' ~ 3.5 | round ~ ' ' ~ 2.675 | round(2) ~ ' ' ~ 2.1 | round(0, 'ceil') ~ ' ' ~ 2.78 | round(1, 'floor')
7 | round
'a\nb\n\nc' | indent(2)
'a\nb\n\nc' | indent(2, true, true)
'a\nb' | indent('> ', first=true)
i | string ~ n | string ~ f | string ~ t | string
d.items is defined
l.append is defined
d.update is defined
d.a.b is defined
m[0].r ~ m[0]['r'] ~ m[-1].k
m.0.r
'x' is string ~ (1 is string) ~ (d is mapping) ~ (l is mapping)
l is sequence ~ (s is sequence) ~ (i is sequence) ~ (d is sequence) ~ (x is sequence)
l is iterable ~ (s is iterable) ~ (i is iterable) ~ (n is iterable) ~ (x is iterable)
i is number ~ (t is number) ~ (f is float) ~ (i is integer) ~ (t is integer) ~ (t is boolean)
t is true ~ (1 is true) ~ (false is false) ~ (n is false)
3 is odd ~ (4 is even) ~ (9 is divisibleby 3) ~ (9 is divisibleby(2))
1 is eq 1 ~ (1 is ne 1) ~ (1 is lt 2) ~ (2 is ge(2)) ~ ('a' is equalto 'a')
'a' is in ['a'] ~ ('a' is in('abc'))
'A' is upper ~ ('a' is lower)
'ΟΔΟΣ ΑΣ. Σ ΣΑΣ-Σ İß'.lower() ~ ('ΑΣ\u0301'|lower) ~ 'Ⅳ ª'.isupper() ~ 'ⅳ ª'.islower() ~ ('ǅ' is upper) ~ ('1 Ⓐ' is upper)
n is none and t is not false
1 if t
1 if n
1 if n else 2 if t else 3
(1 if n) is defined
range(3) | list ~ (range(1, 4) | list) ~ (range(5, 0, -2) | list) ~ (range(3) | length)
range(3)[1]
dict(a=1, b='x') ~ dict({'z': 1}, y=2)
namespace(a=1).a
[1, 2] == [1, 2] ~ ({'a': 1} == {'a': 1.0}) ~ ((1, 2) == [1, 2]) ~ ('1' == 1)
'a' < 'b' ~ ([1, 2] < [1, 3]) ~ (1.5 >= 1)
none == none ~ (none != false)
raise_exception is defined
-i ~ -f ~ +i ~ - -i
i.x is defined
'ß'.lower() ~ 'É'.lower() ~ 'é'.upper()
'😀é'[0] ~ ('😀é' | length) ~ '😀é'.find('é')
true ~ True ~ none ~ None ~ false
l | join(', ') | upper
'a' ~ 1 ~ none ~ 2.0 ~ [1]
(l | map('string') | join) + 'x'
[1, 2, 3] | map('tojson') | join(';')
' x ' | trim | length
'a-b_c'.split('-')[1].split('_')[-1]
not 1 == 2
(1 + 1) ~ (2 + 2)
'1' ~ 2 * 3
loop is defined
'a' if 'x' in d.get('q', {}) else 'b'
'abc' | attr('upper') is defined
1, 2
[l, d][1].b
"a" is not in "b"
1.0 | int ~ 1e3 | int
'%05d' is string
""".strip().split("\n")

STATEMENTS = [
    "{% for x in l %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ ',' if not loop.last }}{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index0 }}{{ x }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{% else %}none{% endfor %}",
    "{% for x in e %}a{% else %}empty{% endfor %}|{% for x in u %}a{% else %}undef{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for c in 'aé😀' %}[{{ c }}]{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}",
    "{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
    "{% for x in 'aab' %}{{ loop.changed(x) }}{{ loop.cycle('o', 'e') }}{{ loop.depth }}{% endfor %}",
    "{% for x in l %}{% for y in e %}{% else %}{{ loop.index }}{% endfor %}{% endfor %}",
    "{% set a = 1 %}{% for x in l %}{% set a = x %}{{ a }}{% endfor %}{{ a }}",
    "{% set a = 1 %}{% for x in l %}{{ a }}{% set a = a + x %}{{ a }};{% endfor %}",
    "{% set a = 1 %}{% if t %}{% set a = 2 %}{% endif %}{{ a }}",
    "{% set ns = namespace(a=1) %}{% for x in l %}{% set ns.a = ns.a + x %}{% endfor %}{{ ns.a }}{{ ns.b is defined }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d) = [3, 4] %}{{ c }}{{ d }}",
    "{% set a %}x{{ i }}y{% endset %}{{ a | length }}{{ a }}",
    "{% set a | upper | trim %} abc {% endset %}[{{ a }}]",
    "{% macro f(a, b='B', c=none) %}{{ a }}-{{ b }}-{{ c }};{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4) }}{{ f() }}",
    "{% macro f(a, b=a ~ '!') %}{{ b }}{% endmacro %}{{ f('x') }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% macro f() %}({{ caller() }}){% endmacro %}{% call f() %}in{{ i }}{% endcall %}",
    "{% macro f(l) %}{% for x in l %}{{ caller(x) }}{% endfor %}{% endmacro %}{% call(v) f(l) %}<{{ v }}>{% endcall %}",
    "{% set a = 5 %}{% macro f() %}{{ a }}{{ i }}{% endmacro %}{% set a = 6 %}{{ f() }}",
    "{% macro f() %} x {% endmacro %}{{ f() | trim }}{{ f.name }}",
    "{% filter upper %}abc{{ s }}{% endfilter %}",
    "{% filter trim | upper %} abc {% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}",
    "{% raw %}{{ x }} {% if %}{% endraw %}!",
    "a {#- c -#} b {# d #} c{#+ e +#} d",
    "  {% if t %}\n  x\n  {% endif %}\ny",
    "a\n    {%- if t %}\n b\n    {%- endif %}\nc",
    "a  {% if t -%}   b   {%- endif %}  c",
    "a\n  {%+ if t %}b{% endif +%}\nc",
    "x  {{- ' y ' -}}  z",
    "\n\n{{ i }}\n\n",
    "{{ i }}\n",
    "{{ 1e999 }} {{ -1e999 }} {{ 1e-999 }}",
    "  {# c #}\n  x {# d #}\n y",
    "{% if t %}a{% elif n %}b{% else %}c{% endif %}{% if n %}a{% elif t %}b{% else %}c{% endif %}{% if n %}a{% else %}c{% endif %}",
    "{{ {'a': {'b': {}}} }}",
    "{{ '}}' }}{{ '{{' }}{{ \"%}\" }}",
    "{% set x = [] %}{% for i in range(3) %}{% set x = x + [i] %}{% endfor %}{{ x }}",
    "{% generation %}abc{% endgeneration %}x{% generation %}é{{ i }}{% endgeneration %}",
    "a\r\n{% if t %}\r\nb\r\n{% endif %}\r\nc\r\n",
    "{% for m in m %}{{ m.r }}{% endfor %}",
    "{% for x in l | sort %}{{ x }}{% endfor %}{% for x in l[1:] + [9] %}{{ x }}{% endfor %}",
    "{% for x in [1, 2], [3] %}{{ x }}{% endfor %}",
    "{%- set a = 1 -%}\n\n {{- a -}} \n",
    "{% for x in l %}\n{{ x }}\n{% endfor %}",
    "   {{ i }}   {% set q = 1 %}   \n  z",
    "{% raw %}  a  {%- endraw %}  b",
    "{% if l and not e and d %}ok{% endif %}",
    "{% set ns = namespace({'q': 3}, r=4) %}{{ ns.q }}{{ ns['r'] }}",
]

ERRORS = [
    "{{ x.y }}", "{{ x + 1 }}", "{{ x() }}", "{{ d.a.b.c }}", "{{ n.a.b }}", "{{ x < 1 }}", "{{ 'a' + 1 }}", "{{ 1 + 'a' }}",
    "{{ 1 / 0 }}", "{{ 1 % 0 }}", "{{ [] < 1 }}", "{{ i() }}", "{{ n | length }}", "{{ i | length }}", "{{ 1 in 2 }}",
    "{{ 1 in 'a' }}", "{% for x in 5 %}{% endfor %}", "{% for x in n %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}",
    "{% set a, b = [1, 2, 3] %}", "{{ raise_exception('no') }}", "{{ l.append(1) }}", "{{ d.update({}) }}", "{{ d.pop('a') }}",
    "{{ x | tojson }}", "{{ s | nofilter }}", "{{ s is notest }}", "{{", "{{ 1", "{% if t %}", "{% endif %}", "{% for x in l %}",
    "{{ 'a }}", "{{ 1 + }}", "{{ (1 }}", "{{ [1, 2 }}", "{{ {'a' 1} }}", "{% set 1 = 2 %}", "{% set x.y = 2 %}", "{% foo %}",
    "{{ 1 2 }}", "{% if %}{% endif %}", "{% for x l %}{% endfor %}", "{# a", "{{ s.nope() }}",
    "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{% endmacro %}{{ f(b=2) }}", "{{ range(0, 10, 0) | list }}",
    "{{ range(1000000) | list }}", "{{ 'a'.split('') }}", "{{ 'a'.index('b') }}", "{{ l | join(1, 2, 3) }}", "{{ l[::0] }}",
    "{% break %}", "{% for x in l %}{% generation %}{% break %}{% endgeneration %}{% endfor %}", "{{ '%d' % 'a' }}", "{{ '%s %s' % 'a' }}", "{{ {[]: 1} }}", 
    "{{ l | round }}", "{{ [1, 'a'] | sort }}", "{{ -s }}", "{{ true is true is true }}", "{% set true = 1 %}",
    "{{ namespace(__class__=1) }}", "{{ loop.index }}", "{{ 'a' is divisibleby 2 }}", "{% else %}", "{{ l | map('nope') | list }}",
    "{{ d | tojson(nope=1) }}", "{{ }}", "{% macro f(a=1, b) %}{% endmacro %}", "{{ a b }}", "{{ 'x' | int(base=) }}", "{{ $ }}",
]


def render(template, variables):
    """(text, generated ranges in characters) or None when it raises."""
    blocks, ranges = [], []
    try:
        compiled = _compile_jinja_template(template)
        with compiled.environment.activate_tracker(blocks, ranges):
            for block in compiled.generate(**variables):
                blocks.append(block)
    except Exception:
        return None
    return "".join(blocks), ranges


def entry(result):
    if result is None:
        return {}
    text, ranges = result
    out = {"text": text}
    if ranges:
        out["generated"] = [[len(text[:i].encode()) for i in r] for r in ranges]
    return out


def main():
    chats = []
    for path in sorted((HERE / "chat_template").glob("*.jinja")):
        template = path.read_text()
        for name, messages in CHATS.items():
            for number, options in enumerate(OPTIONS):
                if name not in COVERED[number]:
                    continue
                result = render(template, {"messages": messages, **TOKENS, **options})
                chats.append({"template": path.stem, "chat": name, "option": number, **entry(result)})
    snippets = []
    for template in ["{{ %s }}" % e for e in EXPRESSIONS] + STATEMENTS:
        result = render(template, DATA)
        assert result is not None, template
        snippets.append({"template": template, **entry(result)})
    for template in ERRORS:
        assert render(template, DATA) is None, template
        snippets.append({"template": template})
    golden = {"chats": CHATS, "options": OPTIONS, "tokens": TOKENS, "data": DATA, "renderings": chats, "snippets": snippets}
    lines = json.dumps(golden, ensure_ascii=False).replace('{"template"', '\n{"template"')
    (HERE / "chat_template.json").write_text(lines + "\n")
    print(len(chats), "renderings,", sum("text" in c for c in chats), "of them texts;", len(snippets), "snippets")


main()
