"""Small templates, one for each thing that chat templates use of Jinja2 and Python."""

import re

VARIABLES = {
    "s": "Hello, wörld! it's <b>&\"x\"",
    "padded": "  \t a b \n ",
    "lines": "one\ntwo\r\n\n  three\n",
    "empty": "",
    "n": 7,
    "big": 12345678901234567890,
    "f": 2.5,
    "tiny": 1e-7,
    "huge": 1e30,
    "whole": 3.0,
    "yes": True,
    "no": False,
    "nothing": None,
    "l": [3, 1, 2, 1],
    "words": ["pear", "Apple", "fig", "apple"],
    "mixed": [1, "a", None, True, 2.5, [1, {"k": "v"}], {"x": None}],
    "d": {"b": 2, "a": 1, "C": 3, "items": "I", "n": {"m": [1, 2]}},
    "people": [
        {"name": "Ann", "age": 31, "tags": ["x"]},
        {"name": "bob", "age": 9, "tags": []},
        {"name": "Cid", "age": 31},
    ],
}

# What a value looks like in text.
VALUES = """
{{ yes }} {{ no }} {{ nothing }} {{ true }} {{ False }} {{ None }} {{ none }}
{{ n }} {{ f }} {{ tiny }} {{ huge }} {{ whole }} {{ big }} {{ -n }} {{ -f }}
{{ mixed }}
{{ d }}
{{ [s, padded, lines] }}
{{ ['a', "b'c", 'd"e', "f'\\"g", 'back\\\\slash', 'tab\\t', '\\x01é☂\\u200b'] }}
{{ () }} {{ (1,) }} {{ (1, 'a', none) }}
{{ {} }} {{ [] }} {{ {'a': 1, 2: 'b', none: true} }}
{{ yes ~ no ~ nothing ~ n ~ f }}
{{ 'x' ~ mixed }}
{{ 'x' ~ tiny ~ huge ~ whole }}
{{ missing }}|{{ d.missing }}|{{ d['missing'] }}|{{ l[10] }}
{{ missing.attribute }}
{{ missing ~ 'x' }}
{{ missing + 'x' }}
{{ mixed | string }} {{ yes | string }} {{ nothing | string }} {{ tiny | string }}
{{ [tiny, huge, whole] }} {{ 1e-7 }} {{ 1.5e300 }} {{ 0.1 + 0.2 }} {{ 1e16 }} {{ 123456789.0 * 10 }}
{{ [true, false, none] | join(', ') }} {{ mixed | join('|') }} {{ [tiny, huge] | join(',') }}
{{ 'abc' 'def' }} {{ 'abc' "d'ef" 'g' | upper }}
{{ "a\\nb" }} {{ 'it\\'s' }} {{ '\\\\n' }}
{{ 1_000 }} {{ 0x1f }} {{ 0b101 }} {{ 0o17 }}
"""

