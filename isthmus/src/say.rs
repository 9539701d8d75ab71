//! Words for the operator, on standard error, so that tables and JSON on standard output stay clean. While the live
//! view owns the terminal they are held back and shown when it leaves.

use std::sync::Mutex;

use anstyle::{AnsiColor, Style};

/// Held back while the terminal is taken; the oldest are lost first.
static HELD: Mutex<Option<Vec<String>>> = Mutex::new(None);
const HELD_MAX: usize = 200;

pub const GOOD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green)));
pub const BAD: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red)));
pub const NOTE: Style = Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow)));
pub const STRONG: Style = Style::new().bold();

/// What was asked for, on standard output. A reader who has seen enough (`| head`) is no error.
pub fn out(text: impl std::fmt::Display) {
    use std::io::Write as _;
    let _ = writeln!(anstream::stdout(), "{text}");
}

pub fn line(text: &str) {
    write(text.to_owned());
}

pub fn warning(text: &str) {
    write(format!("{NOTE}warning:{NOTE:#} {text}"));
}

pub fn error(error: &anyhow::Error) {
    write(format!("{BAD}error:{BAD:#} {error:#}"));
}

fn write(text: String) {
    let mut held = HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match held.as_mut() {
        Some(lines) => {
            if lines.len() == HELD_MAX {
                lines.remove(0);
            }
            lines.push(text);
        }
        None => tell(&text),
    }
}

fn tell(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Holds words back until `release`.
pub fn hold() {
    *HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Vec::new());
}

pub fn release() {
    let lines = HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take().unwrap_or_default();
    for text in lines {
        tell(&text);
    }
}

/// What is wrong and lasts: each thing is said when it appears, and that it is over when it goes.
#[derive(Clone, Debug, Default)]
pub struct News {
    last: Vec<String>,
}

impl News {
    pub fn pass_on(&mut self, now: Vec<String>) {
        now.iter().filter(|text| !self.last.contains(text)).for_each(|text| warning(text));
        self.last.iter().filter(|text| !now.contains(text)).for_each(|text| line(&format!("{GOOD}settled:{GOOD:#} {text}")));
        self.last = now;
    }
}

/// The last words that are held back, for the live view's own line.
pub fn last_held() -> Option<String> {
    HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner).as_ref()?.last().cloned()
}
