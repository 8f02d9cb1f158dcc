//! Python's ways to format: `%` and `str.format`.

use anyhow::{Context, Result, bail, ensure};

use super::value::{Dict, Value};

/// The widest that a field may be made.
const WIDEST: usize = 1000;

/// How a number or a text is laid out.
#[derive(Default)]
struct Layout {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
    /// Of `%`, where texts stand to the right; in `str.format` they stand to the left.
    percent: bool,
}

/// `format % arguments`
pub fn percent(format: &str, arguments: &Value) -> Result<String> {
    let several = match arguments {
        Value::Tuple(items) => items.items.clone(),
        other => vec![other.clone()],
    };
    let (mut next, mut by_name) = (several.iter(), false);
    let mut text = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut layout = Layout { percent: true, ..Layout::default() };
        let mut named = None;
        if chars.next_if_eq(&'(').is_some() {
            let name: String = chars.by_ref().take_while(|c| *c != ')').collect();
            let Value::Dict(dict) = arguments else { bail!("format requires a mapping") };
            named = Some(dict.named(&name).with_context(|| format!("there is no '{name}' to format"))?.clone());
            by_name = true;
        }
        while let Some(flag) = chars.next_if(|c| "-+ #0".contains(*c)) {
            match flag {
                '-' => layout.align = Some('<'),
                '0' => layout.zero = true,
                '#' => layout.alternate = true,
                '+' => layout.sign = Some('+'),
                _ => layout.sign = layout.sign.or(Some(' ')),
            }
        }
        let mut number = |next: &mut std::slice::Iter<Value>| -> Result<Option<i128>> {
            if chars.next_if_eq(&'*').is_some() {
                let given = next.next().and_then(Value::as_int);
                return Ok(Some(given.context("* wants int")?));
            }
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            Ok(if digits.is_empty() { None } else { Some(digits.parse()?) })
        };
        let mut width = number(&mut next)?.unwrap_or(0);
        if width < 0 {
            (width, layout.align) = (-width, Some('<'));
        }
        layout.width = checked(width)?;
        if chars.next_if_eq(&'.').is_some() {
            let mut number = |next: &mut std::slice::Iter<Value>| -> Result<i128> {
                if chars.next_if_eq(&'*').is_some() {
                    return next.next().and_then(Value::as_int).context("* wants int");
                }
                let mut digits = String::new();
                while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                    digits.push(digit);
                }
                Ok(if digits.is_empty() { 0 } else { digits.parse()? })
            };
            layout.precision = Some(checked(number(&mut next)?)?);
        }
        while chars.next_if(|c| "hlL".contains(*c)).is_some() {}
        let kind = chars.next().context("incomplete format")?;
        if kind == '%' {
            text.push('%');
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => next.next().context("not enough arguments for format string")?.clone(),
        };
        text.push_str(&converted(kind, &value, layout)?);
    }
    // Whatever has items by a key or a place counts as one.
    let is_mapping =
        matches!(arguments, Value::Dict(_) | Value::List(_) | Value::View("range", _) | Value::Undefined(_));
    ensure!(by_name || is_mapping || next.next().is_none(), "not all arguments converted during string formatting");
    Ok(text)
}

fn converted(kind: char, value: &Value, mut layout: Layout) -> Result<String> {
    match kind {
        's' | 'r' | 'a' => {
            let mut text = String::new();
            match kind {
                's' => text.push_str(&value.print()?),
                'r' => value.represent(&mut text)?,
                _ => bail!("the format %a is not known to calipr"),
            }
            layout.zero = false;
            layout.sign = None;
            Ok(layout.text(&text))
        }
        'c' => match value {
            Value::Text(text) if text.chars().count() == 1 => Ok(layout.text(text)),
            _ => bail!("the format %c of a value of type {} is not known to calipr", value.kind()),
        },
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            value.defined()?;
            let number = match value {
                Value::Float(number) if matches!(kind, 'd' | 'i' | 'u') => truncated(*number)?,
                other => other
                    .as_int()
                    .with_context(|| format!("%{kind} format: a real number is required, not {}", other.kind()))?,
            };
            ensure!(layout.precision.is_none(), "a precision of whole numbers is not known to calipr");
            layout.kind = Some(if matches!(kind, 'i' | 'u') { 'd' } else { kind });
            layout.integer(number)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            value.defined()?;
            let number = value.as_float().with_context(|| format!("must be real number, not {}", value.kind()))?;
            layout.kind = Some(kind);
            layout.float(number)
        }
        other => bail!("unsupported format character '{other}'"),
    }
}