NUMBERS = """
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 2 ** 10 }} {{ 7.5 // 2 }} {{ 2 ** -1 }}
{{ 1 + 2 * 3 - 4 }} {{ (1 + 2) * 3 }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }}
{{ 1 + yes }} {{ yes + yes }} {{ 3 * 'ab' }} {{ 'ab' * 3 }} {{ [1] * 3 }} {{ 'ab' * 0 }} {{ 'ab' * -1 }}
{{ [1] + [2, 3] }} {{ 'a' + 'b' }} {{ 1 + 'a' }}
{{ 'a' + 1 }}
{{ 'a' + none }}
{{ nothing + 1 }}
{{ 7 / 0 }}
{{ 7 % 0 }}
{{ '12' | int }} {{ 'x' | int }} {{ 'x' | int(5) }} {{ 3.9 | int }} {{ '3.9' | int }} {{ 'ff' | int(0, 16) }} {{ '0x1f' | int(base=16) }} {{ yes | int }} {{ none | int }}
{{ '1.5' | float }} {{ 'x' | float }} {{ 3 | float }} {{ 'x' | float(2.0) }}
{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.567 | round(2) }} {{ 42 | round }} {{ 2.1 | round(method='ceil') }} {{ 2.9 | round(0, 'floor') }} {{ 2.567 | round(1, 'ceil') }}
{{ -5 | abs }} {{ (-5) | abs }} {{ (-5.5) | abs }}
{{ [1, 2, 3] | sum }} {{ [] | sum }} {{ people | sum(attribute='age') }} {{ [1, 2] | sum(start=10) }}
{{ l | min }} {{ l | max }} {{ words | min }} {{ words | max(case_sensitive=true) }} {{ people | max(attribute='age') }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ 1 == true }} {{ '1' == 1 }} {{ none == false }}
{{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ [1, 2] == [1, 2] }} {{ (1, 2) == (1, 2) }} {{ (1, 2) == [1, 2] }} {{ {'a': 1} == {'a': 1} }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ missing == 1 }} {{ missing == missing }} {{ missing != 1 }} {{ missing == none }}
{{ missing < 1 }}
{{ '%d items, %s, %5.2f|%-5s|%05d|%x|%%' | format(3, 'a', 2.5, 'b', 42, 255) }}
{{ '%s-%d' % ('a', 3) }} {{ '%s' % 'x' }} {{ '%(a)s' % {'a': 1} }} {{ '%s and %s' % (mixed, none) }}
{{ '%r' % 'x' }}
{{ '%s %s' | format(none, true) }} {{ '%s' | format(mixed) }} {{ '%r' | format('x') }} {{ '%s' | format(tiny) }}
{{ '{} {}'.format('a', 3) }} {{ '{0}{1}{0}'.format(1, 2) }} {{ '{a}-{b}'.format(a=1, b='x') }} {{ '{:>5}|{:<5}|{:^5}|{:05d}|{:.2f}'.format('a', 'b', 'c', 42, 2.567) }} {{ '{{}}'.format() }} {{ '{:,}'.format(1234567) }} {{ '{}'.format(none) }} {{ '{}'.format(mixed) }} {{ '{}'.format(tiny) }} {{ '{!r}'.format('x') }}
{{ range(5) | list }} {{ range(2, 8, 3) | list }} {{ range(5, 0, -2) | list }} {{ range(0) | list }} {{ range(3) | length }} {{ range(3)[1] }}
{{ 3 in range(5) }} {{ range(100001) | length }}
{{ (3).bit_length() }} {{ f.is_integer() }} {{ whole.is_integer() }}
"""

