#![allow(clippy::unwrap_used)]

use std::{fmt::Write, sync::Arc};

use jiff::civil::date;
use proptest::prelude::*;
use protocol::message::{ChatMessage, FailureKind};
use serde_json::json;

use super::*;

fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage::new(role, content)
}

fn template(source: &str) -> ChatTemplate {
    let clock: Clock = Arc::new(|| date(2026, 2, 3).at(14, 5, 6, 0));
    let special =
        [("bos_token", "<s>"), ("image_token", "<img>")].map(|(name, text)| (name.into(), text.into()));
    ChatTemplate::with_clock(source, special.into(), clock)
}

fn render(source: &str) -> Result<String, TemplateError> {
    template(source).render(&[message("system", "S"), message("user", "<hi> & 'ho'")])
}

/// What the client is told.
fn failure(source: &str) -> String {
    let failure = render(source).unwrap_err().failure();
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    failure.message
}

#[test]
fn renders_what_templates_use() {
    let source = "{{ bos_token }}{% for m in messages %}\n  {% if m['role'].startswith('sys') %}S{% else %}\
                  {{ m.role | upper }}{% endif %}:{{ m.content.strip() }}\n{% endfor %}\
                  {% if add_generation_prompt %}A:{% endif %}";
    let text = template(source).render(&[message("system", " be brief "), message("user", "hi")]).unwrap();
    assert_eq!(text, "<s>S:be brief\nUSER:hi\nA:");
}

#[test]
fn what_transformers_gives_a_template_is_there() {
    for (source, expected) in [
        ("{{ tools is none and documents is none and tools is defined }}", "True"),
        ("{{ eos_token is defined }}{{ bos_token }}{{ image_token }}", "False<s><img>"),
        ("{{ messages[1].content | tojson }}", "\"<hi> & 'ho'\""),
        ("{{ messages[0] | tojson(indent=2) }}", "{\n  \"role\": \"system\",\n  \"content\": \"S\"\n}"),
        ("{{ strftime_now('%d %b %Y') }}", "03 Feb 2026"),
        (
            "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{% break %}{% endfor %}",
            "system",
        ),
        (
            "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
            "user",
        ),
        ("{% for m in messages %}{{ m.name is defined }}{% endfor %}", "FalseFalse"),
        ("{{ dict.fromkeys(['a'], 1) }}{{ dict([('b', 2)], c=3) }}", "{'a': 1}{'b': 2, 'c': 3}"),
        ("{{ '%s-%d' % ('a', 3) }}{{ none ~ true ~ 1e-7 }}", "a-3NoneTrue1e-07"),
    ] {
        assert_eq!(render(source).unwrap(), expected, "{source}");
    }
}

#[test]
fn messages_may_carry_more_than_text() {
    let chat = Chat {
        messages: vec![
            json!({"role": "assistant", "content": null, "reasoning": "hm", "tool_calls": [{"n": 1.0}]}),
        ],
        tools: json!([{"name": "f"}]),
        more: json!({"enable_thinking": false}).as_object().unwrap().clone(),
        ..Chat::default()
    };
    let source = "{% set m = messages[0] %}{{ m.content is defined }} {{ m.reasoning_content }} {{ m.tool_calls }} \
                  {{ tools[0].name }} {{ enable_thinking }}";
    assert_eq!(template(source).render_chat(&chat).unwrap(), "False hm [{'n': 1.0}] f False");
}

#[test]
fn a_template_can_refuse_in_its_own_words() {
    let words = failure("{{ raise_exception('roles must alternate') }}");
    assert_eq!(words, "the model's chat template refuses the messages: roles must alternate");
    let words = failure("{% macro f() %}{{ raise_exception('inside') }}{% endmacro %}{{ f() }}");
    assert!(words.ends_with(": inside"), "{words}");
    assert!(failure("{{ raise_exception('é' * 100000) }}").len() < 3000);
}

