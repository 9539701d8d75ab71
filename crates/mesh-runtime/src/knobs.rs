//! Settings. Each is declared once, where it is read: name, type, default, unit and a sentence; the parser, `--help`
//! and `docs/config.md` come from that one place. Reads a map that it is given, never the environment.
//!
//! A wrong value does not stop the reading: all that is wrong is told at once.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Reads settings from a map and remembers what was declared and what was wrong.
#[derive(Debug)]
pub struct Knobs<'a> {
    given: &'a BTreeMap<String, String>,
    section: &'static str,
    declared: Vec<Knob>,
    wrong: Vec<WrongSetting>,
}

/// One declared setting, as it is shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knob {
    pub section: &'static str,
    pub env: &'static str,
    pub kind: String,
    pub default: String,
    pub says: &'static str,
}

/// A setting whose value cannot be used: which, what it was, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{env}={value:?} cannot be used: expected {expected}")]
pub struct WrongSetting {
    pub env: String,
    pub value: String,
    pub expected: String,
}

/// Everything that is wrong with the settings of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongSettings(pub Vec<WrongSetting>);

/// A type that a setting can have.
pub trait Setting: Sized {
    /// What the documentation calls the type, with its unit.
    const KIND: &'static str;
    /// What an operator is told to write instead.
    const EXPECTED: &'static str;
    fn parse(text: &str) -> Option<Self>;
}

impl<'a> Knobs<'a> {
    pub fn new(given: &'a BTreeMap<String, String>) -> Knobs<'a> {
        Knobs { given, section: "", declared: Vec::new(), wrong: Vec::new() }
    }

    /// The heading under which the next settings are documented.
    pub fn section(&mut self, title: &'static str) {
        self.section = title;
    }

    /// A setting with a default. A wrong value is remembered, and the default stands in until `finish` refuses.
    pub fn value<T: Setting>(&mut self, env: &'static str, default: &'static str, says: &'static str) -> T {
        self.declare(env, T::KIND.to_owned(), default, says);
        self.read(env).unwrap_or_else(|| T::parse(default).expect("a default is written in the form that is asked of operators"))
    }

    /// A setting that may be absent; `otherwise` says what happens then.
    pub fn optional<T: Setting>(&mut self, env: &'static str, otherwise: &'static str, says: &'static str) -> Option<T> {
        self.declare(env, T::KIND.to_owned(), otherwise, says);
        self.read(env)
    }

    /// A number with a default that has to lie within bounds.
    pub fn within<T>(
        &mut self,
        env: &'static str,
        default: &'static str,
        bounds: std::ops::RangeInclusive<T>,
        says: &'static str,
    ) -> T
    where
        T: Setting + PartialOrd + fmt::Display,
    {
        let value: T = self.value(env, default, says);
        if bounds.contains(&value) {
            return value;
        }
        self.refuse(env, format!("{} from {} to {}", T::KIND, bounds.start(), bounds.end()));
        T::parse(default).expect("a default is written in the form that is asked of operators")
    }

    /// One word of a few. The first is the default.
    pub fn choice<T: Clone>(&mut self, env: &'static str, words: &[(&'static str, T)], says: &'static str) -> T {
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.declare(env, names.join(" \\| "), names[0], says);
        let Some(text) = self.given.get(env) else { return words[0].1.clone() };
        match words.iter().find(|(word, _)| word == text) {
            Some((_, meaning)) => meaning.clone(),
            None => {
                self.refuse(env, format!("one of {}", names.join(", ")));
                words[0].1.clone()
            }
        }
    }

    /// Every variable that begins with `prefix`, without it, e.g. `XDS_HEADER_`.
    pub fn prefixed(&mut self, prefix: &'static str, says: &'static str) -> BTreeMap<String, String> {
        self.declare(prefix, "text, any number".to_owned(), "–", says);
        let named = self.given.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?, value)));
        named.filter(|(key, _)| !key.is_empty()).map(|(key, value)| (key.to_owned(), value.clone())).collect()
    }

    /// Declares a setting that is documented here and read somewhere else, or that is only known to be refused.
    pub fn declare(&mut self, env: &'static str, kind: String, default: &str, says: &'static str) {
        debug_assert!(self.declared.iter().all(|knob| knob.env != env), "{env} is declared twice");
        self.declared.push(Knob { section: self.section, env, kind, default: default.to_owned(), says });
    }

    /// The text of a setting, if it is given.
    pub fn given(&self, env: &str) -> Option<&'a str> {
        self.given.get(env).map(String::as_str)
    }

    /// Remembers that the value given for `env` cannot be used, for a reason only the caller knows.
    pub fn refuse(&mut self, env: &str, expected: impl Into<String>) {
        let value = self.given(env).unwrap_or_default().chars().take(SHOWN).collect();
        self.wrong.push(WrongSetting { env: env.to_owned(), value, expected: expected.into() });
    }

    /// What was declared, or all that was wrong.
    pub fn finish(self) -> Result<Vec<Knob>, WrongSettings> {
        if self.wrong.is_empty() { Ok(self.declared) } else { Err(WrongSettings(self.wrong)) }
    }

    fn read<T: Setting>(&mut self, env: &str) -> Option<T> {
        let text = self.given(env)?;
        let value = T::parse(text);
        if value.is_none() {
            self.refuse(env, T::EXPECTED);
        }
        value
    }
}

