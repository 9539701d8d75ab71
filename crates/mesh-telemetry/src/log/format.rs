//! One event as one line. Whatever an event holds, a line stays a line: control characters are escaped.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use crate::time::time_text;

/// `time<TAB>level<TAB>target:span{k=v}<TAB>message<TAB>k=v k=v`
#[derive(Debug)]
pub(super) struct TextEvents;

/// `{"level":…,"time":…,"scope":…,"message":…,"k":…,"span":{"k":…}}`
#[derive(Debug)]
pub(super) struct JsonEvents;

impl<S, N> FormatEvent<S, N> for TextEvents
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let meta = event.metadata();
        let target = meta.target();
        let shown = target.strip_prefix("ztunnel::").unwrap_or(target);
        write!(out, "{}\t{}\t{shown}", time_text(SystemTime::now()), level(meta.level()))?;
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            write!(out, ":{}", span.name())?;
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>().filter(|fields| !fields.is_empty()) {
                write!(out, "{{{}}}", OneLine(fields.as_str()))?;
            }
        }
        let mut fields = Fields { message: String::new(), rest: String::new(), json: false };
        event.record(&mut fields);
        write!(out, "\t{}", OneLine(&fields.message))?;
        if !fields.rest.is_empty() {
            write!(out, "\t{}", OneLine(&fields.rest))?;
        }
        writeln!(out)
    }
}

impl<S, N> FormatEvent<S, N> for JsonEvents
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let meta = event.metadata();
        let mut fields = Fields { message: String::new(), rest: String::new(), json: true };
        event.record(&mut fields);
        let (level, time, scope, message) =
            (level(meta.level()), time_text(SystemTime::now()), quoted(meta.target()), quoted(&fields.message));
        write!(out, "{{\"level\":\"{level}\",\"time\":\"{time}\",\"scope\":{scope},\"message\":{message}{}", fields.rest)?;
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>().filter(|fields| !fields.is_empty()) {
                write!(out, ",{}:{}", quoted(span.name()), fields.as_str())?;
            }
        }
        writeln!(out, "}}")
    }
}

fn level(level: &tracing::Level) -> &'static str {
    match *level {
        tracing::Level::ERROR => "error",
        tracing::Level::WARN => "warn",
        tracing::Level::INFO => "info",
        tracing::Level::DEBUG => "debug",
        tracing::Level::TRACE => "trace",
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Text whose control characters are escaped, and no more of it than a line can hold.
struct OneLine<'a>(&'a str);

/// A line has at most three such parts; nothing that is worth reading is longer.
const PART_BYTES_MAX: usize = 4096;

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0[..self.0.floor_char_boundary(PART_BYTES_MAX)].chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
        }
        Ok(())
    }
}

/// Collects an event's message and its other fields, in the order they were written.
struct Fields {
    message: String,
    rest: String,
    json: bool,
}

impl Fields {
    fn put(&mut self, field: &Field, text: fmt::Arguments<'_>) {
        let separator = if self.rest.is_empty() { "" } else { " " };
        // Writing into a String cannot fail.
        let _ = match self.json {
            true => write!(self.rest, ",{}:{text}", quoted(field.name())),
            false => write!(self.rest, "{separator}{}={text}", field.name()),
        };
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match (field.name(), self.json) {
            ("message", _) => {
                let _ = write!(self.message, "{value:?}");
            }
            (_, true) => self.put(field, format_args!("{}", quoted(&format!("{value:?}")))),
            (_, false) => self.put(field, format_args!("{value:?}")),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match (field.name(), self.json) {
            ("message", _) => self.message.push_str(value),
            (_, true) => self.put(field, format_args!("{}", quoted(value))),
            (_, false) => self.put(field, format_args!("{value:?}")),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON knows no infinity.
        if self.json && !value.is_finite() {
            self.put(field, format_args!("\"{value}\""))
        } else {
            self.put(field, format_args!("{value}"))
        }
    }
}
