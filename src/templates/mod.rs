//! Templates that strangers wrote, with bounds on what they may take: in data sets minijinja, with nothing to load from;
//! in models Jinja as transformers has it.

mod jinja;
mod python;

use std::cell::RefCell;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::guard::{self, guarded};
pub use jinja::{Date, Template, float};

/// Steps that one template may take, a dozen bytes or a place in a list counting as one; enough for any honest one.
const FUEL: u64 = 1_000_000;

/// Bytes of a template: what is longer nests deeper than it is worth.
const LONGEST: usize = 64 << 10;

/// How long one rendering may take; honest ones take a thousandth of it.
const LONGEST_TIME: Duration = Duration::from_secs(5);

/// How deep lists and mappings may lie in each other where they are printed.
const DEEPEST: usize = 64;

/// How many parts a value may have that is printed.
const LARGEST: usize = 100_000;

/// The widest that a number or an indent may be made.
const WIDEST: u64 = 1000;

/// An environment that knows Python's methods of strings and lists, which the templates of others use.
pub fn environment(syntax: SyntaxConfig) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_syntax(syntax);
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(method);
    env.set_formatter(print);
    env.add_filter("tojson", to_json);
    env
}

/// Prints a value, but for one without end.
pub fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    depth(value, DEEPEST, &mut LARGEST.clone())?;
    minijinja::escape_formatter(out, state, value)
}

/// What an error of minijinja says, in a line.
pub fn said(error: &Error) -> String {
    let what = error.detail().map_or(error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    let cause = std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
    match error.line() {
        Some(line) => format!("line {line}: {what}{cause}"),
        None => what + &cause,
    }
}

/// An error where a template is too long to be one.
pub fn check(template: &str) -> Result<()> {
    ensure!(
        template.len() <= LONGEST,
        "a template of {} bytes is too long; expected at most {LONGEST}",
        template.len()
    );
    Ok(())
}

/// Calls what renders a template, or evaluates an expression, for as long as an honest one may take. Steps are counted,
/// but not what goes on within one, such as the length of a list that was doubled sixty times.
///
/// # Errors
/// Where it panics or does not end. It is then left to itself, until the program ends with this error.
pub fn in_time<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (sender, receiver) = mpsc::channel();
    let job: Job = Box::new(move || _ = sender.send(guarded(|| Ok(f()))));
    let renderer = RENDERER.take().map_or_else(start_renderer, Ok)?;
    renderer.send(job).map_err(|_| anyhow!("the thread for templates has ended"))?;
    let Ok(result) = receiver.recv_timeout(LONGEST_TIME) else {
        bail!("it does not end within {} s", LONGEST_TIME.as_secs());
    };
    RENDERER.set(Some(renderer));
    result
}

type Job = Box<dyn FnOnce() + Send>;

thread_local! {
    /// The thread that renders for this one; none where the last was left to itself.
    static RENDERER: RefCell<Option<mpsc::Sender<Job>>> = const { RefCell::new(None) };
}

/// A thread that renders until nobody asks it to.
fn start_renderer() -> Result<mpsc::Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>();
    guard::thread()?.spawn(move || jobs.iter().for_each(|job| job()))?;
    Ok(sender)
}

/// Python's methods, but for formats that are all padding.
fn method(state: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let too_wide = |text: &str| {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
        numbers.any(|digits| digits.parse::<u64>().map_or(true, |n| n > WIDEST))
    };
    let in_braces = |text: String| text.split('{').skip(1).any(|part| too_wide(part.split('}').next().unwrap_or(part)));
    if name == "format" && in_braces(value.to_string()) {
        let message = format!("`format` asks for more than {WIDEST} characters");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    python::method(value, name, arguments).unwrap_or_else(|| unknown_method_callback(state, value, name, arguments))
}

/// minijinja's own filter, but for indents and depths without end; names in order, as jinja2's filter has them.
fn to_json(value: &Value, arguments: Kwargs) -> Result<Value, Error> {
    let indent = arguments.get::<Option<u64>>("indent").unwrap_or_default();
    if indent.is_some_and(|n| n > WIDEST) {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("`tojson` indents by more than {WIDEST}")));
    }
    depth(value, DEEPEST, &mut LARGEST.clone())?;
    let mut sorted = serde_json::to_value(value).map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))?;
    sorted.sort_all_objects();
    minijinja::filters::tojson(&Value::from(Serde(sorted)), None, arguments)
}

/// An error where a value is nested deeper than `most`, or has more than `left` parts.
fn depth(value: &Value, most: usize, left: &mut usize) -> Result<(), Error> {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Plain) {
        return Ok(());
    }
    *left = left.saturating_sub(1);
    if most == 0 || *left == 0 {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("a value is nested more than {DEEPEST} deep, or has more than {LARGEST} parts"),
        ));
    }
    let is_map = value.kind() == ValueKind::Map;
    for item in value.try_iter().into_iter().flatten() {
        let inner = if is_map { value.get_item(&item)? } else { item };
        depth(&inner, most - 1, left)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> Result<String, Error> {
        environment(SyntaxConfig::default()).render_str(template, ())
    }

    #[test]
    fn what_honest_templates_do_is_done() {
        assert_eq!(render("{{ 'a b'.split()|last ~ '%s'.strip('%') }}{{ '{:>3}'.format(7) }}").unwrap(), "bs  7");
        assert_eq!(render("{{ 'Exam of 2024: {}'.format(7) }}").unwrap(), "Exam of 2024: 7");
        assert_eq!(render("{{ {'a': [1, 2]}|tojson }}").unwrap(), "{\"a\": [1, 2]}");
        assert_eq!(
            render(
                "{% set ns = namespace(n=1) %}{% for i in range(9) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}"
            )
            .unwrap(),
            "37"
        );
    }

    #[test]
    fn what_takes_all_memory_or_never_ends_is_stopped() {
        for template in [
            "{% for i in range(100000) %}{% for j in range(100000) %}{{ j }}{% endfor %}{% endfor %}",
            "{% set a = 'x' * 90000000 %}{% set b = [a] * 1000 %}{{ b|join|length }}",
            "{{ '{:>10000000000}'.format(1) }}",
            "{{ '{:.99999}'.format(1.0) }}",
            "{{ {'a': 1}|tojson(indent=10**18) }}",
            "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}",
            "{% set ns = namespace(x=[1]) %}{% for i in range(50) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
            "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}",
        ] {
            assert!(render(template).is_err(), "{template}");
        }
        assert!(check(&"1+".repeat(50_000)).is_err());
    }

    #[test]
    fn what_does_not_end_is_not_waited_for() {
        let error = in_time(|| std::thread::sleep(Duration::from_secs(60))).unwrap_err().to_string();
        assert!(error.contains("does not end"), "{error}");
        assert!(in_time(|| -> i32 { panic!("no") }).is_err());
        assert_eq!(in_time(|| 3).unwrap(), 3);
    }
}