/// How much of a wrong value an error repeats: enough to recognise it, and no whole file when one was pasted.
const SHOWN: usize = 200;

/// The settings as a page of Markdown, one table for each section.
pub fn markdown(knobs: &[Knob]) -> String {
    let mut page = String::new();
    let mut section = None;
    for knob in knobs {
        if section != Some(knob.section) {
            section = Some(knob.section);
            let _ = write!(page, "\n## {}\n\n| variable | type | default | meaning |\n|---|---|---|---|\n", knob.section);
        }
        let default = if knob.default.is_empty() { "(empty)" } else { &knob.default };
        let _ = writeln!(page, "| `{}` | {} | {} | {} |", shown(knob), knob.kind, default, knob.says);
    }
    page
}

/// The settings as text for a terminal.
pub fn help(knobs: &[Knob]) -> String {
    let mut text = String::new();
    let mut section = None;
    for knob in knobs {
        if section != Some(knob.section) {
            section = Some(knob.section);
            let _ = write!(text, "\n{}:\n", knob.section);
        }
        let kind = knob.kind.replace("\\|", "|");
        let _ = writeln!(text, "  {} ({kind}) [{}]\n      {}", shown(knob), knob.default, knob.says);
    }
    text
}

/// A variable's name; one that stands for all that begin with it is shown with a star.
fn shown(knob: &Knob) -> String {
    if knob.env.ends_with('_') { format!("{}*", knob.env) } else { knob.env.to_owned() }
}

impl fmt::Display for WrongSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, wrong) in self.0.iter().enumerate() {
            write!(f, "{}{wrong}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for WrongSettings {}

impl Setting for bool {
    const KIND: &'static str = "true \\| false";
    const EXPECTED: &'static str = "true or false";
    fn parse(text: &str) -> Option<bool> {
        match text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }
}

impl Setting for String {
    const KIND: &'static str = "text";
    const EXPECTED: &'static str = "text";
    fn parse(text: &str) -> Option<String> {
        Some(text.to_owned())
    }
}

impl Setting for PathBuf {
    const KIND: &'static str = "path";
    const EXPECTED: &'static str = "the path of a file";
    fn parse(text: &str) -> Option<PathBuf> {
        (!text.is_empty()).then(|| PathBuf::from(text))
    }
}

impl Setting for Duration {
    const KIND: &'static str = "duration";
    const EXPECTED: &'static str = "a duration with its unit, like 100ms, 180s, 5m or 24h";
    fn parse(text: &str) -> Option<Duration> {
        duration(text)
    }
}

impl Setting for IpAddr {
    const KIND: &'static str = "IP address";
    const EXPECTED: &'static str = "an IP address, like 10.0.0.1 or fd00::1";
    fn parse(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }
}

impl Setting for SocketAddr {
    const KIND: &'static str = "IP:port";
    const EXPECTED: &'static str = "an IP address and a port, like 127.0.0.1:15000 or [::1]:15000";
    fn parse(text: &str) -> Option<SocketAddr> {
        text.parse().ok()
    }
}

macro_rules! numbers {
    ($($kind:ty)*) => {$(
        impl Setting for $kind {
            const KIND: &'static str = "number";
            const EXPECTED: &'static str = concat!("a plain decimal number that fits ", stringify!($kind));
            fn parse(text: &str) -> Option<$kind> {
                // `+5` is what the standard library accepts and the field's parsers do not.
                text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
            }
        }
    )*};
}
numbers!(u16 u32 u64 usize);

/// `100ms`, `180s`, `5m`, `24h`, `7d`, or several of them together (`1h30m`). Nothing else: a bare number has no unit.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, one_ms) =
            [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)].into_iter().find(|(unit, _)| {
                rest.strip_prefix(unit).is_some_and(|after| !after.starts_with(|c: char| c.is_ascii_alphabetic()))
            })?;
        rest = &rest[unit.len()..];
        total = total.checked_add(Duration::from_millis(count.checked_mul(one_ms)?))?;
    }
    (!text.is_empty()).then_some(total)
}

