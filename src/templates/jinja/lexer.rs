//! A template's text as tokens, white space controlled as `trim_blocks` and `lstrip_blocks` have it (Jinja: lexer.py).

use anyhow::{Result, bail, ensure};

use super::methods::is_space;

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// Text outside of tags.
    Data(String),
    PrintBegin,
    PrintEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Text(String),
    Int(i128),
    Float(f64),
    Sign(&'static str),
}

/// Longer ones first.
const SIGNS: [&str; 25] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",",
];

/// The tokens of a template, each with its line.
pub fn tokens(source: &str) -> Result<Vec<(Token, usize)>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    // Jinja drops one line end at the end of a template.
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, at: 0, line_starts: true, tokens: vec![], counted: 0, line: 1 };
    lexer.run()?;
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    /// Whether what was read last ended in a line end, or nothing was.
    line_starts: bool,
    tokens: Vec<(Token, usize)>,
    /// Line ends up to here are counted in `line`.
    counted: usize,
    line: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn push(&mut self, token: Token) {
        self.line += self.source[self.counted..self.at].matches('\n').count();
        self.counted = self.at;
        self.tokens.push((token, self.line));
    }

    fn run(&mut self) -> Result<()> {
        loop {
            let rest = self.rest();
            let next = ["{{", "{%", "{#"].iter().filter_map(|tag| Some((rest.find(tag)?, *tag))).min();
            let Some((length, tag)) = next else {
                if !rest.is_empty() {
                    self.push(Token::Data(rest.to_owned()));
                }
                return Ok(());
            };
            let before = &rest[..length];
            let inside = &rest[length + 2..];
            let sign = inside.chars().next().filter(|c| ['-', '+'].contains(c));
            let text = self.stripped(before, sign, tag != "{{");
            if !text.is_empty() {
                self.push(Token::Data(text.to_owned()));
            }
            self.at += length + 2 + sign.map_or(0, char::len_utf8);
            match tag {
                "{#" => self.comment()?,
                "{%" if self.raw()? => {}
                "{%" => {
                    self.push(Token::BlockBegin);
                    self.inside(false)?;
                }
                _ => {
                    self.push(Token::PrintBegin);
                    self.inside(true)?;
                }
            }
        }
    }

    /// The text before a tag without what the tag takes away from it.
    fn stripped(&self, text: &'a str, sign: Option<char>, is_block: bool) -> &'a str {
        if sign == Some('-') {
            return text.trim_end_matches(is_space);
        }
        if sign.is_none() && is_block {
            let line = text.rfind('\n').map_or(0, |at| at + 1);
            if (line > 0 || self.line_starts) && text[line..].chars().all(is_space) {
                return &text[..line];
            }
        }
        text
    }

    /// Passes over the end of a tag, if it is here, with the white space that it takes along.
    fn end(&mut self, end: &str, trims: bool) -> bool {
        let rest = self.rest();
        let (sign, after) = match rest.strip_prefix(['-', '+']) {
            Some(after) if after.starts_with(end) => (rest.chars().next(), &after[end.len()..]),
            _ => match rest.strip_prefix(end) {
                Some(after) => (None, after),
                None => return false,
            },
        };
        if sign == Some('+') && !trims {
            return false;
        }
        let after = match sign {
            Some('-') => after.trim_start_matches(is_space),
            None if trims => after.strip_prefix('\n').unwrap_or(after),
            _ => after,
        };
        self.at = self.source.len() - after.len();
        self.line_starts = self.source[..self.at].ends_with('\n');
        true
    }

    fn comment(&mut self) -> Result<()> {
        loop {
            if self.end("#}", true) {
                return Ok(());
            }
            match self.rest().chars().next() {
                Some(c) => self.at += c.len_utf8(),
                None => bail!("a comment has no end"),
            }
        }
    }

    /// Reads `{% raw %}`, if this is one, up to its end.
    fn raw(&mut self) -> Result<bool> {
        let start = self.at;
        let Some(after) = self.rest().trim_start_matches(is_space).strip_prefix("raw") else { return Ok(false) };
        self.at = self.source.len() - after.trim_start_matches(is_space).len();
        // Its line end is kept.
        if !self.end("%}", false) {
            self.at = start;
            return Ok(false);
        }
        let text = self.rest();
        for (length, _) in text.match_indices("{%") {
            let inside = &text[length + 2..];
            let sign = inside.chars().next().filter(|c| ['-', '+'].contains(c));
            let name = inside[sign.map_or(0, char::len_utf8)..].trim_start_matches(is_space);
            let Some(after) = name.strip_prefix("endraw") else { continue };
            let raw = self.stripped(&text[..length], sign, true);
            let position = self.at;
            self.at = self.source.len() - after.trim_start_matches(is_space).len();
            if self.end("%}", true) {
                if !raw.is_empty() {
                    self.push(Token::Data(raw.to_owned()));
                }
                return Ok(true);
            }
            self.at = position;
        }
        bail!("`raw` has no end")
    }

    /// The tokens of a tag up to its end.
    fn inside(&mut self, is_print: bool) -> Result<()> {
        let mut open = Vec::new();
        loop {
            let space = self.rest().len() - self.rest().trim_start_matches(is_space).len();
            let ends = |lexer: &mut Self| match is_print {
                true => lexer.end("}}", false),
                false => lexer.end("%}", true),
            };
            if open.is_empty() && ends(self) {
                self.push(if is_print { Token::PrintEnd } else { Token::BlockEnd });
                return Ok(());
            }
            if space > 0 {
                self.at += space;
                continue;
            }
            let rest = self.rest();
            let Some(first) = rest.chars().next() else { bail!("a tag has no end") };
            let token = if first.is_ascii_digit() {
                self.number()?
            } else if first.is_alphabetic() || first == '_' {
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                self.at += length;
                Token::Name(rest[..length].to_owned())
            } else if first == '\'' || first == '"' {
                Token::Text(self.text(first)?)
            } else {
                let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) else {
                    bail!("line {}: {first:?} has no place in a tag", self.line);
                };
                match sign {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" => {
                        ensure!(open.pop() == Some(sign), "line {}: {sign} closes what is not open", self.line);
                    }
                    _ => {}
                }
                self.at += sign.len();
                Token::Sign(sign)
            };
            self.push(token);
        }
    }

    fn number(&mut self) -> Result<Token> {
        let rest = self.rest();
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
        for (prefix, base) in [("0x", 16), ("0o", 8), ("0b", 2)] {
            if let Some(after) = rest.get(..2).filter(|p| p.eq_ignore_ascii_case(prefix)).map(|_| &rest[2..]) {
                let length = after.find(|c: char| !c.is_digit(base) && c != '_').unwrap_or(after.len());
                self.at += 2 + length;
                return Ok(Token::Int(i128::from_str_radix(&after[..length].replace('_', ""), base)?));
            }
        }
        let mut length = digits(rest);
        let is_digit = |at: usize| rest[at..].starts_with(|c: char| c.is_ascii_digit());
        let mut is_float = false;
        // What follows a dot as in `a.0.1` is an index.
        let after_dot = self.source[..self.at].ends_with('.');
        if !after_dot && rest[length..].starts_with('.') && is_digit(length + 1) {
            is_float = true;
            length += 1 + digits(&rest[length + 1..]);
        }
        if !after_dot && rest[length..].starts_with(['e', 'E']) {
            let signed = usize::from(rest[length + 1..].starts_with(['+', '-']));
            if is_digit(length + 1 + signed) {
                is_float = true;
                length += 1 + signed + digits(&rest[length + 1 + signed..]);
            }
        }
        self.at += length;
        let number = rest[..length].replace('_', "");
        Ok(if is_float { Token::Float(number.parse()?) } else { Token::Int(number.parse()?) })
    }

    /// A text in quotes, its escapes resolved as Python's `unicode-escape` does it.
    fn text(&mut self, quote: char) -> Result<String> {
        let line = self.line;
        self.at += 1;
        let mut text = String::new();
        let next = |lexer: &mut Self| -> Result<char> {
            let Some(c) = lexer.rest().chars().next() else { bail!("line {line}: a text has no end") };
            lexer.at += c.len_utf8();
            Ok(c)
        };
        loop {
            match next(self)? {
                c if c == quote => return Ok(text),
                '\\' => match next(self)? {
                    '\n' => {}
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'a' => text.push('\x07'),
                    'b' => text.push('\x08'),
                    'f' => text.push('\x0c'),
                    'v' => text.push('\x0b'),
                    c @ ('\\' | '\'' | '"') => text.push(c),
                    c @ ('x' | 'u' | 'U') => {
                        let count =
                            [('x', 2), ('u', 4), ('U', 8)].iter().find(|(name, _)| *name == c).map_or(0, |p| p.1);
                        let digits = self.rest().get(..count).unwrap_or_default();
                        let code = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
                        let Some(code) = code else { bail!("line {line}: \\{c}{digits} is no character") };
                        self.at += count;
                        text.push(code);
                    }
                    c @ '0'..='7' => {
                        let more = self.rest().chars().take(2).take_while(|d| d.is_digit(8)).count();
                        let digits = format!("{c}{}", &self.rest()[..more]);
                        self.at += more;
                        text.extend(char::from_u32(u32::from_str_radix(&digits, 8)?));
                    }
                    'N' => bail!("line {line}: names of characters (\\N) are not known"),
                    c if c.is_ascii() => text.extend(['\\', c]),
                    // Jinja escapes what is not ASCII before Python sees the backslash.
                    c => text.extend(format!("\\{}", escaped(c)).chars()),
                },
                c => text.push(c),
            }
        }
    }
}

