//! The filter `safe`. It makes its text markupsafe's `Markup`, which prints as the text itself, but escapes what is added
//! to it. So it is known here only where nothing is: a template that does more with such a text is refused.

use std::collections::HashSet;

use anyhow::{Result, ensure};

use super::ast::{Arguments, Body, Comparison, Expression, Kind, Macro, Target};

/// # Errors
/// Where a text may be marked, and more is done with it than to print it, join it with `~`, or look at it.
pub fn check(body: &Body) -> Result<()> {
    let mut marks = Marks::default();
    // A name may be set to another one, which is set further down.
    while marks.collect(body) {}
    marks.body(body)
}

/// The names that may stand for a marked text.
#[derive(Default)]
struct Marks<'a> {
    names: HashSet<&'a str>,
}

impl<'a> Marks<'a> {
    /// Finds names that are set to marked texts; whether there were new ones.
    fn collect(&mut self, body: &'a Body) -> bool {
        let mut new = false;
        for statement in body {
            match &statement.kind {
                Kind::Set(Target::Name(name), value) => new |= self.is_marked(value) && self.names.insert(name),
                Kind::SetBlock { target: Target::Name(name), filter: Some(filter), .. } => {
                    new |= self.is_marked(filter) && self.names.insert(name);
                }
                Kind::With(values, _) => {
                    for (target, value) in values {
                        if let Target::Name(name) = target {
                            new |= self.is_marked(value) && self.names.insert(name);
                        }
                    }
                }
                _ => {}
            }
            for inner in bodies(&statement.kind) {
                new |= self.collect(inner);
            }
        }
        new
    }

    fn is_marked(&self, value: &Expression) -> bool {
        match value {
            Expression::Filter(_, name, _) if &**name == "safe" => true,
            Expression::Filter(Some(value), name, _) if &**name == "string" => self.is_marked(value),
            Expression::Name(name) => self.names.contains(&**name),
            Expression::Conditional { then, otherwise, .. } => {
                self.is_marked(then) || otherwise.as_ref().is_some_and(|otherwise| self.is_marked(otherwise))
            }
            Expression::And(a, b) | Expression::Or(a, b) => self.is_marked(a) || self.is_marked(b),
            _ => false,
        }
    }

    fn body(&self, body: &Body) -> Result<()> {
        for statement in body {
            for (value, may_be) in values(&statement.kind) {
                ensure!(
                    self.are_known(value, may_be),
                    "line {}: the filter `safe` is known to calipr only where its text is printed, joined with `~`, or set \
                     to a name with which no more is done",
                    statement.line
                );
            }
            for inner in bodies(&statement.kind) {
                self.body(inner)?;
            }
        }
        Ok(())
    }

    /// Whether marked texts stand only where they may; `may_be` says whether the value itself may be one.
    fn are_known(&self, value: &Expression, may_be: bool) -> bool {
        (may_be || !self.is_marked(value))
            && parts(value, may_be).into_iter().all(|(part, may)| self.are_known(part, may))
    }
}

/// What a statement's own values are, and whether they may be marked.
fn values(kind: &Kind) -> Vec<(&Expression, bool)> {
    let set = |target: &Target| matches!(target, Target::Name(_));
    match kind {
        Kind::Print(value) => vec![(value, true)],
        Kind::If(branches, _) => branches.iter().map(|(condition, _)| (condition, true)).collect(),
        Kind::For(this) => [(&this.items, false)].into_iter().chain(this.filter.iter().map(|f| (f, true))).collect(),
        Kind::Set(target, value) => vec![(value, set(target))],
        Kind::SetBlock { target, filter, .. } => filter.iter().map(|filter| (filter, set(target))).collect(),
        Kind::Macro(this) => defaults(this),
        Kind::CallBlock { call, caller } => [(call, false)].into_iter().chain(defaults(caller)).collect(),
        Kind::FilterBlock { filter, .. } => vec![(filter, true)],
        Kind::With(values, _) => values.iter().map(|(target, value)| (value, set(target))).collect(),
        Kind::Text(_) | Kind::Generation(_) | Kind::Break | Kind::Continue => vec![],
    }
}

fn defaults(this: &Macro) -> Vec<(&Expression, bool)> {
    this.parameters.iter().filter_map(|(_, default)| default.as_ref()).map(|default| (default, false)).collect()
}

fn bodies(kind: &Kind) -> Vec<&Body> {
    match kind {
        Kind::If(branches, otherwise) => branches.iter().map(|(_, body)| body).chain([otherwise]).collect(),
        Kind::For(this) => vec![&this.body, &this.otherwise],
        Kind::SetBlock { body, .. } | Kind::FilterBlock { body, .. } | Kind::With(_, body) | Kind::Generation(body) => {
            vec![body]
        }
        Kind::Macro(this) => vec![&this.body],
        Kind::CallBlock { caller, .. } => vec![&caller.body],
        Kind::Text(_) | Kind::Print(_) | Kind::Set(..) | Kind::Break | Kind::Continue => vec![],
    }
}

