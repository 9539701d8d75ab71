//! From text to an expression, by recursive descent: one function for each level of precedence.

use http::HeaderName;

use super::{Attribute, Comparison, Expr, Headers, Kind, Test, Value, Wrong};

/// Filters are a line or two; each byte may cost a step of every request.
const TEXT_BYTES_MAX: usize = 4096;
/// Parentheses within parentheses: what a person can read, and far from what the stack holds.
const DEPTH_MAX: usize = 32;
/// As for every expression that users write (spec/waypoint.md 9, ReDoS).
const REGEX_BYTES_MAX: usize = 1 << 20;

type Read<T> = Result<T, Wrong>;
type Typed = (Expr, Kind);

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

/// What stands before a `.`, a `[` or a `(`.
enum Base {
    Path(String),
    Value(Typed),
}

pub(super) fn parse(text: &str) -> Read<Typed> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    if text.len() > TEXT_BYTES_MAX {
        return Err(parser.wrong(&format!("an expression may have {TEXT_BYTES_MAX} bytes; this is too much")));
    }
    let expr = parser.choice()?;
    parser.blank();
    if parser.at < text.len() {
        return Err(parser.wrong("here it should end"));
    }
    Ok(expr)
}

impl<'t> Parser<'t> {
    fn wrong(&self, message: &str) -> Wrong {
        // The text goes into a status and a log.
        Wrong { text: self.text.chars().take(200).collect(), at: self.at, message: message.to_owned() }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn blank(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn take(&mut self, token: &str) -> bool {
        self.blank();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn need(&mut self, token: &str) -> Read<()> {
        if self.take(token) { Ok(()) } else { Err(self.wrong(&format!("`{token}` is missing"))) }
    }

    fn word(&mut self) -> Option<&'t str> {
        self.blank();
        let rest = self.rest();
        if !rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            return None;
        }
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += length;
        Some(&rest[..length])
    }

    fn choice(&mut self) -> Read<Typed> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.wrong("too deep"));
        }
        let (condition, kind) = self.any()?;
        let read = if self.take("?") {
            self.is(kind, Kind::Bool, "before `?`")?;
            let (yes, kind) = self.choice()?;
            self.need(":")?;
            let (no, other) = self.choice()?;
            self.is(other, kind, "after `:`")?;
            (Expr::Choose(condition.into(), yes.into(), no.into()), kind)
        } else {
            (condition, kind)
        };
        self.depth -= 1;
        Ok(read)
    }

    fn any(&mut self) -> Read<Typed> {
        self.joined("||", Parser::all, Expr::Any)
    }

    fn all(&mut self) -> Read<Typed> {
        self.joined("&&", Parser::relation, Expr::All)
    }

    fn joined(&mut self, token: &str, operand: fn(&mut Self) -> Read<Typed>, join: fn(Vec<Expr>) -> Expr) -> Read<Typed> {
        let (first, kind) = operand(self)?;
        let mut operands = vec![first];
        while self.take(token) {
            self.is(kind, Kind::Bool, &format!("before `{token}`"))?;
            let (next, kind) = operand(self)?;
            self.is(kind, Kind::Bool, &format!("after `{token}`"))?;
            operands.push(next);
        }
        Ok(match operands.len() {
            1 => (operands.remove(0), kind),
            _ => (join(operands), Kind::Bool),
        })
    }

    fn relation(&mut self) -> Read<Typed> {
        let (left, kind) = self.sum()?;
        // The longer tokens first.
        let comparisons = [
            ("==", Comparison::Equal),
            ("!=", Comparison::Unequal),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        for (token, comparison) in comparisons {
            if self.take(token) {
                let (right, other) = self.sum()?;
                let numbers = |kind| matches!(kind, Kind::Int | Kind::Double);
                if !(numbers(kind) && numbers(other)) {
                    self.is(other, kind, &format!("after `{token}`"))?;
                }
                return Ok((Expr::Compare(comparison, left.into(), right.into()), Kind::Bool));
            }
        }
        let before = self.at;
        if self.word() == Some("in") {
            return self.one_of(left, kind);
        }
        self.at = before;
        Ok((left, kind))
    }

    /// After `in`: a list, or headers, in which a name may be.
    fn one_of(&mut self, left: Expr, kind: Kind) -> Read<Typed> {
        if self.take("[") {
            let mut all = Vec::new();
            while !self.take("]") {
                let (one, other) = self.sum()?;
                self.is(other, kind, "in the list")?;
                all.push(one);
                if !self.take(",") {
                    self.need("]")?;
                    break;
                }
            }
            return Ok((Expr::OneOf(left.into(), all), Kind::Bool));
        }
        let path = self.path()?;
        match (Headers::parse(&path), &left) {
            (Some(of), Expr::Constant(Value::Text(name))) => {
                let name = self.header_name(name)?;
                Ok((Expr::Has(Expr::Header(of, name).into()), Kind::Bool))
            }
            _ => Err(self.wrong("after `in` comes a list, or, for a quoted name, `request.headers` or `response.headers`")),
        }
    }

    fn path(&mut self) -> Read<String> {
        let mut path = self.word().ok_or_else(|| self.wrong("a name is missing"))?.to_owned();
        while self.take(".") {
            let part = self.word().ok_or_else(|| self.wrong("a name is missing after `.`"))?;
            path.push('.');
            path.push_str(part);
        }
        Ok(path)
    }

    fn sum(&mut self) -> Read<Typed> {
        let (mut left, kind) = self.unary()?;
        while self.take("+") {
            let (right, other) = self.unary()?;
            self.is(other, kind, "after `+`")?;
            if !matches!(kind, Kind::Int | Kind::Double | Kind::Text) {
                return Err(self.wrong("these cannot be added"));
            }
            left = Expr::Add(left.into(), right.into());
        }
        Ok((left, kind))
    }

    fn unary(&mut self) -> Read<Typed> {
        self.blank();
        let mut not = 0;
        while !self.rest().starts_with("!=") && self.take("!") {
            not += 1;
        }
        let (mut expr, kind) = self.postfix()?;
        if not > 0 {
            self.is(kind, Kind::Bool, "after `!`")?;
            if not % 2 == 1 {
                expr = Expr::Not(expr.into());
            }
        }
        Ok((expr, kind))
    }

    fn postfix(&mut self) -> Read<Typed> {
        let mut base = self.primary()?;
        loop {
            if self.take(".") {
                let word = self.word().ok_or_else(|| self.wrong("a name is missing after `.`"))?;
                base = if self.take("(") {
                    let receiver = self.value_of(base)?;
                    Base::Value(self.method(receiver, word)?)
                } else {
                    match base {
                        Base::Path(path) => Base::Path(format!("{path}.{word}")),
                        Base::Value(_) => return Err(self.wrong("only names have parts")),
                    }
                };
            } else if self.take("[") {
                let name = self.quoted()?.ok_or_else(|| self.wrong("a quoted name is missing"))?;
                self.need("]")?;
                let of = match &base {
                    Base::Path(path) => Headers::parse(path),
                    Base::Value(_) => None,
                };
                let of = of.ok_or_else(|| self.wrong("only `request.headers` and `response.headers` are asked by name"))?;
                base = Base::Value((Expr::Header(of, self.header_name(&name)?), Kind::Text));
            } else {
                return self.value_of(base);
            }
        }
    }

    fn value_of(&self, base: Base) -> Read<Typed> {
        match base {
            Base::Value(typed) => Ok(typed),
            Base::Path(path) => match Attribute::parse(&path) {
                Some(attribute) => Ok((Expr::Attribute(attribute), attribute.kind())),
                None if Headers::parse(&path).is_some() => {
                    Err(self.wrong(&format!("`{path}` is asked for one name: `{path}['x']`")))
                }
                None => Err(self.wrong(&format!("`{path}` is no attribute that is known here"))),
            },
        }
    }

    fn header_name(&self, name: &str) -> Read<HeaderName> {
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| self.wrong(&format!("{name:?} is no name of a header")))
    }

    fn primary(&mut self) -> Read<Base> {
        if self.take("(") {
            let inner = self.choice()?;
            self.need(")")?;
            return Ok(Base::Value(inner));
        }
        if let Some(text) = self.quoted()? {
            return Ok(Base::Value((Expr::Constant(Value::Text(text.into())), Kind::Text)));
        }
        if let Some(number) = self.number()? {
            let kind = number.kind();
            return Ok(Base::Value((Expr::Constant(number), kind)));
        }
        let Some(word) = self.word() else { return Err(self.wrong("a value is missing")) };
        if self.take("(") {
            return Ok(Base::Value(self.function(word)?));
        }
        Ok(match word {
            "true" => Base::Value((Expr::Constant(Value::Bool(true)), Kind::Bool)),
            "false" => Base::Value((Expr::Constant(Value::Bool(false)), Kind::Bool)),
            word => Base::Path(word.to_owned()),
        })
    }

    /// After the name of a function and `(`.
    fn function(&mut self, name: &str) -> Read<Typed> {
        let (argument, kind) = self.choice()?;
        self.need(")")?;
        let constant = match &argument {
            Expr::Constant(Value::Text(text)) => Some(text.clone()),
            _ => None,
        };
        match (name, constant) {
            ("has", _) => match argument {
                Expr::Attribute(_) | Expr::Header(..) => Ok((Expr::Has(argument.into()), Kind::Bool)),
                _ => Err(self.wrong("`has` asks for an attribute or a header")),
            },
            ("size", _) => {
                self.is(kind, Kind::Text, "in `size`")?;
                Ok((Expr::Size(argument.into()), Kind::Int))
            }
            ("string", _) => Ok((Expr::Shown(argument.into()), Kind::Text)),
            ("duration", Some(text)) => {
                let nanos = duration(&text).ok_or_else(|| self.wrong("no duration, as `1h`, `1.5s` or `20ms`"))?;
                Ok((Expr::Constant(Value::Duration(nanos)), Kind::Duration))
            }
            ("timestamp", Some(text)) => {
                let time: Option<jiff::Timestamp> = text.parse().ok();
                let nanos = time.and_then(|time| i64::try_from(time.as_nanosecond()).ok());
                let nanos = nanos.ok_or_else(|| self.wrong("no time, as `2026-01-02T03:04:05Z`"))?;
                Ok((Expr::Constant(Value::Time(nanos)), Kind::Time))
            }
            ("duration" | "timestamp", None) => Err(self.wrong(&format!("`{name}` takes a quoted text"))),
            _ => Err(self.wrong(&format!("`{name}` is no function that is known here"))),
        }
    }

    /// After the name of a method and `(`.
    fn method(&mut self, (receiver, kind): Typed, name: &str) -> Read<Typed> {
        self.is(kind, Kind::Text, &format!("before `.{name}`"))?;
        if name == "size" {
            self.need(")")?;
            return Ok((Expr::Size(receiver.into()), Kind::Int));
        }
        if !matches!(name, "startsWith" | "endsWith" | "contains" | "matches") {
            return Err(self.wrong(&format!("`{name}` is no method that is known here")));
        }
        let (argument, kind) = self.choice()?;
        self.need(")")?;
        self.is(kind, Kind::Text, &format!("in `{name}`"))?;
        let test = match name {
            "startsWith" => Test::StartsWith,
            "endsWith" => Test::EndsWith,
            "contains" => Test::Contains,
            _ => {
                let Expr::Constant(Value::Text(pattern)) = argument else {
                    return Err(self.wrong("`matches` takes a quoted expression"));
                };
                let regex = regex::RegexBuilder::new(&pattern).size_limit(REGEX_BYTES_MAX).build();
                let regex = regex.map_err(|error| self.wrong(&format!("the regular expression is wrong: {error}")))?;
                return Ok((Expr::Matches(receiver.into(), regex), Kind::Bool));
            }
        };
        Ok((Expr::Test(test, receiver.into(), argument.into()), Kind::Bool))
    }

    fn number(&mut self) -> Read<Option<Value<'static>>> {
        self.blank();
        let rest = self.rest();
        let unsigned = rest.strip_prefix('-').unwrap_or(rest);
        if !unsigned.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(None);
        }
        let sign = rest.len() - unsigned.len();
        let length = sign + unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let digits = &rest[..length];
        let value = match digits.contains('.') {
            true => digits.parse().map(Value::Double).ok(),
            false => digits.parse().map(Value::Int).ok(),
        };
        let value = value.ok_or_else(|| self.wrong("no number"))?;
        self.at += length;
        // CEL writes unsigned numbers with a `u`.
        if matches!(value, Value::Int(0..)) && self.rest().starts_with('u') {
            self.at += 1;
        }
        Ok(Some(value))
    }

    /// A text in single or double quotes, with the usual escapes; `r'…'` has none.
    fn quoted(&mut self) -> Read<Option<String>> {
        self.blank();
        let rest = self.rest();
        let raw = rest.starts_with("r'") || rest.starts_with("r\"");
        let opened = &rest[usize::from(raw)..];
        let Some(quote) = opened.chars().next().filter(|c| matches!(c, '\'' | '"')) else { return Ok(None) };
        let mut text = String::new();
        let mut chars = opened[1..].char_indices();
        while let Some((index, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.at += usize::from(raw) + 1 + index + 1;
                    return Ok(Some(text));
                }
                '\\' if !raw => text.push(match chars.next().map(|(_, c)| c) {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some(c @ ('\\' | '\'' | '"')) => c,
                    _ => return Err(self.wrong("an escape that is not known")),
                }),
                c => text.push(c),
            }
        }
        Err(self.wrong("the quotes do not end"))
    }

    fn is(&self, found: Kind, wanted: Kind, place: &str) -> Read<()> {
        if found == wanted {
            return Ok(());
        }
        Err(self.wrong(&format!("{place} {} is needed, not {}", wanted.words(), found.words())))
    }
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Kind::Bool => "true or false",
            Kind::Int | Kind::Double => "a number",
            Kind::Text => "a text",
            Kind::Duration => "a duration",
            Kind::Time => "a time",
        }
    }
}

/// `1h30m`, `1.5s`, `20ms`, `-3s`.
fn duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text),
    };
    let mut nanos = 0.0;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        nanos += number
            * match &rest[..unit] {
                "h" => 3600e9,
                "m" => 60e9,
                "s" => 1e9,
                "ms" => 1e6,
                "us" => 1e3,
                "ns" => 1.0,
                _ => return None,
            };
        rest = &rest[unit..];
        if rest.is_empty() {
            return (nanos < i64::MAX as f64).then_some((sign * nanos) as i64);
        }
    }
}
