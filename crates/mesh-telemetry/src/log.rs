//! The daemon's own log: `tracing` events in the text and JSON forms of spec/dataplane.md 8.2, at levels that can be
//! changed while it runs (8.3). Not here: access lines, which take a shorter way.

mod format;

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::Subscriber;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{DefaultFields, JsonFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::{Layer, reload};

use self::format::{JsonEvents, TextEvents};
use crate::access_log::{AccessLog, Format};
use crate::levels::{BadLevel, Directives, LevelOf};
use crate::lines::{Lines, ROOM_BYTES, WhenFull};

/// The target of access lines, as filters name it.
const ACCESS: &str = "access";

/// The log of a process: its levels, and where its lines go.
#[derive(Clone)]
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    /// What the process was started with, and what is in force.
    started_with: Directives,
    in_force: Arc<Mutex<Directives>>,
    access_level: Arc<LevelOf>,
    lines: Lines,
    format: Format,
}

/// The log of the process, on its standard output: in force from here on.
///
/// # Errors
/// Levels that nobody understands, no thread to write with, or a log that is there already.
pub fn to_stdout(format: Format, levels: Option<&str>) -> std::io::Result<Log> {
    let lines = Lines::to(std::io::stdout(), ROOM_BYTES, WhenFull::Drop)?;
    let (log, subscriber) = log(lines, format, levels).map_err(std::io::Error::other)?;
    tracing::subscriber::set_global_default(subscriber).map_err(std::io::Error::other)?;
    Ok(log)
}

/// Makes the log, and the subscriber that has to be put in force (`tracing::subscriber::set_global_default` in `main`).
/// `levels` is what `RUST_LOG` says, added to the standard.
pub fn log(
    lines: Lines,
    format: Format,
    levels: Option<&str>,
) -> Result<(Log, impl Subscriber + Send + Sync + 'static), BadLevel> {
    let started_with = match levels {
        Some(levels) => Directives::standard().with(levels)?,
        None => Directives::standard(),
    };
    let (filter, handle) = reload::Layer::new(filter(&started_with)?);
    let out = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Out(lines.clone()));
    let layer = match format {
        Format::Text => out.fmt_fields(DefaultFields::new()).event_format(TextEvents).boxed(),
        Format::Json => out.fmt_fields(JsonFields::new()).event_format(JsonEvents).boxed(),
    };
    let access_level = Arc::new(LevelOf::fixed(started_with.level_of(ACCESS)));
    let in_force = Arc::new(Mutex::new(started_with.clone()));
    let log = Log { filter: handle, started_with, in_force, access_level, lines, format };
    Ok((log, tracing_subscriber::registry().with(filter).with(layer)))
}

impl Log {
    /// The access log that shares this log's writer, format and levels.
    pub fn access(&self) -> AccessLog {
        AccessLog::new(self.lines.clone(), self.format, self.access_level.clone())
    }

    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// The directives in force.
    pub fn levels(&self) -> String {
        self.in_force.lock().to_string()
    }

    /// Adds directives to those in force, or to those of the start when `reset`. A bad one changes nothing.
    pub fn set(&self, reset: bool, added: Option<&str>) -> Result<(), BadLevel> {
        let mut in_force = self.in_force.lock();
        let base = if reset { &self.started_with } else { &*in_force };
        let next = match added {
            Some(added) => base.with(added)?,
            None => base.clone(),
        };
        let filter = filter(&next)?;
        // Fails only when the subscriber is gone, and then nobody logs.
        let _ = self.filter.reload(filter);
        self.access_level.set(next.level_of(ACCESS));
        *in_force = next;
        Ok(())
    }

    /// What `POST /logging` is answered: HTTP status and body (spec/dataplane.md 8.3).
    pub fn answer(&self, reset: bool, level: Option<&str>) -> (u16, String) {
        if (reset || level.is_some())
            && let Err(bad) = self.set(reset, level)
        {
            return (400, format!("Invalid level provided: {bad}\n{USAGE}"));
        }
        (200, format!("current log level is {}\n", self.levels()))
    }
}

/// What a wrong request to `/logging` is told.
pub const USAGE: &str = "usage: POST /logging\t\t\t\t\t\t(To list current level)\n\
usage: POST /logging?level=<level>\t\t\t\t(To change the level: off, error, warn, info, debug, trace)\n\
usage: POST /logging?level=<target>=<level>,<level>\t\t(To change the level of one target and of the rest)\n\
usage: POST /logging?reset\t\t\t\t\t(To go back to the levels of the start)\n";

fn filter(directives: &Directives) -> Result<EnvFilter, BadLevel> {
    let text = directives.to_string();
    EnvFilter::try_new(&text).map_err(|_| BadLevel { clause: text })
}

/// Events go out as whole lines: one `write` per event.
#[derive(Clone, Debug)]
struct Out(Lines);

impl io::Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Out {
    type Writer = Out;

    fn make_writer(&'a self) -> Out {
        self.clone()
    }
}

#[cfg(test)]
mod tests;
