//! What a template is made of.

use std::sync::Arc;

/// A statement, and the line it begins in.
#[derive(Debug)]
pub struct Statement {
    pub line: usize,
    pub kind: Kind,
}

pub type Body = Vec<Statement>;

#[derive(Debug)]
pub enum Kind {
    Text(Arc<str>),
    Print(Expression),
    /// Conditions with their bodies, and what is rendered where none holds.
    If(Vec<(Expression, Body)>, Body),
    For(Arc<For>),
    Set(Target, Expression),
    SetBlock {
        target: Target,
        filter: Option<Expression>,
        body: Body,
    },
    Macro(Arc<Macro>),
    /// The body is what `caller()` renders in the macro that is called.
    CallBlock {
        call: Expression,
        caller: Arc<Macro>,
    },
    FilterBlock {
        filter: Expression,
        body: Body,
    },
    With(Vec<(Target, Expression)>, Body),
    /// transformers' own: what the model wrote. It is rendered as it stands, in a scope of its own.
    Generation(Body),
    Break,
    Continue,
}

#[derive(Debug)]
pub struct For {
    pub target: Target,
    pub items: Expression,
    pub filter: Option<Expression>,
    pub body: Body,
    pub otherwise: Body,
    pub recursive: bool,
}

/// What is assigned to.
#[derive(Debug)]
pub enum Target {
    Name(Arc<str>),
    Tuple(Vec<Target>),
    /// An attribute of a namespace.
    Attribute(Arc<str>, Arc<str>),
}

#[derive(Debug)]
pub struct Macro {
    pub name: Arc<str>,
    pub parameters: Vec<(Arc<str>, Option<Expression>)>,
    pub body: Body,
    /// Which of the names that a macro may use without declaring them its body uses.
    pub uses_caller: bool,
    pub uses_varargs: bool,
    pub uses_kwargs: bool,
}

#[derive(Debug)]
pub enum Expression {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Arc<str>),
    Name(Arc<str>),
    List(Vec<Expression>),
    Tuple(Vec<Expression>),
    Dict(Vec<(Expression, Expression)>),
    Negative(Box<Expression>),
    Positive(Box<Expression>),
    Not(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Binary(Operator, Box<Expression>, Box<Expression>),
    /// `a ~ b ~ c`
    Concatenated(Vec<Expression>),
    /// `a < b < c`
    Compared(Box<Expression>, Vec<(Comparison, Expression)>),
    /// `a if condition else b`
    Conditional {
        condition: Box<Expression>,
        then: Box<Expression>,
        otherwise: Option<Box<Expression>>,
    },
    Attribute(Box<Expression>, Arc<str>),
    Item(Box<Expression>, Box<Expression>),
    Slice(Box<Expression>, [Option<Box<Expression>>; 3]),
    Call(Box<Expression>, Arguments),
    /// None is the text of the block that the filter belongs to.
    Filter(Option<Box<Expression>>, Arc<str>, Arguments),
    Test(Box<Expression>, Arc<str>, Arguments),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

#[derive(Debug, Default)]
pub struct Arguments {
    pub positional: Vec<Expression>,
    pub named: Vec<(Arc<str>, Expression)>,
    /// `*arguments` and `**arguments`
    pub rest: Option<Box<Expression>>,
    pub named_rest: Option<Box<Expression>>,
}
