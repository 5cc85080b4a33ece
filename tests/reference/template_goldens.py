"""Chat templates and single expressions as jinja2 renders them, set up as transformers does: tests/data/goldens/templates.json.

    python tests/reference/template_goldens.py

The templates are written here, in the forms that published families use: ChatML, Llama 3, Mistral, Gemma, Idefics 3.
"""

import os

import jinja2
from common import GOLDENS, tools, write_json
from make_qwen2_5_vl import TEMPLATE as QWEN
from transformers.utils.chat_template_utils import _compile_jinja_template

CHATML = """{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

LLAMA3 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message is taken out, so that it can be put where it belongs -#}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {%- if message['content'] is string %}
            {{- message['content'] | trim + '<|eot_id|>' }}
        {%- else %}
            {%- for content in message['content'] %}
                {%- if content['type'] == 'image' %}{{- '<|image|>' }}{%- elif content['type'] == 'text' %}{{- content['text'] }}{%- endif %}
            {%- endfor %}
            {{- '<|eot_id|>' }}
        {%- endif %}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
    {%- elif message.content is mapping or message.content is iterable %}
        {{- message.content | tojson }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}
"""

GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""

IDEFICS3 = """<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>
{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""

MACROS = """{%- macro part(content, mark='<image>') -%}
    {%- if content is string -%}{{ content }}
    {%- else -%}{%- for each in content if each.type != 'video' -%}{{ mark if each.type == 'image' else each.text | trim }}{{ ' ' if not loop.last }}{%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- for message in messages %}
  {%- if loop.previtem is defined and loop.previtem.role == message.role %}{% continue %}{% endif %}
{{ loop.index }}/{{ loop.length }} {{ message.role.upper() }}: {{ part(message.content) }} [{{ part(message.content, mark='#') | length }}]
{% else %}nothing
{%- endfor %}
{% set all -%}
  {{ messages | map(attribute='role') | join(', ') }}
{%- endset %}
roles: {{ all }}
    {% if messages | length > 2 %}
many
    {% endif %}
{% raw %}{{ not this }}{% endraw %}
{% for i in range(10) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}