#[test]
fn a_namespace_takes_no_private_names() {
    for source in [
        "{% set ns = namespace(_x=1) %}",
        "{% set ns = namespace({'_x': 1}) %}",
        "{% set ns = namespace() %}{% set ns._x = (1, 2) %}",
    ] {
        assert!(failure(source).contains("\"_x\""), "{source}");
    }
    let source = "{% set ns = namespace(x_=1) %}{% set ns.y_ = 2 %}{% set _z = 3 %}{{ ns.x_ + ns.y_ + _z }}\
                  {% if false %}{% set ns._x = 1 %}{% endif %}";
    assert_eq!(render(source).unwrap(), "6");
}

#[test]
fn a_template_that_does_not_compile_fails_chats_and_says_why() {
    for (source, words) in [
        ("{% if %}", "line 1"),
        ("a\n{% nosuchtag %}", "nosuchtag"),
        ("{{ 'x }}", "not closed"),
        ("{% for x in messages %}", "end of input"),
    ] {
        assert!(template(source).problem().is_some(), "{source}");
        let message = failure(source);
        assert!(message.contains(words) && message.contains("/v1/completions"), "{message}");
    }
}

/// Each of these once took forever, all memory, or the process.
#[test]
fn whatever_a_template_does_ends_as_an_error() {
    let mut doubled = String::from("{% set x = [1] %}");
    for _ in 0..60 {
        doubled.push_str("{% set x = [x, x] %}");
    }
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let mut hostile = vec![
        endless.to_owned(),
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}".into(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(),
        "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}".into(),
        "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}".into(),
        "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}".into(),
    ];
    for expression in [
        "'x'.rjust(10000000000000)",
        "'x'.ljust(10000000000000)",
        "'x'.center(10000000000000)",
        "'x'.zfill(10000000000000)",
        "'x' | center(10000000000000)",
        "'x' * 1000000000000",
        "1000000000000 * 'x'",
        "([0] * 1000000000000) | string",
        "'' ~ [0] * 1000000000000",
        "[0] * 1000000000000",
        "[0] * 1000000000000 == [0] * 1000000000000",
        "([0] * 1000000000000) | join",
        "([0] * 1000000000000) | tojson",
        "([0] * 1000000000000) | sort",
        "range(10000000000000) | list",
        "'%1000000000000d' % 1",
        "'%1000000000000d' | format(1)",
        "'%*d' % (1000000000000, 1)",
        "'{:>1000000000000}'.format(1)",
        "'{:{}}'.format(1, 1000000000000)",
        "('x' * 1000000).replace('x', 'y' * 1000000)",
        "('x' * 1000000) | replace('x', 'y' * 1000000)",
        "('x' * 1000000).replace('', 'y' * 1000000)",
        "('y' * 1000000).join('x' * 1000000)",
        "('x' * 1000000) | join('y' * 1000000)",
        "('\\t' * 1000000).expandtabs(1000000)",
        "('\\n' * 1000000) | indent(10000, true, true)",
        "('\\n' * 1000000) | indent('x' * 1000000, true, true)",
        "[[1]] | tojson(indent=1000000000000)",
        "strftime_now('%c' * 1000000)",
        "2 ** 100000",
    ] {
        hostile.push(format!("{{{{ {expression} }}}}"));
    }
    for use_of_it in [
        "{{ x }}",
        "{{ 'a' ~ x }}",
        "{{ x | string | length }}",
        "{{ x | tojson }}",
        "{{ [x] | join }}",
        "{{ x | upper }}",
        "{{ '%s' % x }}",
        "{{ '{}'.format(x) }}",
        "{{ [x, x] | sort }}",
        "{{ {x: 1} }}",
        "{{ {}[x] }}",
        "{{ messages[0].get(x) }}",
        "{{ x | pprint }}",
        "{{ x | replace('a', 'b') }}",
        "{{ raise_exception(x) }}",
        "{% for i in [1] %}{{ loop.changed(x) }}{% endfor %}{{ 1 // 0 }}",
    ] {
        hostile.push(format!("{doubled}{use_of_it}"));
        let other = doubled.replace("set x", "set y").replace("[x, x]", "[y, y]");
        hostile.push(format!(
            "{doubled}{other}{{{{ x == y }}}}{{{{ x in [y] }}}}{{{{ x is eq(y) }}}}{use_of_it}"
        ));
    }
    for source in hostile {
        let error = render(&source).expect_err(&source);
        assert!(error.failure().message.len() < 2000, "{source:.80}");
    }
}

