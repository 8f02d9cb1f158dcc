//! Statements: what is printed, assigned and repeated.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::ast::{Body, Expression, For, Kind, Macro, Statement, Target};
use super::value::{Items, Loop, Value};
use super::{Date, Given};

/// Steps that a template may take, sixteen bytes of text or an item of a list counting as one.
const STEPS: usize = 8_000_000;

/// How deep macros and loops may call themselves.
const DEEPEST: usize = 200;

/// Renders a template once.
pub struct Renderer {
    /// Scopes, those that are left too: a macro may still look into the one that it was written in.
    frames: Vec<Frame>,
    /// Loops that call themselves.
    loops: Vec<(Arc<For>, usize)>,
    pub today: Option<Date>,
    steps: usize,
    depth: usize,
}

struct Frame {
    outer: Option<usize>,
    values: Vec<(Arc<str>, Value)>,
}

/// Where rendering goes on.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

impl Renderer {
    pub fn new(variables: Vec<(Arc<str>, Value)>, today: Option<Date>) -> Self {
        let context = Frame { outer: None, values: variables };
        let own = Frame { outer: Some(0), values: vec![] };
        Self { frames: vec![context, own], loops: vec![], today, steps: 0, depth: 0 }
    }

    pub fn render(mut self, body: &Body) -> Result<String> {
        let mut out = String::new();
        self.body(body, 1, &mut out)?;
        Ok(out)
    }

    /// Counts steps.
    pub fn pay(&mut self, steps: usize) -> Result<()> {
        self.steps = self.steps.saturating_add(steps);
        ensure!(self.steps <= STEPS, "it takes more than {STEPS} steps");
        Ok(())
    }