TEXTS = """
{{ s | upper }} {{ s | lower }} {{ s | title }} {{ s | capitalize }} {{ s | length }} {{ s | count }}
{{ s.upper() }} {{ s.lower() }} {{ s.title() }} {{ s.capitalize() }} {{ s.swapcase() }} {{ 'STRASSE ß'.casefold() }}
[{{ padded | trim }}] [{{ padded.strip() }}] [{{ padded.lstrip() }}] [{{ padded.rstrip() }}] [{{ 'xxaxx' | trim('x') }}]
{{ 'xxhixx'.strip('x') }} {{ 'abcab'.strip('ab') }} {{ 'abcab'.lstrip('ba') }} {{ 'abcab'.rstrip('ba') }} {{ 'a'.strip(none) }}
{{ s.startswith('He') }} {{ s.startswith(('x', 'He')) }} {{ s.endswith('"') }} {{ s.endswith('"x"') }} {{ s.startswith('llo', 2) }} {{ s.endswith('Hell', 0, 4) }} {{ ''.startswith('') }}
{{ s.find('o') }} {{ s.find('zz') }} {{ s.rfind('l') }} {{ s.find('o', 5) }} {{ s.find('o', 5, 7) }} {{ s.index('o') }} {{ s.rindex('o') }} {{ 'wörld'.find('l') }}
{{ s.index('zz') }}
{{ s.count('l') }} {{ 'aaaa'.count('aa') }} {{ 'abc'.count('') }} {{ 'aaa'.count('a', 1) }}
{{ s.replace('l', 'L') }} {{ s.replace('l', 'L', 1) }} {{ 'aaa' | replace('a', 'b') }} {{ 'aaa' | replace('a', 'b', 2) }} {{ 'abc'.replace('', '-') }} {{ 'abc'.replace('b', '') }}
{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a b c'.split(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a  b'.split(' ') }} {{ 'a,b'.split(sep=',') }} {{ 'a,b,c'.split(',', maxsplit=1) }}
{{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b  c '.rsplit(none, 1) }} {{ 'abc'.rsplit(',') }}
{{ 'abc'.split('') }}
{{ lines.splitlines() }} {{ lines.splitlines(true) }} {{ 'a\\rb\\x0bc\\u2028d'.splitlines() }} {{ ''.splitlines() }}
{{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('=') }} {{ 'abc'.rpartition('=') }}
{{ ', '.join(words) }} {{ ''.join(['a', 'b']) }} {{ '-'.join('abc') }} {{ ','.join({'a': 1, 'b': 2}) }}
{{ ','.join([1, 2]) }}
{{ words | join }} {{ words | join(', ') }} {{ people | join(', ', attribute='name') }} {{ [1, 2] | join('-') }} {{ 'abc' | join('-') }}
{{ 'a'.center(5) }}| {{ 'a'.ljust(3) }}| {{ 'a'.rjust(3) }}| {{ 'a'.rjust(4, '*') }} {{ '7'.zfill(3) }} {{ '-7'.zfill(4) }} {{ 'ab' | center(7) }}|
{{ 'abc'.isalpha() }} {{ 'ab1'.isalnum() }} {{ '12'.isdigit() }} {{ '12'.isnumeric() }} {{ '12'.isdecimal() }} {{ ' '.isspace() }} {{ 'AB'.isupper() }} {{ 'ab'.islower() }} {{ 'Ab Cd'.istitle() }} {{ 'ab'.isascii() }} {{ 'a_1'.isidentifier() }} {{ 'a\\n'.isprintable() }} {{ ''.isalpha() }} {{ '½'.isnumeric() }} {{ '½'.isdigit() }}
{{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.py'.removesuffix('.py') }} {{ 'x'.removeprefix('y') }} {{ 'x'.removesuffix('') }}
{{ 'a\\tb'.expandtabs(4) }}
{{ s[0] }} {{ s[-1] }} {{ s[1:4] }} {{ s[::-1] }} {{ s[:-3] }} {{ s[7:] }} {{ 'wörld'[1:3] }} {{ s[100:] }} {{ 'abc'[::2] }}
{{ 'ell' in s }} {{ 'zz' not in s }} {{ '' in s }} {{ 'x' in '' }}
{{ 1 in 'abc' }}
{{ s | first }} {{ s | last }} {{ s | list | length }} {{ s | reverse }} {{ 'abc' | list }}
{{ lines | indent }} {{ lines | indent(2, true) }} {{ lines | indent(2, blank=true) }} {{ lines | indent(width=3, first=true) }} {{ 'a\\nb' | indent('> ') }}
{{ 'one two three four' | truncate(10) }} {{ 'one two three four' | truncate(10, true) }} {{ 'one two' | truncate(6, false, '…', 0) }} {{ 'one two three' | wordcount }}
{{ s | escape }} {{ s | e }} {{ '<' | safe + '<' }} {{ '<' + ('&' | safe) ~ '<' }} {{ ('<' | e) + '>' }} {{ s | safe }} {{ '<a>' | forceescape }}
{{ s | urlencode }} {{ 'a b&c/d' | urlencode }}
{{ 'abc' | batch(2) | list }} {{ s is string }} {{ s.__class__ }}
{{ 'a' | default('x') }} {{ missing | default('x') }} {{ missing | d }} {{ '' | default('x') }} {{ '' | default('x', true) }} {{ none | default('x') }} {{ none | default('x', boolean=true) }} {{ d.zz | default({}) }}
"""