/// These may give something, or not; but soon.
#[test]
fn values_that_are_endless_can_be_handled() {
    let mut endless = String::from("{% set x = [1] %}{% set y = [1] %}");
    for _ in 0..60 {
        endless.push_str("{% set x = [x, x] %}{% set y = [y, y] %}");
    }
    for use_of_it in [
        "'a' | trim(x)",
        "[1] | join(x)",
        "[1] | select(x) | list",
        "{} | attr(x)",
        "dict(x)",
        "dict(a=x)",
        "range(x)",
        "joiner(x)()",
        "cycler(x)",
        "strftime_now(x)",
        "[1] | map(x) | list",
        "[{}] | groupby(x)",
        "[{}] | sort(attribute=x)",
        "[{}] | map(attribute=x) | list",
        "[1] | selectattr(x) | list",
        "x is string",
        "x is sameas y",
        "x is startingwith('a')",
        "'a' is startingwith(x)",
        "'a' is in x",
        "x in 'a'",
        "x in {}",
        "'a' in x",
        "x[1:] | length",
        "x[::-1] | length",
        "x | first | length",
        "x | abs",
        "x | round",
        "x | int",
        "x | float",
        "x | bool",
        "x | items | list",
        "x | zip(x) | length",
        "x | chain(x) | length",
        "x | lines",
        "x | split",
        "'a' | split(x)",
        "x | reverse | length",
        "x < y",
        "x | urlencode",
        "x.foo",
        "x()",
        "x is odd",
        "x is divisibleby(2)",
        "-x",
        "x / 2",
        "x ** x",
        "x * 2 | length",
        "x - y",
        "x | default(y) | length",
        "x | unique | list | length",
        "x | batch(1) | list | length",
        "x | slice(1) | list | length",
        "x | sum",
        "x | min | length",
        "x | capitalize",
        "x | title",
        "x | safe",
        "x | escape",
        "x | tojson(indent=x)",
        "1 | tojson(separators=x)",
        "'a'.split(x)",
        "'a'.replace(x, y)",
        "x.index(y)",
        "x.count(y)",
        "'a'.join(x)",
        "'{:{}}'.format(1, x)",
        "'%*d' % (x, 1)",
        "namespace(a=x).a | length",
        "x is eq y",
        "x is lower",
        "x is number",
        "x if x else y",
        "x | last | length",
        "x | dictsort",
        "x | format(y)",
        "'%(a)s' % {'a': x}",
        "x and y and 1",
        "{'a': x} == {'a': y}",
        "(x, 1) == (y, 1)",
        "(x, 1) in [(y, 1)]",
        "{(x, 1): 1}",
        "messages[x]",
        "messages | length + x",
    ] {
        let _ = render(&format!("{endless}{{{{ {use_of_it} }}}}"));
    }
    for statement in [
        "{% for i in [x, y, x] %}{{ loop.changed(i) }}{% endfor %}",
        "{% for i in [x, y, x] %}{{ loop.cycle(x, y) | length }}{% endfor %}",
        "{% set a, b, c = x %}",
        "{% include x %}",
        "{% extends x %}",
        "{% macro f(a) %}{{ a | length }}{% endmacro %}{{ f(x) }}{{ f(**x) }}",
        "{% call(a) x() %}{% endcall %}",
        "{% with a = x %}{{ a }}{% endwith %}",
        "{% filter upper %}{{ x | length }}{% endfilter %}",
        "{% set z | replace(x, y) %}a{% endset %}",
        "{% for a in x recursive %}{{ loop(a) }}{% endfor %}",
        "{% autoescape x %}{{ x | length }}{% endautoescape %}",
        "{% autoescape true %}{{ x }}{% endautoescape %}",
    ] {
        let _ = render(&format!("{endless}{statement}"));
    }
}

