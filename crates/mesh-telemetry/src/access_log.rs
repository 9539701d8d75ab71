//! The access log: one line when a connection ends (and one when it opens, for the curious), in text or JSON exactly as
//! spec/dataplane.md 8.2 orders it. Formatted straight into the writer, not through the daemon's own log.

use std::fmt::Display;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_model::identity::SpiffeId;

use crate::levels::{Level, LevelOf};
use crate::lines::Lines;
use crate::time::write_time;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Writes access lines. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    lines: Option<Lines>,
    format: Format,
    level: Arc<LevelOf>,
}

/// One connection, as its line tells it. What is unknown is left out.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    pub src_addr: SocketAddr,
    pub src: Who<'a>,
    /// Where the socket really goes.
    pub dst_addr: SocketAddr,
    /// The authority of the tunnel, if there is one.
    pub hbone_addr: Option<&'a str>,
    /// The hostname of the service that was meant.
    pub service: Option<&'a str>,
    pub dst: Who<'a>,
    pub direction: Direction,
    pub event: Event<'a>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Who<'a> {
    pub workload: Option<&'a str>,
    pub namespace: Option<&'a str>,
    /// Only where mutual TLS proved it.
    pub identity: Option<&'a SpiffeId>,
    pub cluster: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Inbound,
    Outbound,
}

#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    Opened,
    /// `bytes_sent` and `bytes_recv` as this line's direction counts them (spec/dataplane.md 8.1, byte direction).
    Complete {
        bytes_sent: u64,
        bytes_recv: u64,
        duration: Duration,
        failure: Option<Why<'a>>,
    },
    /// Refused before there was anything to measure.
    Denied(Why<'a>),
}

/// Why it ended or never began: where, the reason code, and a sentence.
#[derive(Clone, Copy, Debug)]
pub struct Why<'a> {
    pub stage: &'a str,
    pub reason: &'a str,
    pub error: &'a str,
}

impl AccessLog {
    /// A log that writes what `level` lets through.
    pub fn new(lines: Lines, format: Format, level: Arc<LevelOf>) -> AccessLog {
        AccessLog { lines: Some(lines), format, level }
    }

    /// A log that writes nothing.
    pub fn off() -> AccessLog {
        AccessLog { lines: None, format: Format::Text, level: Arc::new(LevelOf::fixed(Level::Off)) }
    }

    /// Whether a line for this event would be written: whoever asks first saves himself the making of it.
    pub fn wants(&self, level: Level) -> bool {
        self.lines.is_some() && self.level.lets(level)
    }

    pub fn write(&self, now: SystemTime, line: &Line<'_>) {
        let Some(lines) = self.lines.as_ref().filter(|_| self.level.lets(line.level())) else { return };
        // The size of a full line with long names: one allocation.
        let mut out = Vec::with_capacity(768);
        match self.format {
            Format::Text => text(&mut out, now, line),
            Format::Json => json(&mut out, now, line),
        }
        lines.write(&out);
    }
}

impl Line<'_> {
    /// The level of the line's event.
    pub fn level(&self) -> Level {
        match self.event {
            Event::Opened => Level::Debug,
            Event::Complete { failure: None, .. } => Level::Info,
            Event::Complete { failure: Some(_), .. } => Level::Error,
            Event::Denied(_) => Level::Warn,
        }
    }

    fn message(&self) -> &'static str {
        match self.event {
            Event::Opened => "connection opened",
            Event::Complete { .. } => "connection complete",
            Event::Denied(_) => "connection failed",
        }
    }

    /// The fields in their order.
    fn fields(&self, out: &mut impl Fields) {
        out.bare("src.addr", canonical(self.src_addr));
        if let Event::Denied(why) = &self.event {
            out.bare("dst.addr", canonical(self.dst_addr));
            out.quoted("direction", self.direction.as_str());
            return why.fields(out);
        }
        self.src.fields(out, ["src.workload", "src.namespace", "src.identity", "src.cluster"]);
        out.bare("dst.addr", canonical(self.dst_addr));
        if let Some(authority) = self.hbone_addr {
            // A peer's words: bare, as the format has it, unless that could be read as more than one value.
            let plain = authority.len() <= VALUE_BYTES_MAX
                && authority.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'=' && byte != b'\\');
            if plain { out.bare("dst.hbone_addr", authority) } else { out.quoted("dst.hbone_addr", authority) }
        }
        if let Some(service) = self.service {
            out.quoted("dst.service", service);
        }
        self.dst.fields(out, ["dst.workload", "dst.namespace", "dst.identity", "dst.cluster"]);
        out.quoted("direction", self.direction.as_str());
        if let Event::Complete { bytes_sent, bytes_recv, duration, failure } = &self.event {
            out.number("bytes_sent", *bytes_sent);
            out.number("bytes_recv", *bytes_recv);
            out.quoted("duration", &format!("{}ms", duration.as_millis()));
            if let Some(why) = failure {
                why.fields(out);
            }
        }
    }
}

