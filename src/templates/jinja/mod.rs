//! Jinja as transformers renders chat templates with it: an immutable sandbox with `trim_blocks`, `lstrip_blocks`, loop
//! controls, `generation` blocks, and its own `tojson`, `raise_exception` and `strftime_now` (transformers:
//! chat_template_utils.py; jinja2 3.1).
//!
//! A prompt is compared to the byte with what other programs make of it, and there minijinja differs: it has no `%` on
//! texts, sorts keys, and prints numbers, lists and dicts in other ways than Python. So this is Jinja with Python's
//! values. A template that uses what is not here is refused when it is read, by the name of what it uses.

mod ast;
mod conditions;
mod date;
mod evaluate;
mod expressions;
mod filters;
mod format;
mod json;
mod lexer;
mod markup;
mod methods;
mod numbers;
mod parser;
mod render;
mod value;

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

pub use date::Date;
use render::Renderer;
use value::Value;
pub use value::float;

/// A template that was read.
#[derive(Debug)]
pub struct Template {
    body: ast::Body,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Where it is no template, or uses what calipr does not know; the message has the line.
    pub fn parse(source: &str) -> Result<Self> {
        let body = parser::parse(lexer::tokens(source)?)?;
        markup::check(&body)?;
        Ok(Self { body })
    }

    /// The text that it makes of these variables. `today` is what `strftime_now` prints.
    ///
    /// # Errors
    /// Where Jinja raises one, the template itself does (`raise_exception`), or it does not end.
    pub fn render(
        &self,
        variables: &serde_json::Map<String, serde_json::Value>,
        today: Option<Date>,
    ) -> Result<String> {
        let variables = variables.iter().map(|(name, value)| Ok((name.as_str().into(), Value::from_json(value)?)));
        Renderer::new(variables.collect::<Result<_>>()?, today).render(&self.body)
    }
}

/// The arguments of a call, evaluated.
#[derive(Clone, Default)]
struct Given {
    positional: Vec<Value>,
    named: Vec<(Arc<str>, Value)>,
}

impl Given {
    /// So many arguments without names.
    fn exactly<const N: usize>(self, what: &str) -> Result<[Value; N]> {
        let count = self.positional.len();
        let arguments: Option<[Value; N]> = self.positional.try_into().ok();
        match arguments {
            Some(arguments) if self.named.is_empty() => Ok(arguments),
            _ => bail!("{what} takes {N} argument(s), but {} were given", count + self.named.len()),
        }
    }

    /// At most so many arguments without names.
    fn up_to<const N: usize>(self, least: usize, what: &str) -> Result<[Option<Value>; N]> {
        ensure!(self.named.is_empty(), "{what} takes no keyword arguments");
        let count = self.positional.len();
        ensure!((least..=N).contains(&count), "{what} takes {least} to {N} arguments, but {count} were given");
        let mut arguments = self.positional.into_iter();
        Ok(std::array::from_fn(|_| arguments.next()))
    }

    /// Arguments by their place or by these names.
    fn named<const N: usize>(self, what: &str, names: [&str; N]) -> Result<[Option<Value>; N]> {
        let count = self.positional.len();
        ensure!(count <= N, "{what} takes {N} arguments at most, but {count} were given");
        let mut arguments = self.positional.into_iter();
        let mut arguments: [Option<Value>; N] = std::array::from_fn(|_| arguments.next());
        for (name, value) in self.named {
            let at = names.iter().position(|known| **known == *name);
            let at = at.with_context(|| format!("{what} got an unexpected keyword argument '{name}'"))?;
            ensure!(arguments[at].is_none(), "{what} got multiple values for argument '{name}'");
            arguments[at] = Some(value);
        }
        Ok(arguments)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(template: &str) -> Result<String> {
        let template = template.to_owned();
        let variables = json!({"messages": [{"role": "user", "content": "hi"}]});
        crate::templates::in_time(move || Template::parse(&template)?.render(variables.as_object().unwrap(), None))?
    }

    #[test]
    fn what_is_not_known_is_refused_by_its_name_when_the_template_is_read() {
        for (template, name) in [
            ("a\n{{ x | pprint }}", "line 2: the filter `pprint`"),
            ("{{ x is escaped }}", "the test `escaped`"),
            ("{{ x.zfill(3) }}", "the method `zfill`"),
            ("{{ xs | map('urlize') | list }}", "the filter `urlize`"),
            ("{{ xs | selectattr('a', 'nosuch') | list }}", "the test `nosuch`"),
            ("{% include 'x' %}", "the tag `include`"),
            ("{{ cycler(1) }}", "`cycler`"),
            ("{% if x %}", "expected `elif` or `else` or `endif`"),
            ("{% nosuch %}", "no tag `nosuch`"),
            ("{{ x", "has no end"),
        ] {
            let error = format!("{:#}", Template::parse(template).unwrap_err());
            assert!(error.contains(name), "{template}: {error}");
        }
    }

    #[test]
    fn errors_say_what_the_template_says_and_where() {
        let error = format!(
            "{:#}",
            rendered("a\n{% if true %}\n{{ raise_exception('no such role') }}{% endif %}").unwrap_err()
        );
        assert_eq!(error, "line 3: no such role");
    }

    #[test]
    fn without_a_date_a_template_that_prints_today_is_an_error() {
        assert_eq!(rendered("{{ strftime_now is defined }}").unwrap(), "True");
        let error = format!("{:#}", rendered("{{ strftime_now('%Y') }}").unwrap_err());
        assert!(error.contains("strftime_now") && error.contains("date = "), "{error}");
    }

    #[test]
    fn what_takes_all_memory_or_never_ends_is_stopped() {
        for template in [
            "{% for i in range(100000) %}{% for j in range(100000) %}{{ j }}{% endfor %}{% endfor %}",
            "{% for i in range(1000000) %}{% endfor %}",
            "{% set a = 'x' * 90000000 %}",
            "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
            "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
            "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}",
            "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x }}",
            "{% set ns = namespace() %}{% for i in range(9999) %}{% set ns.x = namespace(x=ns.x) %}{% endfor %}",
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
            "{{ '%10000000000d' % 1 }}",
            "{{ '{:>10000000000}'.format(1) }}",
            "{{ 'x' | center(10000000000) }}",
            "{{ 'x'.ljust(10 ** 30) }}",
            "{{ ['a'] | tojson(indent=10 ** 18) }}",
            "{{ 10 ** 10 ** 10 }}",
            "{{ ('a' * 1000000).replace('a', 'b' * 1000) }}",
            "{{ 'x' | truncate(10 ** 30, true, '') | length + 'a' }}",
        ] {
            assert!(rendered(template).is_err(), "{template}");
        }
        assert!(rendered(&format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000))).is_err());
        assert!(rendered(&"{% if 1 %}".repeat(3000)).is_err());
        assert!(rendered(&format!("{{{{ {}1 }}}}", "-".repeat(5000))).is_err());
    }
}
