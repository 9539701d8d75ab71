//! Expressions of log filters and of tags: the part of CEL that is a question to one request (spec/waypoint.md 6.3).
//!
//! Comparison, `&&`, `||`, `!`, `?:`, `in`, `+`, `has`, `startsWith`, `endsWith`, `contains`, `matches`, `size`, `string`,
//! `duration`, `timestamp`, over the attributes in `attribute.rs`. Each has its type, so that what cannot be compared is
//! refused when it is written and not when a request comes. Pure.

pub mod attribute;
mod parse;

use std::borrow::Cow;

use http::HeaderName;
use regex::Regex;

pub use self::attribute::{Attribute, Headers};

/// An expression that was read.
#[derive(Clone, Debug)]
pub struct Program {
    text: String,
    root: Expr,
    kind: Kind,
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int,
    Double,
    Text,
    /// Nanoseconds.
    Duration,
    /// Nanoseconds since 1970.
    Time,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Cow<'a, str>),
    Duration(i64),
    Time(i64),
}

/// Whom an expression asks. `None`: there is no such value, which fails what needs it (CEL: an error).
pub trait Asked {
    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>>;
    fn header(&self, of: Headers, name: &HeaderName) -> Option<Cow<'_, str>>;
}

#[derive(Clone, Debug)]
enum Expr {
    Constant(Value<'static>),
    Attribute(Attribute),
    Header(Headers, HeaderName),
    /// Is there a value?
    Has(Box<Expr>),
    Not(Box<Expr>),
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Compare(Comparison, Box<Expr>, Box<Expr>),
    OneOf(Box<Expr>, Vec<Expr>),
    Add(Box<Expr>, Box<Expr>),
    Choose(Box<Expr>, Box<Expr>, Box<Expr>),
    Test(Test, Box<Expr>, Box<Expr>),
    Matches(Box<Expr>, Regex),
    Size(Box<Expr>),
    Shown(Box<Expr>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    StartsWith,
    EndsWith,
    Contains,
}

/// What is wrong with an expression, and at which byte of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} at {at} of `{text}`")]
pub struct Wrong {
    pub text: String,
    pub at: usize,
    pub message: String,
}

impl PartialEq for Program {
    fn eq(&self, other: &Program) -> bool {
        self.text == other.text
    }
}

impl Program {
    /// # Errors
    /// What of the expression is not understood, and where.
    pub fn parse(text: &str) -> Result<Program, Wrong> {
        let (root, kind) = parse::parse(text)?;
        Ok(Program { text: text.to_owned(), root, kind })
    }

    /// As `parse`, for an expression that decides.
    ///
    /// # Errors
    /// Also where its value is not true or false.
    pub fn parse_condition(text: &str) -> Result<Program, Wrong> {
        let program = Program::parse(text)?;
        match program.kind {
            Kind::Bool => Ok(program),
            _ => Err(Wrong { text: text.to_owned(), at: 0, message: "the value is not true or false".to_owned() }),
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is one constant, and which.
    pub fn constant(&self) -> Option<String> {
        match &self.root {
            Expr::Constant(value) => Some(value.to_string()),
            _ => None,
        }
    }

    /// Is it true? An expression that asks for something that is not there is not.
    pub fn holds(&self, asked: &dyn Asked) -> bool {
        truth(&self.root, asked) == Some(true)
    }

    pub fn value<'a>(&'a self, asked: &'a dyn Asked) -> Option<Value<'a>> {
        value(&self.root, asked)
    }

    /// The headers that it looks at.
    pub fn headers(&self, of: Headers) -> Vec<HeaderName> {
        let mut names = Vec::new();
        self.root.visit(&mut |expr| {
            if let Expr::Header(side, name) = expr
                && *side == of
            {
                names.push(name.clone());
            }
        });
        names
    }

    /// Shows each attribute that it asks for.
    pub fn attributes(&self, mut see: impl FnMut(Attribute)) {
        self.root.visit(&mut |expr| {
            if let Expr::Attribute(attribute) = expr {
                see(*attribute);
            }
        });
    }

    /// Whether it asks for anything of the request's head.
    pub fn looks_at_head(&self) -> bool {
        let mut looks = false;
        self.root.visit(&mut |expr| {
            looks |= match expr {
                Expr::Header(of, _) => *of == Headers::Request,
                Expr::Attribute(attribute) => attribute.is_of_head(),
                _ => false,
            }
        });
        looks
    }
}

impl Expr {
    fn visit(&self, see: &mut dyn FnMut(&Expr)) {
        see(self);
        match self {
            Expr::Constant(_) | Expr::Attribute(_) | Expr::Header(..) => {}
            Expr::Has(a) | Expr::Not(a) | Expr::Matches(a, _) | Expr::Size(a) | Expr::Shown(a) => a.visit(see),
            Expr::Compare(_, a, b) | Expr::Add(a, b) | Expr::Test(_, a, b) => [a, b].into_iter().for_each(|e| e.visit(see)),
            Expr::Choose(a, b, c) => [a, b, c].into_iter().for_each(|e| e.visit(see)),
            Expr::All(all) | Expr::Any(all) => all.iter().for_each(|e| e.visit(see)),
            Expr::OneOf(a, all) => {
                a.visit(see);
                all.iter().for_each(|e| e.visit(see));
            }
        }
    }
}

fn truth(expr: &Expr, asked: &dyn Asked) -> Option<bool> {
    match value(expr, asked)? {
        Value::Bool(truth) => Some(truth),
        _ => None,
    }
}

fn text<'a>(expr: &'a Expr, asked: &'a dyn Asked) -> Option<Cow<'a, str>> {
    match value(expr, asked)? {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn value<'a>(expr: &'a Expr, asked: &'a dyn Asked) -> Option<Value<'a>> {
    Some(match expr {
        Expr::Constant(constant) => constant.clone(),
        Expr::Attribute(attribute) => asked.attribute(*attribute)?,
        Expr::Header(of, name) => Value::Text(asked.header(*of, name)?),
        Expr::Has(expr) => Value::Bool(value(expr, asked).is_some()),
        Expr::Not(expr) => Value::Bool(!truth(expr, asked)?),
        // As CEL has it: one operand that decides does so whatever the others lack.
        Expr::All(all) => Value::Bool(decided(all, asked, false)?),
        Expr::Any(any) => Value::Bool(decided(any, asked, true)?),
        Expr::Compare(comparison, a, b) => Value::Bool(comparison.holds(&value(a, asked)?, &value(b, asked)?)?),
        Expr::OneOf(one, all) => {
            let one = value(one, asked)?;
            Value::Bool(all.iter().any(|expr| value(expr, asked).is_some_and(|other| other == one)))
        }
        Expr::Add(a, b) => value(a, asked)?.plus(value(b, asked)?)?,
        Expr::Choose(condition, yes, no) => value(if truth(condition, asked)? { yes } else { no }, asked)?,
        Expr::Test(test, a, b) => Value::Bool(test.holds(&text(a, asked)?, &text(b, asked)?)),
        Expr::Matches(expr, regex) => Value::Bool(regex.is_match(&text(expr, asked)?)),
        Expr::Size(expr) => Value::Int(text(expr, asked)?.chars().count() as i64),
        Expr::Shown(expr) => Value::Text(value(expr, asked)?.to_string().into()),
    })
}

/// `deciding` if one of them is that, its opposite if all are, else nothing.
fn decided(all: &[Expr], asked: &dyn Asked, deciding: bool) -> Option<bool> {
    let mut known = true;
    for expr in all {
        match truth(expr, asked) {
            Some(truth) if truth == deciding => return Some(deciding),
            Some(_) => {}
            None => known = false,
        }
    }
    known.then_some(!deciding)
}

impl Comparison {
    fn holds(self, a: &Value<'_>, b: &Value<'_>) -> Option<bool> {
        let order = match (a, b) {
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::Int(a), Value::Int(b)) | (Value::Duration(a), Value::Duration(b)) | (Value::Time(a), Value::Time(b)) => {
                a.cmp(b)
            }
            (Value::Double(a), Value::Double(b)) => a.partial_cmp(b)?,
            (Value::Int(a), Value::Double(b)) => (*a as f64).partial_cmp(b)?,
            (Value::Double(a), Value::Int(b)) => a.partial_cmp(&(*b as f64))?,
            (Value::Text(a), Value::Text(b)) => a.cmp(b),
            _ => return None,
        };
        Some(match self {
            Comparison::Equal => order.is_eq(),
            Comparison::Unequal => order.is_ne(),
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterOrEqual => order.is_ge(),
        })
    }
}

impl Test {
    fn holds(self, a: &str, b: &str) -> bool {
        match self {
            Test::StartsWith => a.starts_with(b),
            Test::EndsWith => a.ends_with(b),
            Test::Contains => a.contains(b),
        }
    }
}

impl<'a> Value<'a> {
    pub fn kind(&self) -> Kind {
        match self {
            Value::Bool(_) => Kind::Bool,
            Value::Int(_) => Kind::Int,
            Value::Double(_) => Kind::Double,
            Value::Text(_) => Kind::Text,
            Value::Duration(_) => Kind::Duration,
            Value::Time(_) => Kind::Time,
        }
    }

    fn plus(self, other: Value<'a>) -> Option<Value<'a>> {
        Some(match (self, other) {
            (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(b)?),
            (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
            (Value::Text(a), Value::Text(b)) => Value::Text((a.into_owned() + &b).into()),
            _ => return None,
        })
    }
}

/// As a tag or a log shows it.
impl std::fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Bool(value) => value.fmt(f),
            Value::Int(value) => value.fmt(f),
            Value::Double(value) => value.fmt(f),
            Value::Text(value) => value.fmt(f),
            Value::Duration(nanos) => write!(f, "{}s", *nanos as f64 / 1e9),
            Value::Time(nanos) => match jiff::Timestamp::from_nanosecond(i128::from(*nanos)) {
                Ok(time) => time.fmt(f),
                Err(_) => f.write_str("-"),
            },
        }
    }
}

#[cfg(test)]
mod tests;