"""

TEMPLATES = {"qwen": QWEN, "chatml": CHATML, "llama3": LLAMA3, "mistral": MISTRAL, "gemma": GEMMA, "idefics3": IDEFICS3,
             "macros": MACROS}


def message(role, content):
    return {"role": role, "content": content}


def words(text):
    return {"type": "text", "text": text}


IMAGE = {"type": "image"}
CONVERSATIONS = {
    "one": [message("user", " what is it?\n")],
    "system": [message("system", "Be brief. "), message("user", "what is \"it\"? <b>é日😀</b>")],
    "turns": [message("user", "hi"), message("assistant", " hello "), message("user", "and now?")],
    "system turns": [message("system", "S"), message("user", "a"), message("assistant", "b"), message("user", "c")],
    "image": [message("user", [IMAGE, words("what is it?")])],
    "images": [message("user", [words("first "), IMAGE, words(" second"), IMAGE]), message("assistant", [words("two")]),
               message("user", [words("sure?")])],
    "bad order": [message("user", "a"), message("user", "b")],
    "list system": [message("system", [words("S")]), message("user", [IMAGE, words("a")])],
}

# Expressions, and statements that are short.
SNIPPETS = """1 + 2 * 3 - 4 | 7 // 2, -7 // 2, 7 // -2 | 7 % 3, -7 % 3, 7 % -3 | 7 / 2, 1e3, 0.1 | 2 ** 10, 2 ** 3 ** 2 | -2 ** 2
'a' ~ 1 ~ none ~ true | 'a' 'b' | "it's" ~ 'a\\n\\t\\'' | [1, 'a', none, 2.5, {'k': [true]}] | {} | [[]] | 'abc'[1], 'abc'[-1]
'héllo'[1:3], 'abc'[::-1], 'abc'[5:], [1,2,3][-2:], [1,2,3,4][::2], [1,2,3][2:0:-1] | s[:2], s[3:], items[1:], items[:-1]
1 < 2 < 3, 1 < 2 > 3 | 'a' in 'abc', 'x' not in 'abc', 2 in [1, 2], 'k' in {'k': 1} | 1 == 1.0, 'a' == 'a', none == none, true == 1
not true, not not 1, not [] | 1 and 0, 0 or 'x', '' or none | 'a' if true else 'b' | 'a' if false | missing is defined, missing is not defined
s is string, items is iterable, items is sequence, d is mapping, n is number, n is integer, 1.5 is float, none is none, true is boolean
3 is odd, 4 is even, 9 is divisibleby 3, 9 is divisibleby(4), 'a' is in ['a'], 2 is gt 1, 2 is eq 2, s is lower, 'AB' is upper
s | upper, 'ABC' | lower, 'a bc' | title, 'aBC' | capitalize, ' x ' | trim, 'xxaxx' | trim('x') | s | length, items | count, d | length
missing | default('d'), '' | default('d'), '' | default('d', true), none | default('e') | items | join('-'), items | join | items | first, items | last
items | reverse | list, 'abc' | reverse, 'abc' | list | '12' | int, 'x' | int, 'x' | int(7), '1.5' | float, 3.9 | int, -3 | abs
'a-b-a' | replace('a', 'c'), 'a-b-a'.replace('a', 'c', 1) | d | items | map('last') | list, d | dictsort | map('first') | list, d.items() | map('join') | list, d.keys() | list, d.values() | list
d.get('x'), d.get('missing'), d.get('missing', 5), d['x'], d.x, d.missing is defined | {'b': 1, 'a': 'é"<'} | tojson, [1, 2] | tojson, none | tojson
{'a': [1, {'b': none}], 'e': []} | tojson(indent=2) | ['b', 'a', 'b'] | unique | list | list_of | map(attribute='k') | list, list_of | selectattr('k', 'equalto', 1) | list | length
list_of | rejectattr('k', 'gt', 1) | map(attribute='k') | join(','), [0, 1, '', 'a'] | select | list, [1, 2, 3] | reject('odd') | list, ['a', 'B'] | map('upper') | list
' a b  c '.split(), 'a,b,,c'.split(','), 'a,b,c'.split(',', 1), 'a b c'.split(none, 1), 'a,b,c'.rsplit(',', 1), 'a\\nb\\r\\nc'.splitlines()
' x '.strip(), ' x '.lstrip() ~ '|', 'xxa'.lstrip('x'), 'axx'.rstrip('x'), 'abcabc'.strip('ab') | s.startswith('he'), s.endswith(('x', 'o')), 'pre-x'.removeprefix('pre-'), 'x.jpg'.removesuffix('.jpg')
'abc'.find('c'), 'abc'.find('x'), 'hé日x'.find('x'), 'aaa'.count('a'), '12'.isdigit(), ''.isdigit(), ', '.join(['a', 'b']), 'ab' * 3
'a\\nb\\n\\nc' | indent(2), 'a\\nb' | indent(2, true) | range(3) | list, range(1, 7, 2) | list, range(3, 0, -1) | list | dict(a=1, b='x')
1.0, 100.0, 1e16, 1e-5, 123456.789, 1/3, 2.5e10 | (1, 2)[0], [1, 2].0, {'a': {'b': 3}}.a.b, d['missing'] is undefined | missing ~ 'x' | +3, -n, - 2 + 5"""
STATEMENTS = [
    "{% for a, b in d.items() %}{{ a }}={{ b }};{% endfor %}", "{% for c in 'hé' %}[{{ c }}]{% endfor %}",
    "{% for i in [] %}x{% else %}none{% endfor %}", "{% for i in missing %}x{% else %}none{% endfor %}",
    "{% for i in items if i != 'b' %}{{ loop.index }}{{ i }}{{ loop.last }} {% endfor %}",
    "{% for i in items %}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.nextitem }}{{ loop.previtem }};{% endfor %}",
    "{% set x = 1 %}{% for i in items %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% set ns = namespace(a=1, b=[]) %}{% for i in items %}{% set ns.a = ns.a + 1 %}{% set ns.b = ns.b + [i] %}{% endfor %}{{ ns.a }}{{ ns.b }}",
    "{% for i in [1, 2] %}{% for j in [1, 2, 3] %}{% if j == 2 %}{% continue %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}",
    "{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}{{ m() }}",
    "{% macro m(x) %}{{ x }}{% if x > 0 %}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(3) }}",
    "a  {%- if true -%}  b  {%- endif -%}  c", "a\n  {% if true %}\n  b\n  {% endif %}\n  c\n", "  {{ 1 }}  \n  {# c #}\n x",
    "a\n  {%+ if true %}\n b{% endif +%}\n c", "{{ 1 }}\n{% set x = 2 %}\n{{ x }}\n\n", "{{ '}}' }}{{ {'a': {'b': 1}}['a'] }}", "\r\na\rb\r\n",
    "{% if false %}a{% elif 0 %}b{% elif 1 %}c{% else %}d{% endif %}", "{% set a = 1, 2 %}{{ a | join }}",
    "{% generation %}x{{ 1 }}{% endgeneration %}y", "{%- raw -%}  {{ x }} {% endraw %}\nz", "{{ 'a' if missing }}|{{ missing }}|",
    "{{ '%s' }}{{ '\\u00e9\\x41\\\\' }}", "{{ [1, 2] + [3] }}{{ 'a' + 'b' }}", "{{ raise_exception('no ' ~ 'way') }}", "{{ missing.x }}",
    "{{ 1 + 'a' }}", "{{ 1 // 0 }}", "{{ n() }}", "{{ 'a' < 1 }}", "{{ none | length }}", "{{ d.x.y.z }}",
]
VARIABLES = {"s": "hello", "n": 5, "items": ["a", "b", "c"], "d": {"x": 1, "y": "z"}, "list_of": [{"k": 1}, {"k": 2}, {"k": 1}]}


def rendered(template, variables):
    try:
        return {"text": _compile_jinja_template(template).render(**variables)}
    except Exception as error:  # what it says is jinja2's own business
        return {"refused": str(error)}


def main():
    cases = []
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    for name, template in TEMPLATES.items():
        for conversation, messages in CONVERSATIONS.items():
            variables = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True, **special}
            cases.append({"case": f"{name}: {conversation}", "of": name, "messages": messages, **rendered(template, variables)})
    expressions = []
    for line in SNIPPETS.split("\n"):
        depth, part = 0, ""
        for piece in line.split(", "):
            part = f"{part}, {piece}" if part else piece
            depth = sum(part.count(c) for c in "([{") - sum(part.count(c) for c in ")]}")
            if not depth and part.count("'") % 2 == 0:
                expressions.append(part)
                part = ""
        assert not part, line
    # " | " parts several expressions where the whole would be no filter that there is
    for template in [f"{{{{ {each} }}}}" for each in split_bars(expressions)] + STATEMENTS:
        cases.append({"case": template, **rendered(template, VARIABLES)})
    refused = sum("refused" in case for case in cases)
    head = {"command": "python tests/reference/template_goldens.py", "tools": {**tools(), "jinja2": jinja2.__version__}}
    facts = {"templates": TEMPLATES, "special": special, "variables": VARIABLES}
    write_json(os.path.join(GOLDENS, "templates.json"), {**head, **facts, "cases": cases})
    print(f"{len(cases)} cases, {refused} refused")


FILTERS = ("upper", "lower", "title", "capitalize", "trim", "length", "count", "default", "join", "first", "last", "reverse",
           "list", "int", "float", "abs", "replace", "items", "dictsort", "tojson", "unique", "map", "selectattr", "rejectattr",
           "select", "reject", "indent")


def split_bars(expressions):
    for each in expressions:
        part = ""
        for piece in each.split(" | "):
            word = piece.split("(")[0].split(" ")[0]
            if part and word not in FILTERS:
                yield part
                part = ""
            part = f"{part} | {piece}" if part else piece
        yield part


if __name__ == "__main__":
    main()