COLLECTIONS = """
{{ l[0] }} {{ l[-1] }} {{ l[1:] }} {{ l[:2] }} {{ l[::-1] }} {{ l[::2] }} {{ l[5:] }} {{ l[-2:] }} {{ l[:-1] }}
{{ l.index(2) }} {{ l.count(1) }} {{ l | length }} {{ 2 in l }} {{ 9 not in l }}
{{ l.index(9) }}
{{ l.append(4) }}
{{ d.update({'x': 1}) }}
{{ d.pop('a') }}
{{ l | sort }} {{ l | sort(reverse=true) }} {{ words | sort }} {{ words | sort(case_sensitive=true) }} {{ people | sort(attribute='age') | map(attribute='name') | join(',') }} {{ people | sort(attribute='age,name') | map(attribute='name') | list }} {{ d | sort }}
{{ l | unique | list }} {{ words | unique | list }} {{ words | unique(case_sensitive=true) | list }} {{ people | unique(attribute='age') | map(attribute='name') | list }}
{{ l | reverse | list }} {{ l | first }} {{ l | last }} {{ [] | first }} {{ [] | last }} {{ l | list }} {{ d | list }} {{ d | first }} {{ 'ab' | list }}
{{ d | length }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.items() | list }} {{ d | items | list }} {{ d.get('a') }} {{ d.get('z') }} {{ d.get('z', 5) }} {{ d.get('z', none) is none }}
{{ d['items'] }} {{ d.b }} {{ d['n']['m'][1] }} {{ d.n.m | last }} {{ 'a' in d }} {{ 'z' in d }} {{ 1 in d }} {{ 'a' in d.keys() }} {{ 2 in d.values() }}
{{ d | dictsort }} {{ d | dictsort(true) }} {{ {'b': 1, 'a': 2} | dictsort(by='value') }} {{ {'b': 1, 'a': 2} | dictsort(false, 'value', true) }} {{ {'b': 1, 'a': 2} | dictsort(reverse=true) }}
{{ people | selectattr('age', 'equalto', 31) | map(attribute='name') | list }} {{ people | rejectattr('age', '==', 31) | map(attribute='name') | list }} {{ people | selectattr('tags') | list | length }} {{ people | selectattr('tags', 'defined') | list | length }} {{ people | selectattr('age', 'gt', 10) | list | length }} {{ people | selectattr('name', 'in', ['Ann', 'x']) | list | length }}
{{ none | selectattr('x') | list }} {{ none | map('upper') | list }} {{ l | select('odd') | list }} {{ l | reject('odd') | list }} {{ mixed | select('string') | list }} {{ mixed | select | list }} {{ l | select('greaterthan', 1) | list }} {{ l | select('>', 1) | list }} {{ mixed | reject('none') | list | length }}
{{ words | map('upper') | list }} {{ words | map('length') | list }} {{ people | map(attribute='tags', default='-') | list }} {{ words | map('replace', 'p', 'P') | join(' ') }} {{ people | map(attribute='n.m') | list }} {{ people | map(attribute='tags.0', default='q') | list }}
{% for age, who in people | groupby('age') %}{{ age }}: {{ who | map(attribute='name') | join(',') }};{% endfor %}
{{ [1, 2, 3, 4, 5] | batch(2) | list }} {{ [1, 2, 3] | batch(2, 0) | list }} {{ [1, 2, 3, 4, 5] | slice(2) | list }} {{ [1, 2, 3, 4, 5] | slice(3, 'x') | list }}
{{ dict(a=1, b=2) }} {{ dict({'a': 1}, b=2) }} {{ dict([('a', 1)]) }} {{ dict() }}
{{ mixed | tojson }} {{ d | tojson }} {{ s | tojson }} {{ tiny | tojson }} {{ huge | tojson }} {{ whole | tojson }} {{ big | tojson }} {{ none | tojson }} {{ yes | tojson }} {{ [] | tojson }} {{ {} | tojson }} {{ () | tojson }} {{ 'é☂\\x01\\x7f\\u2028/' | tojson }}
{{ d | tojson(indent=2) }} {{ mixed | tojson(indent=4) }} {{ [[], {}] | tojson(indent=2) }} {{ d | tojson(indent=0) }}
{{ d | tojson(sort_keys=true) }} {{ d | tojson(separators=(',', ':')) }} {{ d | tojson(ensure_ascii=true) }} {{ 'é☂🌍' | tojson(ensure_ascii=true) }} {{ mixed | tojson(indent=2, separators=(',', ' : ')) }} {{ d | tojson(false, 1) }} {{ d | tojson(indent='\\t') }} {{ {1: 'a', none: 'b', true: 'c', 2.5: 'd'} | tojson }} {{ d.n | tojson(indent=none) }}
{{ missing | tojson }}
{{ d.items() | tojson }}
{{ d.values() | list | tojson }} {{ people | map(attribute='name') | list | tojson }}
{{ people | map(attribute='name') | tojson }}
{{ [[1, 2], [3]] | sum(start=[]) }} {{ people | attr('x') }} {{ d | attr('a') }}
{{ dict.fromkeys(['a', 'b']) }} {{ dict.fromkeys('ab', 1) }} {{ dict.fromkeys(l) | length }} {{ dict.fromkeys([]) }} {{ dict is mapping }} {{ dict is callable }}
{{ {'_x': 1}._x }} {{ {'_x': 1}['_x'] }} {{ d._x is defined }} {{ s._x is defined }} {{ [1]._x }}|
{{ s.__class__ is defined }}
{{ l | map('tojson') | join(', ') }} {{ d | tojson(indent=2) | indent(2) }} {{ d | tojson | replace('"', "'") }} {{ people | tojson | length }} {{ people | map(attribute='name') | join(' and ') }}
{{ none | length }}
{{ none | list }}
{{ 5 | length }}
{{ [1, [2]] + [[3]] }} {{ (1, 2) + (3,) }} {{ (1, 2)[0] }} {{ (1, 2) | list }} {{ {'a': 1}['a'] }} {{ {'a': {'b': 1}}.a.b }} {{ [{'a': 1}][0].a }} {{ {'a': 1}.copy() }} {{ [1, 2].copy() }} {{ d.b is sameas d.b }}
"""