fn escaped(c: char) -> String {
    match u32::from(c) {
        code @ ..=0xff => format!("x{code:02x}"),
        code @ ..=0xffff => format!("u{code:04x}"),
        code => format!("U{code:08x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(source: &str) -> Vec<String> {
        let tokens = tokens(source).unwrap().into_iter();
        tokens.filter_map(|(token, _)| if let Token::Data(text) = token { Some(text) } else { None }).collect()
    }

    #[test]
    fn blocks_take_their_line_end_and_what_indents_them() {
        assert_eq!(data("a\n  {% x %}\nb"), ["a\n", "b"]);
        assert_eq!(data("a\n  {%+ x %}\n b {{ x }}\nc\n"), ["a\n  ", " b ", "\nc"]);
        assert_eq!(data("a \n {%- x -%} \n b"), ["a", "b"]);
        assert_eq!(data("a {# x #}\n {# y +#}\nb"), ["a ", "\nb"]);
        assert_eq!(data("{% raw %}\n{{ x }}\n  {% endraw %}\nb"), ["\n{{ x }}\n", "b"]);
    }

    #[test]
    fn braces_that_are_open_do_not_end_a_tag() {
        let tokens = tokens("{{ {'a': {}} }}").unwrap();
        assert_eq!(tokens.iter().filter(|(t, _)| *t == Token::Sign("}")).count(), 2);
    }

    #[test]
    fn texts_have_pythons_escapes() {
        let text = |source: &str| tokens(&format!("{{{{ {source} }}}}")).unwrap()[1].0.clone();
        assert_eq!(text(r"'a\n\x41\u00e9\'\q\101'"), Token::Text("a\nAé'\\qA".into()));
        assert_eq!(text(r"'\é'"), Token::Text("\\xe9".into()));
    }
}
