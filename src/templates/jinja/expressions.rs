//! Tokens as expressions, by Jinja's grammar (jinja2: parser.py).

use std::sync::Arc;

use anyhow::{Result, bail, ensure};

use super::ast::{Arguments, Comparison, Expression, Operator};
use super::lexer::Token;
use super::parser::{DEEPEST, Parser};
use super::{conditions, filters, methods};

impl Parser {
    /// An expression, or several with commas between them, which are a tuple. Before a loop's `if` there is no
    /// conditional expression.
    pub fn tuple(&mut self, conditional: bool, ends: &[&str]) -> Result<Expression> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            let ended = match self.token() {
                None | Some(Token::PrintEnd | Token::BlockEnd | Token::Sign(")")) => true,
                Some(Token::Name(name)) => ends.contains(&name.as_str()),
                _ => false,
            };
            if ended {
                break;
            }
            items.push(if conditional { self.expression()? } else { self.deeper(Self::or)? });
            if !self.take_sign(",") {
                break;
            }
            is_tuple = true;
        }
        match items.pop() {
            None => Err(self.wrong("an expression")),
            Some(only) if !is_tuple => Ok(only),
            Some(last) => {
                items.push(last);
                Ok(Expression::Tuple(items))
            }
        }
    }

    pub fn expression(&mut self) -> Result<Expression> {
        self.deeper(|parser| {
            let mut value = parser.or()?;
            while parser.take_name("if") {
                let condition = parser.or()?.into();
                let otherwise = if parser.take_name("else") { Some(parser.expression()?.into()) } else { None };
                value = Expression::Conditional { condition, then: value.into(), otherwise };
            }
            Ok(value)
        })
    }

    fn or(&mut self) -> Result<Expression> {
        let mut left = self.and()?;
        while self.take_name("or") {
            left = Expression::Or(left.into(), self.and()?.into());
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expression> {
        let mut left = self.not()?;
        while self.take_name("and") {
            left = Expression::And(left.into(), self.not()?.into());
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expression> {
        if self.take_name("not") {
            return Ok(Expression::Not(self.deeper(Self::not)?.into()));
        }
        let first = self.sum()?;
        let mut others = Vec::new();
        loop {
            let comparison = match self.token() {
                Some(Token::Sign("==")) => Comparison::Equal,
                Some(Token::Sign("!=")) => Comparison::NotEqual,
                Some(Token::Sign("<")) => Comparison::Less,
                Some(Token::Sign("<=")) => Comparison::LessOrEqual,
                Some(Token::Sign(">")) => Comparison::Greater,
                Some(Token::Sign(">=")) => Comparison::GreaterOrEqual,
                Some(Token::Name(name)) if name == "in" => Comparison::In,
                Some(Token::Name(name)) if name == "not" && self.is_after("in") => {
                    self.at += 1;
                    Comparison::NotIn
                }
                _ => break,
            };
            self.at += 1;
            others.push((comparison, self.sum()?));
        }
        Ok(if others.is_empty() { first } else { Expression::Compared(first.into(), others) })
    }

    /// Whether the token after this one is this name.
    fn is_after(&self, name: &str) -> bool {
        matches!(self.tokens.get(self.at + 1), Some((Token::Name(found), _)) if found == name)
    }

    fn sum(&mut self) -> Result<Expression> {
        let mut left = self.concatenation()?;
        loop {
            let operator = match self.token() {
                Some(Token::Sign("+")) => Operator::Add,
                Some(Token::Sign("-")) => Operator::Subtract,
                _ => return Ok(left),
            };
            self.at += 1;
            left = Expression::Binary(operator, left.into(), self.concatenation()?.into());
        }
    }

    fn concatenation(&mut self) -> Result<Expression> {
        let first = self.product()?;
        if !self.is_sign("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.take_sign("~") {
            parts.push(self.product()?);
        }
        Ok(Expression::Concatenated(parts))
    }

    fn product(&mut self) -> Result<Expression> {
        let mut left = self.power()?;
        loop {
            let operator = match self.token() {
                Some(Token::Sign("*")) => Operator::Multiply,
                Some(Token::Sign("/")) => Operator::Divide,
                Some(Token::Sign("//")) => Operator::FloorDivide,
                Some(Token::Sign("%")) => Operator::Remainder,
                _ => return Ok(left),
            };
            self.at += 1;
            left = Expression::Binary(operator, left.into(), self.power()?.into());
        }
    }

    fn power(&mut self) -> Result<Expression> {
        let mut left = self.unary(true)?;
        while self.take_sign("**") {
            left = Expression::Binary(Operator::Power, left.into(), self.unary(true)?.into());
        }
        Ok(left)
    }

    fn unary(&mut self, filtered: bool) -> Result<Expression> {
        let value = if self.take_sign("-") {
            Expression::Negative(self.deeper(|p| p.unary(false))?.into())
        } else if self.take_sign("+") {
            Expression::Positive(self.deeper(|p| p.unary(false))?.into())
        } else {
            self.primary()?
        };
        let value = self.postfix(value)?;
        if filtered { self.filters_and_tests(value) } else { Ok(value) }
    }

    fn primary(&mut self) -> Result<Expression> {
        let token = self.token().cloned();
        match token {
            Some(Token::Name(name)) => {
                self.at += 1;
                Ok(match name.as_str() {
                    "true" | "True" => Expression::Bool(true),
                    "false" | "False" => Expression::Bool(false),
                    "none" | "None" => Expression::None,
                    "lipsum" | "cycler" | "joiner" | "self" => {
                        bail!("line {}: `{name}` is not known to calipr", self.line())
                    }
                    _ => {
                        let text = Arc::from(name.as_str());
                        if let Some(names) = self.names.last_mut() {
                            names.insert(name);
                        }
                        Expression::Name(text)
                    }
                })
            }
            Some(Token::Text(mut text)) => {
                self.at += 1;
                while let Some(Token::Text(more)) = self.token() {
                    text += more;
                    self.at += 1;
                }
                Ok(Expression::Text(text.into()))
            }
            Some(Token::Int(number)) => {
                self.at += 1;
                Ok(Expression::Int(number))
            }
            Some(Token::Float(number)) => {
                self.at += 1;
                Ok(Expression::Float(number))
            }
            Some(Token::Sign("(")) => {
                self.at += 1;
                let value = match self.is_sign(")") {
                    true => Expression::Tuple(vec![]),
                    false => self.deeper(|p| p.tuple(true, &[]))?,
                };
                self.sign(")")?;
                Ok(value)
            }
            Some(Token::Sign("[")) => {
                self.at += 1;
                let mut items = Vec::new();
                while !self.take_sign("]") {
                    items.push(self.expression()?);
                    if !self.is_sign("]") {
                        self.sign(",")?;
                    }
                }
                Ok(Expression::List(items))
            }
            Some(Token::Sign("{")) => {
                self.at += 1;
                let mut items = Vec::new();
                while !self.take_sign("}") {
                    let key = self.expression()?;
                    self.sign(":")?;
                    items.push((key, self.expression()?));
                    if !self.is_sign("}") {
                        self.sign(",")?;
                    }
                }
                Ok(Expression::Dict(items))
            }
            _ => Err(self.wrong("an expression")),
        }
    }

    fn postfix(&mut self, mut value: Expression) -> Result<Expression> {
        let mut steps = 0;
        loop {
            steps += 1;
            ensure!(steps <= DEEPEST, "line {}: it is nested more than {DEEPEST} deep", self.line());
            if self.take_sign(".") {
                value = match self.token() {
                    Some(Token::Int(number)) => {
                        let index = Expression::Int(*number);
                        self.at += 1;
                        Expression::Item(value.into(), index.into())
                    }
                    _ => Expression::Attribute(value.into(), self.name()?),
                };
            } else if self.take_sign("[") {
                value = self.subscript(value)?;
            } else if self.is_sign("(") {
                if let Expression::Attribute(_, name) = &value {
                    ensure!(
                        !methods::is_unknown(name),
                        "line {}: the method `{name}` is not known to calipr",
                        self.line()
                    );
                }
                value = Expression::Call(value.into(), self.arguments()?);
            } else {
                return Ok(value);
            }
        }
    }

    /// What follows `[`.
    fn subscript(&mut self, value: Expression) -> Result<Expression> {
        let mut parts: [Option<Box<Expression>>; 3] = [None, None, None];
        let mut count = 0;
        loop {
            if !self.is_sign(":") && !self.is_sign("]") {
                parts[count] = Some(self.expression()?.into());
            }
            if count < 2 && self.take_sign(":") {
                count += 1;
                continue;
            }
            break;
        }
        if self.is_sign(",") {
            bail!("line {}: an index with commas is not known to calipr", self.line());
        }
        self.sign("]")?;
        match (count, parts) {
            (0, [Some(index), ..]) => Ok(Expression::Item(value.into(), index)),
            (0, _) => Err(self.wrong("an index")),
            (_, parts) => Ok(Expression::Slice(value.into(), parts)),
        }
    }

    fn filters_and_tests(&mut self, mut value: Expression) -> Result<Expression> {
        let mut steps = 0;
        loop {
            steps += 1;
            ensure!(steps <= DEEPEST, "line {}: it is nested more than {DEEPEST} deep", self.line());
            if self.is_sign("|") {
                value = self.filters(Some(value), false)?;
            } else if self.take_name("is") {
                value = self.test(value)?;
            } else if self.is_sign("(") {
                value = Expression::Call(value.into(), self.arguments()?);
            } else {
                return Ok(value);
            }
        }
    }

    /// Filters one after the other; `started` where the first has no `|` in front, as in a block.
    pub fn filters(&mut self, value: Option<Expression>, mut started: bool) -> Result<Expression> {
        let mut value = value;
        let mut count = 0;
        while started || self.take_sign("|") {
            started = false;
            count += 1;
            ensure!(count <= DEEPEST, "line {}: it has more than {DEEPEST} filters", self.line());
            let line = self.line();
            let name = self.name()?;
            ensure!(filters::NAMES.contains(&&*name), "line {line}: the filter `{name}` is not known to calipr");
            let arguments = if self.is_sign("(") { self.arguments()? } else { Arguments::default() };
            if ["map", "select", "reject", "selectattr", "rejectattr"].contains(&&*name) {
                self.check_named(&name, &arguments, line)?;
            }
            value = Some(Expression::Filter(value.map(Box::new), name, arguments));
        }
        value.ok_or_else(|| self.wrong("a filter"))
    }

    /// The names of filters and tests that filters are given, as far as they are written out.
    fn check_named(&self, filter: &str, arguments: &Arguments, line: usize) -> Result<()> {
        let at = usize::from(filter.ends_with("attr"));
        let Some(Expression::Text(name)) = arguments.positional.get(at) else { return Ok(()) };
        let (what, known) = match filter {
            // A list of marked texts is not known.
            "map" => ("filter", filters::NAMES.contains(&&**name) && &**name != "safe"),
            _ => ("test", conditions::NAMES.contains(&&**name)),
        };
        ensure!(known, "line {line}: the {what} `{name}` is not known to calipr");
        Ok(())
    }

    fn test(&mut self, value: Expression) -> Result<Expression> {
        let negated = self.take_name("not");
        let line = self.line();
        let name = self.name()?;
        ensure!(conditions::NAMES.contains(&&*name), "line {line}: the test `{name}` is not known to calipr");
        let mut arguments = Arguments::default();
        if self.is_sign("(") {
            arguments = self.arguments()?;
        } else if match self.token() {
            Some(Token::Name(name)) => !["else", "or", "and"].contains(&name.as_str()),
            Some(Token::Text(_) | Token::Int(_) | Token::Float(_) | Token::Sign("[" | "{")) => true,
            _ => false,
        } {
            ensure!(!self.is_name("is"), "line {line}: tests cannot be chained with `is`");
            let argument = self.primary()?;
            arguments.positional.push(self.postfix(argument)?);
        }
        let test = Expression::Test(value.into(), name, arguments);
        Ok(if negated { Expression::Not(test.into()) } else { test })
    }

    fn arguments(&mut self) -> Result<Arguments> {
        self.deeper(|parser| {
            let mut arguments = Arguments::default();
            parser.sign("(")?;
            while !parser.take_sign(")") {
                if parser.take_sign("**") {
                    arguments.named_rest = Some(parser.expression()?.into());
                } else if parser.take_sign("*") {
                    arguments.rest = Some(parser.expression()?.into());
                } else if matches!(parser.tokens.get(parser.at + 1), Some((Token::Sign("="), _)))
                    && matches!(parser.token(), Some(Token::Name(_)))
                {
                    let name = parser.name()?;
                    parser.sign("=")?;
                    arguments.named.push((name, parser.expression()?));
                } else {
                    ensure!(
                        arguments.named.is_empty() && arguments.named_rest.is_none(),
                        "line {}: an argument without a name follows one with a name",
                        parser.line()
                    );
                    arguments.positional.push(parser.expression()?);
                }
                if !parser.is_sign(")") {
                    parser.sign(",")?;
                }
            }
            Ok(arguments)
        })
    }
}