/// `int(number)`
pub fn truncated(number: f64) -> Result<i128> {
    ensure!(number.is_finite(), "cannot convert float {} to integer", super::value::float(number));
    ensure!(number.abs() < 1e38, "the number {number:e} is too large");
    Ok(number.trunc() as i128)
}

fn checked(width: i128) -> Result<usize> {
    let width = usize::try_from(width).ok().filter(|width| *width <= WIDEST);
    width.with_context(|| format!("a format asks for more than {WIDEST} characters"))
}

/// `format.format(*positional, **named)`
pub fn braces(format: &str, positional: &[Value], named: &Dict) -> Result<String> {
    let mut text = String::new();
    let mut rest = format;
    let mut automatic = 0;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let doubled = rest[at..].starts_with("{{") || rest[at..].starts_with("}}");
        if doubled {
            text.push_str(&rest[at..=at]);
            rest = &rest[at + 2..];
            continue;
        }
        ensure!(rest[at..].starts_with('{'), "Single '}}' encountered in format string");
        let (field, after) = rest[at + 1..].split_once('}').context("expected '}' before end of string")?;
        ensure!(!field.contains('{'), "a format within a format is not known to calipr");
        rest = after;
        let (field, layout) = field.split_once(':').unwrap_or((field, ""));
        let (name, conversion) = field.split_once('!').unwrap_or((field, ""));
        ensure!(!name.contains(['.', '[']), "a format with an attribute, {{{name}}}, is not known to calipr");
        let value = if name.is_empty() {
            automatic += 1;
            positional.get(automatic - 1)
        } else if let Ok(index) = name.parse::<usize>() {
            positional.get(index)
        } else {
            named.named(name)
        };
        let value = value.with_context(|| format!("there is no value for {{{name}}}"))?;
        let value = match conversion {
            "" => value.clone(),
            "s" => Value::Text(value.print()?),
            "r" => {
                let mut text = String::new();
                value.represent(&mut text)?;
                Value::text(text)
            }
            other => bail!("the conversion !{other} is not known to calipr"),
        };
        text.push_str(&formatted(&value, layout)?);
    }
    text.push_str(rest);
    Ok(text)
}

/// `format(value, layout)`
fn formatted(value: &Value, layout: &str) -> Result<String> {
    if layout.is_empty() {
        return Ok(value.print()?.to_string());
    }
    let layout = Layout::parse(layout)?;
    match value {
        Value::Text(text) => {
            ensure!(layout.kind.is_none_or(|kind| kind == 's'), "a text has no such format");
            ensure!(layout.sign.is_none() && layout.grouping.is_none() && !layout.zero, "a text has no such format");
            Ok(layout.text(text))
        }
        Value::Int(number) if layout.kind.is_none_or(|kind| "dxXob".contains(kind)) => {
            ensure!(layout.precision.is_none(), "Precision not allowed in integer format specifier");
            layout.integer(*number)
        }
        Value::Int(_) | Value::Float(_) => layout.float(value.as_float().unwrap_or_default()),
        other => bail!("unsupported format string passed to {}.__format__", other.kind()),
    }
}

impl Layout {
    /// `[[fill]align][sign][#][0][width][grouping][.precision][type]`
    fn parse(text: &str) -> Result<Self> {
        let mut layout = Self::default();
        let chars: Vec<char> = text.chars().collect();
        let is_align = |c: Option<&char>| c.is_some_and(|c| "<>^=".contains(*c));
        let mut at = 0;
        if is_align(chars.get(1)) {
            (layout.fill, layout.align, at) = (Some(chars[0]), Some(chars[1]), 2);
        } else if is_align(chars.first()) {
            (layout.align, at) = (Some(chars[0]), 1);
        }
        let take = |at: &mut usize, known: &str| {
            let found = chars.get(*at).copied().filter(|c| known.contains(*c));
            *at += usize::from(found.is_some());
            found
        };
        layout.sign = take(&mut at, "+- ");
        layout.alternate = take(&mut at, "#").is_some();
        layout.zero = take(&mut at, "0").is_some();
        let number = |at: &mut usize| -> Result<Option<usize>> {
            let digits: String = chars[*at..].iter().take_while(|c| c.is_ascii_digit()).collect();
            *at += digits.len();
            if digits.is_empty() { Ok(None) } else { Ok(Some(checked(digits.parse()?)?)) }
        };
        layout.width = number(&mut at)?.unwrap_or(0);
        layout.grouping = take(&mut at, ",_");
        if take(&mut at, ".").is_some() {
            layout.precision = Some(number(&mut at)?.context("Format specifier missing precision")?);
        }
        layout.kind = take(&mut at, "sdxXobeEfFgG%");
        ensure!(at == chars.len(), "the format \"{text}\" is not known to calipr");
        Ok(layout)
    }