impl Who<'_> {
    fn fields(&self, out: &mut impl Fields, [workload, namespace, identity, cluster]: [&'static str; 4]) {
        let said = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        let identity_text = self.identity.map(SpiffeId::to_string);
        for (name, value) in [
            (workload, said(self.workload)),
            (namespace, said(self.namespace)),
            (identity, identity_text),
            (cluster, said(self.cluster)),
        ] {
            if let Some(value) = value {
                out.quoted(name, &value);
            }
        }
    }
}

impl Why<'_> {
    /// Stage and reason are ours; the error is the last field, as the format has it.
    fn fields(&self, out: &mut impl Fields) {
        out.quoted("stage", self.stage);
        out.quoted("reason", self.reason);
        out.quoted("error", self.error);
    }
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

/// An IPv4 client of a dual-stack socket is shown as the IPv4 client it is.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The line as text, with its end.
pub fn text(out: &mut Vec<u8>, now: SystemTime, line: &Line<'_>) {
    write_time(out, now);
    let _ = write!(out, "\t{}\taccess\t{}\t", line.level().as_str(), line.message());
    line.fields(&mut TextFields { out, first: true });
    out.push(b'\n');
}

/// The line as one JSON object, with its end.
pub fn json(out: &mut Vec<u8>, now: SystemTime, line: &Line<'_>) {
    let _ = write!(out, "{{\"level\":\"{}\",\"time\":\"", line.level().as_str());
    write_time(out, now);
    let _ = write!(out, "\",\"scope\":\"access\",\"message\":\"{}\"", line.message());
    line.fields(&mut JsonFields { out });
    out.extend_from_slice(b"}\n");
}

/// The beginning of a value: no name of the mesh is longer than this, and no peer may fill the log (T-17).
fn clipped(value: &str) -> &str {
    &value[..value.floor_char_boundary(VALUE_BYTES_MAX)]
}

/// A SPIFFE id of the longest names has 800 bytes.
const VALUE_BYTES_MAX: usize = 1024;

trait Fields {
    fn bare(&mut self, name: &'static str, value: impl Display);
    fn quoted(&mut self, name: &'static str, value: &str);
    fn number(&mut self, name: &'static str, value: u64);
}

struct TextFields<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

struct JsonFields<'o> {
    out: &'o mut Vec<u8>,
}

impl TextFields<'_> {
    fn name(&mut self, name: &'static str) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b' ');
        }
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b'=');
    }
}

impl Fields for TextFields<'_> {
    fn bare(&mut self, name: &'static str, value: impl Display) {
        self.name(name);
        let _ = write!(self.out, "{value}");
    }

    fn quoted(&mut self, name: &'static str, value: &str) {
        self.name(name);
        // The debug form escapes quotes, backslashes and everything that would break a line or a terminal.
        let _ = write!(self.out, "{:?}", clipped(value));
    }

    fn number(&mut self, name: &'static str, value: u64) {
        self.bare(name, value);
    }
}

impl JsonFields<'_> {
    fn name(&mut self, name: &'static str) {
        let _ = write!(self.out, ",\"{name}\":");
    }
}

impl Fields for JsonFields<'_> {
    fn bare(&mut self, name: &'static str, value: impl Display) {
        self.quoted(name, &value.to_string());
    }

    fn quoted(&mut self, name: &'static str, value: &str) {
        self.name(name);
        // Strings always serialize, and a Vec always takes them.
        let _ = serde_json::to_writer(&mut *self.out, clipped(value));
    }

    fn number(&mut self, name: &'static str, value: u64) {
        self.name(name);
        let _ = write!(self.out, "{value}");
    }
}

#[cfg(test)]
mod tests;