TESTS = """
{{ missing is defined }} {{ missing is undefined }} {{ nothing is defined }} {{ nothing is none }} {{ missing is none }} {{ d.a is defined }} {{ d.zz is defined }} {{ d.zz is not defined }}
{% for x in [missing, nothing, yes, n, f, s, l, d, empty, (1,)] %}{{ x is string }} {{ x is number }} {{ x is integer }} {{ x is float }} {{ x is boolean }} {{ x is mapping }} {{ x is iterable }} {{ x is sequence }} {{ x is none }} {{ x is callable }} {{ x is true }} {{ x is false }};{% endfor %}
{{ tiny is float }} {{ tiny is number }} {{ huge is integer }} {{ huge > 1 }} {{ tiny < 1 }} {{ tiny == 1e-7 }} {{ tiny * 10 }} {{ huge + 1 }} {{ -tiny }} {{ tiny | abs }} {{ tiny | round(8) }} {{ 1 if tiny else 0 }} {{ [huge, tiny] | sort }} {{ [huge, tiny] | max }} {{ huge in [1e30] }}
{{ d.items() is iterable }} {{ d.items() is sequence }} {{ d.items is defined }} {{ namespace() is defined }} {{ (l | map('string')) is iterable }} {{ (l | map('string')) is sequence }}
{{ 3 is odd }} {{ 4 is even }} {{ 6 is divisibleby 3 }} {{ 6 is divisibleby(4) }} {{ 'a' is in 'abc' }} {{ 1 is in [1, 2] }} {{ 'a' is eq 'a' }} {{ 1 is ne 2 }} {{ 3 is gt 2 }} {{ 3 is lessthan 2 }} {{ 3 is ge(3) }} {{ 'A' is upper }} {{ 'a' is lower }} {{ n is sameas n }} {{ none is sameas none }} {{ true is sameas true }} {{ 1 is sameas true }} {{ 'upper' is filter }} {{ 'odd' is test }} {{ 'zz' is filter }} {{ s is escaped }}
{{ not yes }} {{ not missing }} {{ yes and no }} {{ no or 'x' }} {{ '' or [] or 'y' }} {{ 'a' and 'b' }} {{ 0 or none }} {{ n is not none and n > 5 }} {{ not n is string }} {{ not (yes and no) }}
{{ 'x' if yes else 'y' }} {{ 'x' if no }}| {{ 'x' if missing else 'y' }} {{ ('a' if no else 'b') ~ 'c' }} {{ 1 if l else 2 }} {{ 1 if [] else 2 }} {{ 1 if {} else 2 }} {{ 1 if '' else 2 }} {{ 1 if 0 else 2 }} {{ 1 if 0.0 else 2 }}
{% if missing %}a{% elif n == 7 %}b{% else %}c{% endif %} {% if not missing %}x{% endif %} {% if l | length > 2 and 'a' in d %}y{% endif %}
{{ raise_exception('No: ' ~ n) }}
{{ raise_exception(5) }}
{{ missing() }}
{{ s() }}
{{ s | nofilter }}
{{ s is notest }}
{{ s.nomethod() }}
{{ strftime_now('%Y-%m-%d') }} {{ strftime_now('%d %b %Y') }} {{ strftime_now('%A, %B %d, %Y %H:%M:%S') }} {{ strftime_now('%-d/%-m %I:%M %p %y %j %a %e|%U|%W|%w|%u|%V|%G|%%') }} {{ strftime_now('%c|%x|%X|%D|%F|%T|%R|%r|%h|%C|%g|%k|%l|%P|%n|%t') }} {{ strftime_now('%f|%z|%Z|') }} {{ strftime_now('plain é') }} {{ strftime_now('%_d %05d %^a %#Z %E %Q') }} {{ strftime_now('') }} {{ strftime_now('%') }}
{{ strftime_now(5) }}
{{ strftime_now() }}
"""