    fn text(&self, text: &str) -> String {
        let text: String = text.chars().take(self.precision.unwrap_or(usize::MAX)).collect();
        self.padded("", &text, if self.percent { '>' } else { '<' })
    }

    fn integer(&self, number: i128) -> Result<String> {
        let digits = number.unsigned_abs();
        let (prefix, digits) = match self.kind.unwrap_or('d') {
            'x' => ("0x", format!("{digits:x}")),
            'X' => ("0X", format!("{digits:X}")),
            'o' => ("0o", format!("{digits:o}")),
            'b' => ("0b", format!("{digits:b}")),
            _ => ("", digits.to_string()),
        };
        ensure!(self.grouping.is_none() || prefix.is_empty(), "grouped digits of this base are not known to calipr");
        let sign = format!("{}{}", self.signed(number < 0), if self.alternate { prefix } else { "" });
        Ok(self.padded(&sign, &self.grouped(&digits), '>'))
    }

    fn float(&self, number: f64) -> Result<String> {
        ensure!(number.is_finite(), "the format of {} is not known to calipr", super::value::float(number));
        let magnitude = number.abs();
        let kind = self.kind.unwrap_or('r');
        let precision = self.precision.unwrap_or(6);
        let text = match kind.to_ascii_lowercase() {
            'f' => format!("{magnitude:.precision$}"),
            '%' => format!("{:.precision$}%", magnitude * 100.0),
            'e' => scientific(magnitude, precision),
            'g' => general(magnitude, precision),
            _ if self.precision.is_some() => bail!("a precision without a type is not known to calipr"),
            _ => super::value::float(magnitude),
        };
        let text = if kind.is_ascii_uppercase() { text.to_uppercase() } else { text };
        let (whole, rest) = text.split_at(text.find(['.', 'e', 'E', '%']).unwrap_or(text.len()));
        let text = self.grouped(whole) + rest;
        Ok(self.padded(self.signed(number.is_sign_negative()), &text, '>'))
    }

    fn signed(&self, negative: bool) -> &'static str {
        match (negative, self.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(' ')) => " ",
            _ => "",
        }
    }

    fn grouped(&self, digits: &str) -> String {
        let Some(grouping) = self.grouping else { return digits.to_owned() };
        let mut text = String::new();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                text.push(grouping);
            }
            text.push(digit);
        }
        text
    }

    fn padded(&self, sign: &str, text: &str, default: char) -> String {
        let missing = self.width.saturating_sub(sign.len() + text.chars().count());
        let zero = self.zero && self.align.is_none();
        let align = self.align.unwrap_or(if zero { '=' } else { default });
        let fill = self.fill.unwrap_or(if zero { '0' } else { ' ' });
        let pad = |count: usize| fill.to_string().repeat(count);
        match align {
            '<' => format!("{sign}{text}{}", pad(missing)),
            '^' => format!("{}{sign}{text}{}", pad(missing / 2), pad(missing - missing / 2)),
            '=' => format!("{sign}{}{text}", pad(missing)),
            _ => format!("{}{sign}{text}", pad(missing)),
        }
    }
}

fn scientific(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// As C's `%g`: so many digits in all, without zeros at the end.
fn general(number: f64, precision: usize) -> String {
    let precision = precision.max(1);
    let text = format!("{number:.*e}", precision - 1);
    let exponent: i32 = text.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let short = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent < -4 || exponent >= precision as i32 {
        let text = scientific(number, precision - 1);
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{exponent}", short(digits));
    }
    short(&format!("{number:.*}", (precision as i32 - 1 - exponent).max(0) as usize))
}