/// What a value is made of, and whether it may be marked there; `may_be` is whether the value may.
fn parts(value: &Expression, may_be: bool) -> Vec<(&Expression, bool)> {
    use Expression::*;
    match value {
        None | Bool(_) | Int(_) | Float(_) | Text(_) | Name(_) => vec![],
        List(items) | Tuple(items) => items.iter().map(|item| (item, false)).collect(),
        Dict(items) => items.iter().flat_map(|(key, item)| [(key, false), (item, false)]).collect(),
        Negative(inner) | Positive(inner) | Attribute(inner, _) => vec![(inner, false)],
        Not(inner) => vec![(inner, true)],
        And(a, b) | Or(a, b) => vec![(a, may_be), (b, may_be)],
        Binary(_, a, b) | Item(a, b) => vec![(a, false), (b, false)],
        Concatenated(items) => items.iter().map(|item| (item, true)).collect(),
        Compared(first, others) => {
            use Comparison::{Equal, In, NotEqual, NotIn};
            let may = others.iter().all(|(comparison, _)| matches!(comparison, Equal | NotEqual | In | NotIn));
            [(&**first, may)].into_iter().chain(others.iter().map(|(_, other)| (other, may))).collect()
        }
        Conditional { condition, then, otherwise } => {
            let otherwise = otherwise.iter().map(|otherwise| (&**otherwise, may_be));
            [(&**condition, true), (then, may_be)].into_iter().chain(otherwise).collect()
        }
        Slice(inner, bounds) => {
            [(&**inner, false)].into_iter().chain(bounds.iter().flatten().map(|bound| (&**bound, false))).collect()
        }
        Call(called, given) => [(&**called, false)].into_iter().chain(arguments(given)).collect(),
        Filter(inner, name, given) => {
            let may = ["safe", "string", "tojson", "length", "count"].contains(&&**name);
            inner.iter().map(|inner| (&**inner, may)).chain(arguments(given)).collect()
        }
        Test(inner, _, given) => [(&**inner, true)].into_iter().chain(arguments(given)).collect(),
    }
}

fn arguments(given: &Arguments) -> Vec<(&Expression, bool)> {
    let named = given.named.iter().map(|(_, value)| value);
    let rest = given.rest.iter().chain(&given.named_rest).map(|rest| &**rest);
    given.positional.iter().chain(named).chain(rest).map(|value| (value, false)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Template;

    fn rendered(source: &str) -> String {
        let text = Template::parse(source).and_then(|template| template.render(&serde_json::Map::new(), None));
        text.unwrap_or_else(|error| format!("{error:#}"))
    }

    #[test]
    fn a_text_that_is_only_printed_may_be_safe() {
        assert_eq!(rendered("{{ '<b>' | safe }}{{ '<' ~ ({'a': '&'} | tojson | safe) ~ '>' }}"), "<b><{\"a\": \"&\"}>");
        let set = "{% set x = '<' | safe if 1 is number else 2 | string %}{{ x }}{{ x is string }}{% if x == '<' %}{{ '[' ~ x }}{% endif %}";
        assert_eq!(rendered(set), "<True[<");
        assert_eq!(
            rendered("{{ nothing | safe }}{{ [1, none] | safe }}{% filter safe %}<{% endfilter %}"),
            "[1, None]<"
        );
    }

    #[test]
    fn what_would_be_escaped_in_jinja_is_refused() {
        let refused = [
            "{{ ('a' | safe) + '<' }}",
            "{{ 'a' + ('b' | safe) }}",
            "{% set x = 'a' | safe %}\n{{ x.replace('a', '<') }}",
            "{% set x = y %}{% set y = 'a' | safe %}{{ x + '<' }}",
            "{{ ['a' | safe] }}",
            "{{ ('%s' | safe) % '<' }}",
            "{{ ('<' | safe) | upper }}",
            "{% set ns = namespace() %}{% set ns.x = 'a' | safe %}",
            "{% macro m(x) %}{{ x + '<' }}{% endmacro %}{{ m('a' | safe) }}",
            "{% for c in 'ab' | safe %}{{ c }}{% endfor %}",
            "{% set x %}a{% endset %}{% set y | safe %}b{% endset %}{{ y + x }}",
            "{{ ['a'] | map('safe') | list }}",
        ];
        for source in refused {
            assert!(rendered(source).contains("`safe`"), "{source}: {}", rendered(source));
        }
        assert!(rendered("{{ '<' | escape }}").contains("`escape`"));
    }
}