/// Writes a duration in the form that `duration` reads.
pub fn duration_text(duration: Duration) -> String {
    let ms = duration.as_millis();
    match [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")]
        .into_iter()
        .find(|(one, _)| ms > 0 && ms.is_multiple_of(*one))
    {
        Some((one, unit)) => format!("{}{unit}", ms / one),
        None => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn values_come_from_the_map_and_else_from_the_default() {
        let given = map(&[("ON", "true"), ("TIME", "180s"), ("X_A", "1"), ("X_", "no name")]);
        let mut knobs = Knobs::new(&given);
        assert!(knobs.value::<bool>("ON", "false", "."));
        assert_eq!(knobs.value::<Duration>("TIME", "5m", "."), Duration::from_secs(180));
        assert_eq!(knobs.value::<u32>("STREAMS", "100", "."), 100);
        assert_eq!(knobs.optional::<IpAddr>("IP", "none", "."), None);
        assert_eq!(knobs.choice("MODE", &[("shared", 1), ("dedicated", 2)], "."), 1);
        assert_eq!(knobs.prefixed("X_", "."), map(&[("A", "1")]));
        assert_eq!(knobs.finish().unwrap().len(), 6);
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once_with_name_value_and_remedy() {
        let given = map(&[("ON", "True"), ("TIME", "5"), ("N", "+5"), ("MODE", "both"), ("PORT", "0")]);
        let mut knobs = Knobs::new(&given);
        let _: bool = knobs.value("ON", "false", ".");
        let _: Duration = knobs.value("TIME", "5m", ".");
        let _: u32 = knobs.value("N", "1", ".");
        knobs.choice("MODE", &[("shared", 1), ("dedicated", 2)], ".");
        let _: u16 = knobs.within("PORT", "15000", 1..=65535, ".");
        let told = knobs.finish().unwrap_err().to_string();
        assert_eq!(
            told,
            "ON=\"True\" cannot be used: expected true or false; \
             TIME=\"5\" cannot be used: expected a duration with its unit, like 100ms, 180s, 5m or 24h; \
             N=\"+5\" cannot be used: expected a plain decimal number that fits u32; \
             MODE=\"both\" cannot be used: expected one of shared, dedicated; \
             PORT=\"0\" cannot be used: expected number from 1 to 65535"
        );
    }

    #[test]
    fn only_durations_with_units_are_durations() {
        for (text, ms) in [
            ("100ms", 100),
            ("180s", 180_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("1d", 86_400_000),
            ("1h30m", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for wrong in ["", "5", "m", "5 m", "-5s", "5mm", "5min", "1.5h", "99999999999999999999s", "18446744073709551615h", "5m3"]
        {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
        for text in ["100ms", "3m", "1d", "90s", "0ms"] {
            assert_eq!(duration_text(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn the_page_has_one_table_for_each_section() {
        let empty = map(&[]);
        let mut knobs = Knobs::new(&empty);
        knobs.section("Pool");
        let _: u32 = knobs.value("STREAMS", "100", "Streams of one connection.");
        knobs.section("Names");
        let _: String = knobs.value("NETWORK", "", "Our network.");
        let knobs = knobs.finish().unwrap();
        assert_eq!(
            markdown(&knobs),
            "\n## Pool\n\n| variable | type | default | meaning |\n|---|---|---|---|\n| `STREAMS` | number | 100 | Streams of one connection. |\n\
             \n## Names\n\n| variable | type | default | meaning |\n|---|---|---|---|\n| `NETWORK` | text | (empty) | Our network. |\n"
        );
        assert!(help(&knobs).contains("STREAMS (number) [100]\n      Streams of one connection."));
    }
}