    /// Counts what a value takes.
    pub fn pay_for(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::Text(text) => self.pay(text.len() / 16),
            Value::List(items) | Value::Tuple(items) | Value::View(_, items) => self.pay(items.items.len()),
            Value::Iterator(items) => {
                let count = items.borrow().len();
                self.pay(count)
            }
            Value::Dict(dict) => self.pay(dict.items.len()),
            _ => self.pay(1),
        }
    }

    /// Goes a level deeper.
    pub fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        ensure!(self.depth <= DEEPEST, "macros or loops call themselves more than {DEEPEST} deep");
        let result = f(self);
        self.depth -= 1;
        result
    }

    fn frame(&mut self, outer: usize) -> usize {
        self.frames.push(Frame { outer: Some(outer), values: vec![] });
        self.frames.len() - 1
    }

    pub fn lookup(&self, name: &str, frame: usize) -> Option<&Value> {
        let mut at = Some(frame);
        while let Some(frame) = at.map(|at| &self.frames[at]) {
            if let Some((_, value)) = frame.values.iter().find(|(known, _)| **known == *name) {
                return Some(value);
            }
            at = frame.outer;
        }
        None
    }

    fn assign(&mut self, target: &Target, value: Value, frame: usize) -> Result<()> {
        match target {
            Target::Name(name) => self.set(name, value, frame),
            Target::Tuple(targets) => {
                let items = value.items().with_context(|| format!("cannot unpack a value of type {}", value.kind()))?;
                let (wanted, had) = (targets.len(), items.len());
                ensure!(wanted == had, "{had} values are unpacked into {wanted} names");
                targets.iter().zip(items).try_for_each(|(target, item)| self.assign(target, item, frame))?;
            }
            Target::Attribute(name, attribute) => {
                let Some(Value::Namespace(values)) = self.lookup(name, frame) else {
                    bail!("cannot assign attribute on non-namespace object");
                };
                ensure!(!attribute.starts_with('_'), "chat templates cannot store `{attribute}` on a namespace");
                value.check_inner()?;
                let mut values = values.borrow_mut();
                match values.iter_mut().find(|(known, _)| known == attribute) {
                    Some(known) => known.1 = value,
                    None => values.push((attribute.clone(), value)),
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &Arc<str>, value: Value, frame: usize) {
        let values = &mut self.frames[frame].values;
        match values.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value,
            None => values.push((name.clone(), value)),
        }
    }

    fn body(&mut self, body: &Body, frame: usize, out: &mut String) -> Result<Flow> {
        for statement in body {
            self.pay(1)?;
            let flow = self.statement(statement, frame, out).map_err(|error| at_line(error, statement.line))?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    /// What a body prints, in a scope of its own.
    fn captured(&mut self, body: &Body, frame: usize) -> Result<Value> {
        let inner = self.frame(frame);
        let mut text = String::new();
        self.body(body, inner, &mut text)?;
        Ok(Value::text(text))
    }

    fn statement(&mut self, statement: &Statement, frame: usize, out: &mut String) -> Result<Flow> {
        match &statement.kind {
            Kind::Text(text) => {
                self.pay(text.len() / 16)?;
                out.push_str(text);
            }
            Kind::Print(value) => {
                let text = self.evaluate(value, frame)?.print()?;
                self.pay(text.len() / 16)?;
                out.push_str(&text);
            }
            Kind::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.evaluate(condition, frame)?.is_true() {
                        return self.body(body, frame, out);
                    }
                }
                return self.body(otherwise, frame, out);
            }
            Kind::For(this) => {
                let items = self.evaluate(&this.items, frame)?;
                self.for_loop(this, items, 1, frame, out)?;
            }
            Kind::Set(target, value) => {
                let value = self.evaluate(value, frame)?;
                self.assign(target, value, frame)?;
            }
            Kind::SetBlock { target, filter, body } => {
                let mut value = self.captured(body, frame)?;
                if let Some(filter) = filter {
                    value = self.block_filter(filter, value, frame)?;
                }
                self.assign(target, value, frame)?;
            }
            Kind::Macro(this) => self.set(&this.name, Value::Macro(this.clone(), frame), frame),
            Kind::CallBlock { call, caller } => {
                let Expression::Call(called, arguments) = call else { bail!("expected a call") };
                let called = self.evaluate(called, frame)?;
                let mut given = self.given(arguments, frame)?;
                given.named.push(("caller".into(), Value::Macro(caller.clone(), frame)));
                let text = self.call(&called, given)?.print()?;
                out.push_str(&text);
            }
            Kind::FilterBlock { filter, body } => {
                let value = self.captured(body, frame)?;
                let text = self.block_filter(filter, value, frame)?.print()?;
                out.push_str(&text);
            }
            Kind::With(values, body) => {
                let inner = self.frame(frame);
                for (target, value) in values {
                    // Jinja evaluates all of them outside.
                    let value = self.evaluate(value, frame)?;
                    self.assign(target, value, inner)?;
                }
                return self.body(body, inner, out);
            }
            Kind::Generation(body) => {
                let text = self.captured(body, frame)?.print()?;
                out.push_str(&text);
            }
            Kind::Break => return Ok(Flow::Break),
            Kind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn for_loop(&mut self, this: &Arc<For>, items: Value, depth: usize, frame: usize, out: &mut String) -> Result<()> {
        let mut items = items.items()?;
        if let Some(filter) = &this.filter {
            let mut kept = Vec::new();
            for item in items {
                let inner = self.frame(frame);
                self.assign(&this.target, item.clone(), inner)?;
                if self.evaluate(filter, inner)?.is_true() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        self.pay(items.len())?;
        let recursive = this.recursive.then(|| {
            self.loops.push((this.clone(), frame));
            self.loops.len() - 1
        });
        let items = Items::new(items)?;
        let here =
            Rc::new(Loop { items: items.clone(), at: Cell::new(0), depth, changed: RefCell::new(None), recursive });
        for (at, item) in items.items.iter().enumerate() {
            here.at.set(at);
            let inner = self.frame(frame);
            self.set(&"loop".into(), Value::Loop(here.clone()), inner);
            self.assign(&this.target, item.clone(), inner)?;
            if self.body(&this.body, inner, out)? == Flow::Break {
                break;
            }
        }
        if items.items.is_empty() {
            let inner = self.frame(frame);
            self.body(&this.otherwise, inner, out)?;
        }
        Ok(())
    }

    /// `loop(items)` within a loop that says that it is recursive.
    pub fn recurse(&mut self, here: &Loop, items: Value) -> Result<Value> {
        let number = here.recursive.context("The loop must have the 'recursive' marker to be called recursively.")?;
        let (this, frame) = self.loops[number].clone();
        let mut text = String::new();
        self.deeper(|renderer| renderer.for_loop(&this, items, here.depth + 1, frame, &mut text))?;
        Ok(Value::text(text))
    }

    /// Calls a macro (jinja2: runtime.py, Macro).
    pub fn call_macro(&mut self, this: &Arc<Macro>, frame: usize, mut given: Given) -> Result<Value> {
        let name = &this.name;
        let inner = self.frame(frame);
        let mut take = |name: &str| {
            let at = given.named.iter().position(|(known, _)| **known == *name)?;
            Some(given.named.remove(at).1)
        };
        let mut positional = given.positional.into_iter();
        let mut values = Vec::new();
        for (parameter, default) in &this.parameters {
            let value = positional.next().or_else(|| take(parameter));
            values.push((parameter, default, value));
        }
        let takes_caller = this.parameters.iter().any(|(parameter, _)| **parameter == *"caller");
        if this.uses_caller && !takes_caller {
            let caller = take("caller").unwrap_or_else(|| Value::undefined("No caller defined"));
            self.set(&"caller".into(), caller, inner);
        }
        if this.uses_kwargs {
            let rest = std::mem::take(&mut given.named);
            let rest = Value::dict(rest.into_iter().map(|(name, value)| (Value::Text(name), value)))?;
            self.set(&"kwargs".into(), rest, inner);
        } else if let Some((unknown, _)) = given.named.first() {
            bail!("macro '{name}' takes no keyword argument '{unknown}'");
        }
        let rest: Vec<Value> = positional.collect();
        if this.uses_varargs {
            let rest = Value::tuple(rest)?;
            self.set(&"varargs".into(), rest, inner);
        } else {
            ensure!(rest.is_empty(), "macro '{name}' takes not more than {} argument(s)", this.parameters.len());
        }
        for (parameter, default, value) in values {
            let value = match (value, default) {
                (Some(value), _) => value,
                (None, Some(default)) => self.evaluate(default, inner)?,
                (None, None) => Value::undefined(format!("parameter '{parameter}' was not provided")),
            };
            self.set(parameter, value, inner);
        }
        self.deeper(|renderer| {
            let mut text = String::new();
            renderer.body(&this.body, inner, &mut text)?;
            Ok(Value::text(text))
        })
    }
}

/// Adds the line to an error that has none yet.
fn at_line(error: anyhow::Error, line: usize) -> anyhow::Error {
    if error.downcast_ref::<AtLine>().is_some() { error } else { error.context(AtLine(line)) }
}

/// The innermost line in which something failed.
#[derive(Debug)]
struct AtLine(usize);

impl std::fmt::Display for AtLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}", self.0)
    }
}
