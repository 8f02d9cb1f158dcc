//! Tokens as statements, by Jinja's grammar (jinja2: parser.py). What calipr cannot render as Jinja
//! does is refused here, by its name.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail, ensure};

use super::ast::{Body, Expression, For, Kind, Macro, Statement, Target};
use super::lexer::Token;

/// How deep expressions and blocks may lie in each other.
pub const DEEPEST: usize = 200;

/// Reads a whole template.
pub fn parse(tokens: Vec<(Token, usize)>) -> Result<Body> {
    let mut parser = Parser { tokens, at: 0, depth: 0, names: vec![] };
    let (body, _) = parser.body(&[])?;
    Ok(body)
}

pub struct Parser {
    pub tokens: Vec<(Token, usize)>,
    pub at: usize,
    depth: usize,
    /// Names that are used in the macros that are being read.
    pub names: Vec<HashSet<String>>,
}

impl Parser {
    pub fn token(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    pub fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, line)| *line)
    }

    pub fn wrong(&self, expected: &str) -> anyhow::Error {
        let found = match self.token() {
            None => "the template ends".to_owned(),
            Some(Token::Name(name)) => format!("there is `{name}`"),
            Some(Token::Sign(sign)) => format!("there is `{sign}`"),
            Some(Token::Text(text)) => format!("there is {text:?}"),
            Some(Token::Int(number)) => format!("there is {number}"),
            Some(Token::Float(number)) => format!("there is {number}"),
            Some(Token::PrintEnd | Token::BlockEnd) => "the tag ends".to_owned(),
            Some(Token::Data(_) | Token::PrintBegin | Token::BlockBegin) => "a tag begins".to_owned(),
        };
        anyhow!("line {}: expected {expected}, but {found}", self.line())
    }

    pub fn is_sign(&self, sign: &str) -> bool {
        matches!(self.token(), Some(Token::Sign(found)) if *found == sign)
    }

    pub fn is_name(&self, name: &str) -> bool {
        matches!(self.token(), Some(Token::Name(found)) if found == name)
    }

    pub fn take_sign(&mut self, sign: &str) -> bool {
        let is = self.is_sign(sign);
        self.at += usize::from(is);
        is
    }

    pub fn take_name(&mut self, name: &str) -> bool {
        let is = self.is_name(name);
        self.at += usize::from(is);
        is
    }

    pub fn sign(&mut self, sign: &str) -> Result<()> {
        if self.take_sign(sign) { Ok(()) } else { Err(self.wrong(&format!("`{sign}`"))) }
    }

    pub fn name(&mut self) -> Result<Arc<str>> {
        match self.token() {
            Some(Token::Name(name)) => {
                let name = Arc::from(name.as_str());
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.wrong("a name")),
        }
    }

    fn block_end(&mut self) -> Result<()> {
        match self.token() {
            Some(Token::BlockEnd) => self.at += 1,
            _ => return Err(self.wrong("the end of the tag")),
        }
        Ok(())
    }

    pub fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        ensure!(self.depth <= DEEPEST, "line {}: it is nested more than {DEEPEST} deep", self.line());
        let result = read(self);
        self.depth -= 1;
        result
    }

    /// Statements up to a tag of one of these names, which is passed over as far as its name.
    fn body(&mut self, ends: &[&str]) -> Result<(Body, String)> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let kind = match self.token() {
                None if ends.is_empty() => return Ok((body, String::new())),
                None => return Err(self.wrong(&format!("`{}`", ends.join("` or `")))),
                Some(Token::Data(text)) => {
                    let kind = Kind::Text(text.as_str().into());
                    self.at += 1;
                    kind
                }
                Some(Token::PrintBegin) => {
                    self.at += 1;
                    let value = self.tuple(true, &[])?;
                    match self.token() {
                        Some(Token::PrintEnd) => self.at += 1,
                        _ => return Err(self.wrong("the end of the tag")),
                    }
                    Kind::Print(value)
                }
                Some(_) => {
                    self.at += 1;
                    let name = self.name()?;
                    if ends.contains(&&*name) {
                        return Ok((body, name.to_string()));
                    }
                    self.deeper(|parser| parser.statement(&name))?
                }
            };
            body.push(Statement { line, kind });
        }
    }

    /// The body of a block that ends with the tag `end`.
    fn block(&mut self, end: &str) -> Result<Body> {
        self.block_end()?;
        let (body, _) = self.body(&[end])?;
        self.block_end()?;
        Ok(body)
    }

    fn statement(&mut self, name: &str) -> Result<Kind> {
        let line = self.line();
        match name {
            "if" => self.conditional(),
            "for" => self.for_loop(),
            "set" => self.set(),
            "macro" => {
                let name = self.name()?;
                let parameters = self.parameters()?;
                Ok(Kind::Macro(self.macro_of(name, parameters, "endmacro")?))
            }
            "call" => {
                let parameters = if self.is_sign("(") { self.parameters()? } else { vec![] };
                let call = self.expression()?;
                ensure!(matches!(call, Expression::Call(..)), "line {line}: expected a call after `call`");
                Ok(Kind::CallBlock { call, caller: self.macro_of("caller".into(), parameters, "endcall")? })
            }
            "filter" => {
                let filter = self.filters(None, true)?;
                Ok(Kind::FilterBlock { filter, body: self.block("endfilter")? })
            }
            "with" => {
                let mut values = Vec::new();
                while self.token() != Some(&Token::BlockEnd) {
                    if !values.is_empty() {
                        self.sign(",")?;
                    }
                    let target = self.target()?;
                    self.sign("=")?;
                    values.push((target, self.expression()?));
                }
                Ok(Kind::With(values, self.block("endwith")?))
            }
            "print" => {
                let value = self.tuple(true, &[])?;
                self.block_end()?;
                Ok(Kind::Print(value))
            }
            "generation" => Ok(Kind::Generation(self.block("endgeneration")?)),
            "break" => self.block_end().map(|()| Kind::Break),
            "continue" => self.block_end().map(|()| Kind::Continue),
            "block" | "extends" | "include" | "import" | "from" | "autoescape" => {
                bail!("line {line}: the tag `{name}` is not known to calipr")
            }
            _ => bail!("line {line}: there is no tag `{name}`"),
        }
    }

    fn conditional(&mut self) -> Result<Kind> {
        let mut branches = Vec::new();
        let mut otherwise = vec![];
        loop {
            let condition = self.tuple(false, &[])?;
            self.block_end()?;
            let (body, end) = self.body(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            match end.as_str() {
                "elif" => continue,
                "else" => otherwise = self.block("endif")?,
                _ => self.block_end()?,
            }
            return Ok(Kind::If(branches, otherwise));
        }
    }

    fn for_loop(&mut self) -> Result<Kind> {
        let target = self.targets("in")?;
        ensure!(self.take_name("in"), self.wrong("`in`"));
        let items = self.tuple(false, &["recursive"])?;
        let filter = if self.take_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.take_name("recursive");
        self.block_end()?;
        let (body, end) = self.body(&["endfor", "else"])?;
        let otherwise = match end.as_str() {
            "else" => self.block("endfor")?,
            _ => self.block_end().map(|()| vec![])?,
        };
        Ok(Kind::For(For { target, items, filter, body, otherwise, recursive }.into()))
    }

    fn set(&mut self) -> Result<Kind> {
        let target = self.targets("=")?;
        if self.take_sign("=") {
            let value = self.tuple(true, &[])?;
            self.block_end()?;
            return Ok(Kind::Set(target, value));
        }
        let filter = if self.is_sign("|") { Some(self.filters(None, false)?) } else { None };
        Ok(Kind::SetBlock { target, filter, body: self.block("endset")? })
    }

    fn macro_of(
        &mut self,
        name: Arc<str>,
        parameters: Vec<(Arc<str>, Option<Expression>)>,
        end: &str,
    ) -> Result<Arc<Macro>> {
        self.names.push(HashSet::new());
        let body = self.block(end)?;
        let names = self.names.pop().unwrap_or_default();
        let uses = |name: &str| names.contains(name) && !parameters.iter().any(|(p, _)| &**p == name);
        let (uses_caller, uses_varargs, uses_kwargs) = (uses("caller"), uses("varargs"), uses("kwargs"));
        if let Some(outer) = self.names.last_mut() {
            outer.extend(names);
        }
        Ok(Arc::new(Macro { name, body, uses_caller, uses_varargs, uses_kwargs, parameters }))
    }

    fn parameters(&mut self) -> Result<Vec<(Arc<str>, Option<Expression>)>> {
        let mut parameters: Vec<(Arc<str>, Option<Expression>)> = Vec::new();
        self.sign("(")?;
        while !self.take_sign(")") {
            if !parameters.is_empty() {
                self.sign(",")?;
                if self.take_sign(")") {
                    break;
                }
            }
            let name = self.name()?;
            let default = if self.take_sign("=") { Some(self.expression()?) } else { None };
            ensure!(
                default.is_some() || parameters.last().is_none_or(|(_, default)| default.is_none()),
                "line {}: `{name}` needs a default, as the parameter before it has one",
                self.line()
            );
            parameters.push((name, default));
        }
        Ok(parameters)
    }

    /// One or several targets with commas between them.
    fn targets(&mut self, end: &str) -> Result<Target> {
        let first = self.target()?;
        if !self.is_sign(",") {
            return Ok(first);
        }
        let mut targets = vec![first];
        while self.take_sign(",") {
            if self.is_name(end) || self.is_sign(end) {
                break;
            }
            targets.push(self.target()?);
        }
        Ok(Target::Tuple(targets))
    }

    fn target(&mut self) -> Result<Target> {
        if self.take_sign("(") {
            let target = self.targets(")")?;
            self.sign(")")?;
            return Ok(target);
        }
        let name = self.name()?;
        if self.take_sign(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        Ok(Target::Name(name))
    }
}