STATEMENTS = [
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{{ loop.changed(x) }}{{ loop.depth }};{% endfor %}",
    "{% for x in [] %}a{% else %}empty{% endfor %}{% for x in missing %}a{% else %}none{% endfor %}",
    "{% for x in none %}a{% else %}none{% endfor %}",
    "{% for x in 5 %}a{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for a, b in [(1, 2), [3, 4]] %}{{ a }}{{ b }}{% endfor %}",
    "{% for k, v in d | dictsort %}{{ k }}{% endfor %}{% for k, v in d | items %}{{ k }}{{ loop.index }}{% endfor %}",
    "{% for x in l if x > 1 %}{{ x }}{{ loop.index }}{{ loop.last }}{% endfor %}{% for c in 'añb' %}{{ c }}.{% endfor %}",
    "{% for x in l %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}|{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in range(3) %}{% for y in range(3) %}{% if y > x %}{% break %}{% endif %}{{ x }}{{ y }} {% endfor %}{% else %}no{% endfor %}",
    "{% for x in [[1, [2]], [3]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}",
    "{% for x in [1, 2] %}{% for y in [3, 4] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for x in l | reverse %}{{ x }}{{ loop.length if false }}{% endfor %}{% for x in people | map(attribute='name') %}{{ x }}{{ loop.last }}{% endfor %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}",
    "{% set ns = namespace(x=0, found=false) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.found }}{{ ns.missing }}|",
    "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}{{ ns['a'] }}{% set ns.a = none %}{{ ns.a }}{{ ns.zz is defined }}",
    "{% set ns = namespace(_x=1) %}{{ ns._x }}",
    "{% set ns = namespace({'_x': 1}) %}{{ ns }}",
    "{% set ns = namespace(x=1) %}{% set ns._x = 1 %}{{ ns.x }}",
    "{% set ns = namespace(x=1) %}{{ ns._x is defined }}{% set ns.x_ = 2 %}{{ ns.x_ }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = (1, 2) %}{{ c }}{% set a, b = b, a %}{{ a }}{{ b }}",
    "{% set x %}\n  block {{ n }}\n{% endset %}[{{ x }}]{% set y | upper | trim %} abc {% endset %}[{{ y }}]",
    "{% if true %}{% set x = 5 %}{% endif %}{{ x }}{% with y = 2, z = 3 %}{{ y + z }}{% set w = 1 %}{% endwith %}{{ y }}{{ w }}",
    "{% macro f(a, b='z', c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ f(1) }}{{ f('x', b='y') }}{{ f() }}{{ f(1, 2, 3) }}{% set r = f(9) %}{{ r | length }}{{ r | upper }}{{ f.name }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% macro w(x) %}<{{ caller() }}{{ x }}>{% endmacro %}{% call w(1) %}in{{ n }}{% endcall %}{% macro v() %}{{ caller(2) }}{% endmacro %}{% call(y) v() %}{{ y }}{% endcall %}",
    "{% set g = 1 %}{% macro f() %}{{ g }}{{ n }}{% endmacro %}{% set g = 2 %}{{ f() }}{% for i in [1] %}{{ f() }}{{ i }}{% endfor %}",
    "{%- macro g() -%}  x  {%- endmacro -%}{{ g() }}{{ g() == 'x' }}{{ g() | trim is string }}",
    "{% filter upper %}abc {{ n }}{% endfilter %}{% raw %}{{ x }}{% if %}{% endraw %}{# note {{ x }} #}{{ '{{ x }}' }}{{ '%}' }}{{ \"}}\" }}{{ '{% generation %}' }}",
    "a\n  {% if true %}\n    b\n  {% endif %}\n  c\n{# d #}\n  {# e #}  \nf {{ n }}\n\n  {%- if true %}\n g\n{%- endif -%}  \n  h\n{{- n -}}  \n  i {%+ if true +%} \n j{% endif +%}\nk\n\n",
    "{% for x in l %}\n{{ x }}\n{% endfor %}\n  {%- for x in l -%}\n  {{ x }}\n  {%- endfor %}\n",
    "{%if n==7%}a{%endif%}{{n}}{{-n-}}{%-if n!=7-%}b{%-else-%} c {%-endif-%} d",
    "x {#- a -#} y {# b #} z\n{#- c\n d -#}\n w\r\n {% if true %}\r\n v\r\n{% endif %}\r\n",
    "a{% generation %}b {{ n }}{% endgeneration %}c\n{%- generation -%} d {%- endgeneration -%} e {% generation %}\n f\n{% endgeneration %}\n g",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}{% for i in l %}{% generation %}{{ i }}{{ loop.index }}{% endgeneration %}{% endfor %}",
    "{% raw %}{% generation %}{% endraw %}{# {% generation %} #}{{ '{% generation %}' ~ '{%- endgeneration %}' }}",
    "{% generation %}{{ missing }}{% if n %}{% generation %}x{% endgeneration %}{% endif %}{% endgeneration %}",
    "{% set j = joiner(', ') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %}{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}",
    "{% set message = people[0] %}{% set content = message.content if message.content is defined else message['name'] %}{{ content }}{{ message.role is defined and message.role == 'x' }}",
    "{% set m = people | selectattr('age', 'eq', 31) | list %}{{ m | length }}{{ m[-1].name }}{{ (people | first).name }}{{ people[-1]['name'] }}{{ people[:1][0].name }}",
    "{{ '</think>' in 'a</think>b' }}{{ 'a</think>b'.split('</think>')[-1].lstrip('\\n') }}{{ ('a</think>\\n\\nb'.split('</think>')|last).strip() }}",
    "{% if d is mapping %}m{% endif %}{% if l is sequence and l is not string and l is not mapping %}s{% endif %}{% if 'n' in d and d.n is mapping %}{{ d.n | tojson }}{% endif %}",
    "{{ {'role': 'x', 'content': s} | tojson }}{{ {'a': [1, 2, {'b': none}]} }}{% set t = {'k': l} %}{{ t.k[0] }}{{ t['k'] | last }}{{ (t, 1)[0] }}",
    "{%- for x in l -%}{%- if loop.first -%}{%- set y = 1 -%}{%- endif -%}{{- y -}}{%- endfor -%}",
    "{% block title %}hi {{ n }}{% endblock %}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{% if %}",
    "{{ x",
    "{% for x in l %}",
    "{% nosuchtag %}",
    "{{ 'unterminated }}",
    "{% endif %}",
    "{{ a b }}",
    "{% break %}",
    "{# open",
    "{% set x = {'a': 1,} %}{{ x }}{{ [1, 2,] }}{{ (1, 2,) }}{{ dict(a=1,) }}",
    "{{ l[1:3][0] }}{{ d['n'].m[0] }}{{ 'abc'[1] }}{{ 'a b'.split()[0].upper()[0] }}",
    "{{ not 1 == 2 }}{{ 1 if true }}{{ -1 | abs }}{{ 'a' ~ 'b' | upper }}{{ 1 + 1 ~ 2 }}{{ 2 * 3 ~ 4 }}{{ 'a' in 'abc' and true }}{{ n == 7 and n or 3 }}",
    "{{ l is not none }}{{ l is not mapping and l }}{{ n in [7] is true }}{{ (n is odd) is true }}",
    "{{ '\u00a0x\u2003'.strip() }}|{{ '\u00a0x\u2003' | trim }}|{{ '\x1cx\x1f'.strip() }}|{{ '\u200bx'.strip() }}|{{ '\ufeffx'.strip() }}|",
    "{{ 'ǆ ß ŉ'.title() }} {{ 'ß'.upper() }} {{ 'İ'.lower() }} {{ \"they're bill's\".title() }} {{ \"they're bill's\" | title }} {{ 'x-ray foo_bar' | title }} {{ 'ΑΣ'.lower() }}",
    "{% set x = [] %}{% set x = x + [1] %}{% set x = x + ['a'] %}{{ x }}{{ x | length }}",
    "{% set a = 'x' %}{% set a = a ~ 'y' %}{% set a = a + 'z' %}{{ a }}{{ a[-1:] }}{{ a | length }}",
    "{% for a in [1, 2, 3] %}{% if not loop.last %}{{ a }}, {% else %}{{ a }}{% endif %}{% endfor %}{{ '\\n' }}{{ \"\\n\" }}{{- '' }}",
]


def snippets():
    for group in (VALUES, NUMBERS, TEXTS, COLLECTIONS, TESTS):
        for line in group.strip("\n").split("\n"):
            # A snippet for each expression; a line with statements is one snippet.
            yield from [line] if "{%" in line else re.split(r"(?<=\}\}) (?=\{\{ )", line)
    yield from STATEMENTS
