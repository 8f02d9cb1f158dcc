//! Methods of Python's texts and lists that minijinja's own do not have, or have otherwise; the templates of others use them.

use minijinja::value::{Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind};

use super::WIDEST;

/// Calls a method; None where it is none of these.
pub fn method(value: &Value, name: &str, arguments: &[Value]) -> Option<Result<Value, Error>> {
    match value.as_str() {
        Some(text) => of_text(text, name, arguments),
        None if value.kind() == ValueKind::Seq && name == "index" => Some(place(value, arguments)),
        None => None,
    }
}

/// `list.index`
fn place(list: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let (wanted,): (Value,) = from_args(arguments)?;
    let found = list.try_iter()?.position(|item| item == wanted);
    found.map(Value::from).ok_or_else(|| wrong(format!("`index`: the list has no {wanted:?}")))
}

fn of_text(text: &str, name: &str, arguments: &[Value]) -> Option<Result<Value, Error>> {
    let one = |f: &dyn Fn(&str) -> Result<Value, Error>| {
        let (argument,): (&str,) = from_args(arguments)?;
        f(argument)
    };
    let three = |parts: [&str; 3]| Value::from(parts.map(Value::from).to_vec());
    Some(match name {
        // Places are those of characters.
        "index" | "rindex" => one(&|part| {
            let at = if name == "index" { text.find(part) } else { text.rfind(part) };
            let at = at.ok_or_else(|| wrong(format!("`{name}`: {part:?} is no part of the text")))?;
            Ok(Value::from(text[..at].chars().count()))
        }),
        "partition" | "rpartition" => one(&|part| {
            if part.is_empty() {
                return Err(wrong(format!("`{name}` by an empty text")));
            }
            let last = name == "rpartition";
            let found = if last { text.rsplit_once(part) } else { text.split_once(part) };
            Ok(match found {
                Some((before, after)) => three([before, part, after]),
                None if last => three(["", "", text]),
                None => three([text, "", ""]),
            })
        }),
        "removeprefix" => one(&|part| Ok(Value::from(text.strip_prefix(part).unwrap_or(text)))),
        "removesuffix" => one(&|part| Ok(Value::from(text.strip_suffix(part).unwrap_or(text)))),
        "rsplit" => split_from_the_right(text, arguments),
        "title" => from_args::<()>(arguments).map(|()| Value::from(title(text))),
        "center" | "ljust" | "rjust" | "zfill" => padded(text, name, arguments),
        _ => return None,
    })
}

fn split_from_the_right(text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (by, most): (Option<&str>, Option<i64>) = from_args(arguments)?;
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = Vec::new();
    match by {
        Some("") => return Err(wrong("`rsplit` by an empty text".into())),
        Some(by) => parts.extend(text.rsplitn(most.saturating_add(1), by)),
        // White space, however much of it, and none at the ends.
        None => {
            let mut rest = text.trim_end();
            while !rest.is_empty() {
                let at = rest.rfind(char::is_whitespace).filter(|_| parts.len() < most);
                let Some(at) = at else {
                    parts.push(rest.trim_start());
                    break;
                };
                parts.push(rest[at..].trim_start());
                rest = rest[..at].trim_end();
            }
        }
    }
    parts.reverse();
    Ok(Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>()))
}

/// Python begins a word behind whatever is no letter: "It'S".
fn title(text: &str) -> String {
    let mut behind_letter = false;
    let mut made = String::with_capacity(text.len());
    for c in text.chars() {
        match behind_letter {
            true => made.extend(c.to_lowercase()),
            false => made.extend(c.to_uppercase()),
        }
        behind_letter = c.is_lowercase() || c.is_uppercase();
    }
    made
}

fn padded(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (width, with): (u64, Option<char>) = from_args(arguments)?;
    if width > WIDEST {
        return Err(wrong(format!("`{name}` asks for more than {WIDEST} characters")));
    }
    let missing = (width as usize).saturating_sub(text.chars().count());
    let pad = |count: usize| with.unwrap_or(' ').to_string().repeat(count);
    Ok(Value::from(match name {
        "ljust" => text.to_owned() + &pad(missing),
        "rjust" => pad(missing) + text,
        "zfill" => {
            // A sign stays in front.
            let at = usize::from(text.starts_with(['+', '-']));
            format!("{}{}{}", &text[..at], "0".repeat(missing), &text[at..])
        }
        // CPython's: what is odd goes to the left where the width is odd.
        _ => {
            let left = missing / 2 + (missing & width as usize & 1);
            pad(left) + text + &pad(missing - left)
        }
    }))
}

fn wrong(said: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, said)
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;

    use super::super::environment;
    use minijinja::syntax::SyntaxConfig;

    fn render(template: &str) -> Result<String, minijinja::Error> {
        let row: serde_json::Value = serde_json::from_str(
            r#"{"t": "Été ünd it's (a) 日本ab? ", "u": "aXbXc", "l": ["x", "Y", 3], "d": {"b": 1, "a": {"z": "é", "y": 2}}, "Año": "1"}"#,
        )
        .unwrap();
        environment(SyntaxConfig::default()).render_str(template, Serde(row))
    }

    /// What CPython 3.11 and jinja2 make of the same.
    #[test]
    fn methods_are_pythons() {
        for (template, expected) in [
            ("{{ l.index('Y') }}{{ l.index(3) }}{{ 'ABCD'[l.index('x')] }}", "12A"),
            ("{{ t.index('?') }} {{ u.rindex('X') }}", "21 3"),
            ("{{ t.title() }}", "Été Ünd It'S (A) 日本Ab? "),
            ("{{ u.partition('X')|join('/') }} {{ u.rpartition('X')|join('/') }}", "a/X/bXc aXb/X/c"),
            ("{{ u.partition('-')|join('/') }} {{ u.rpartition('-')|join('/') }}", "aXbXc// //aXbXc"),
            ("{{ u.removeprefix('aX') }} {{ u.removesuffix('aX') }}", "bXc aXbXc"),
            ("{{ u.rsplit('X')|join('|') }} {{ u.rsplit('X', 1)|join('|') }}", "a|b|c aXb|c"),
            ("{{ ' a  b c '.rsplit()|join('|') }} {{ ' a  b c '.rsplit(None, 1)|join('|') }}", "a|b|c a  b|c"),
            ("{{ '7'.zfill(3) }} {{ '-7'.zfill(4) }} {{ '1234'.zfill(2) }}", "007 -007 1234"),
            (
                "[{{ u.center(8, '*') }}] [{{ 'ab'.center(5) }}] [{{ u.ljust(6) }}] [{{ u.rjust(7, '.') }}]",
                "[*aXbXc**] [  ab ] [aXbXc ] [..aXbXc]",
            ),
        ] {
            assert_eq!(render(template).unwrap(), expected, "{template}");
        }
        for wrong in ["{{ l.index('z') }}", "{{ u.index('q') }}", "{{ u.partition('') }}", "{{ u.center(10**9) }}"] {
            assert!(render(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn objects_keep_their_order_and_names_may_have_any_letters() {
        assert_eq!(render("{% for key, value in d.items() %}{{ key }}{% endfor %}").unwrap(), "ba");
        assert_eq!(render("{{ d.keys()|join }} {{ d|first }} {{ Año }}").unwrap(), "ba b 1");
        // As jinja2's filter sorts them.
        assert_eq!(render("{{ d|tojson }}").unwrap(), "{\"a\": {\"y\": 2, \"z\": \"é\"}, \"b\": 1}");
    }
}