/// What is deep can be made, since it is only freed; but nothing may walk it.
#[test]
fn deep_values_do_not_overflow_the_stack() {
    let nest = |n: usize| format!("{}ns.x{}", "[".repeat(n), "]".repeat(n));
    let deep = format!(
        "{{% set ns = namespace(x=1) %}}{{% for i in range(20000) %}}{{% set ns.x = {} %}}{{% endfor %}}",
        nest(20)
    );
    assert_eq!(render(&format!("{deep}ok")).unwrap(), "ok");
    for walk in [
        "{{ ns.x }}",
        "{{ ns.x ~ '' }}",
        "{{ ns.x | tojson }}",
        "{{ ns.x == [[1]] }}",
        "{{ [ns.x] | unique | list }}",
    ] {
        assert!(render(&format!("{deep}{walk}")).is_err(), "{walk}");
    }
    let chained =
        "{% set ns = namespace(x=[1]) %}{% for i in range(9999) %}{% set ns.x = ns.x + [1] %}{% endfor %}";
    assert!(render(&format!("{chained}{{{{ ns.x | length }}}}")).is_err(), "quadratic work has a limit");
    assert!(render("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}").is_err());
}

#[test]
fn sources_that_are_too_large_or_too_deep_do_not_compile() {
    let mut elifs = String::from("{% if a %}");
    for n in 0..200_000 {
        let _ = write!(elifs, "{{% elif a == {n} %}}");
    }
    let many = |part: &str, n: usize| part.repeat(n);
    for source in [
        elifs + "{% endif %}",
        format!("{{{{ {}1 }}}}", many("1 + ", 200_000)),
        format!("{{{{ {}1 }}}}", many("not ", 9000)),
        format!("{{{{ {}1 }}}}", many("-", 9000)),
        format!("{{{{ {}1{} }}}}", many("(", 4000), many(")", 4000)),
        format!("{}x{}", many("{% if a %}", 4000), many("{% endif %}", 4000)),
        many("x", 2 << 20),
    ] {
        assert!(template(&source).problem().is_some(), "{source:.40}");
    }
    // Long but flat, or just below the limits.
    assert!(render(&format!("{{{{ {}1 }}}}", many("1 + ", 4000))).is_ok());
    assert!(render(&format!("{{{{ 'x'{} }}}}", many(" | upper", 2000))).is_ok());
    assert!(render(&format!("{{{{ a{} }}}}", many(".b", 4000))).is_err());
    let elifs: String = (0..4000).map(|n| format!("{{% elif a == {n} %}}")).collect();
    assert!(render(&format!("{{% if a %}}{elifs}{{% endif %}}")).is_ok());
}

#[test]
fn a_prompt_has_a_limit() {
    let long = "x".repeat(1 << 20);
    let source = "{% for i in range(100) %}{{ messages[0].content }}{% endfor %}";
    let error = template(source).render(&[message("user", &long)]).unwrap_err();
    assert!(matches!(error, TemplateError::TooMuch(_)), "{error}");
    let source = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let whole = template(source).render(&vec![message("user", &long); 8]).unwrap();
    assert_eq!(whole.len(), 8 << 20);
}

#[test]
fn long_conversations_have_enough_work_allowed() {
    let source = "{% for m in messages %}{% set ns = namespace(last=false) %}{% for n in messages[loop.index0:] %}\
                  {% if n.role == 'user' %}{% set ns.last = true %}{% break %}{% endif %}{% endfor %}\
                  <|{{ m['role'] }}|>{{ m['content'] | trim }}{% if ns.last %}.{% endif %}\n{% endfor %}";
    let messages: Vec<ChatMessage> =
        (0..4000).map(|n| message(if n % 2 == 0 { "user" } else { "assistant" }, "some words")).collect();
    assert!(template(source).render(&messages).unwrap().len() > 80_000);
}

proptest! {
    #[test]
    fn no_source_panics(source in "(\\{\\{|\\}\\}|\\{%|%\\}|\\{#|#\\}|[-+ \\n'\"~|.,()\\[\\]{}=<>!*/%]|if|for|in|set|is|not|else|x|1|é|raw|endraw){0,24}") {
        let _ = render(&source);
    }
}
