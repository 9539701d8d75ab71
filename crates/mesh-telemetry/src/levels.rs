//! Log levels as an operator writes them: `debug`, or `access=debug,info`. Pure; `log` puts them into force.

use std::sync::atomic::{AtomicU8, Ordering};

/// How much is said, growing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Directives in force: a level for each target, and one for the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    targets: Vec<(String, String)>,
    rest: Level,
}

/// A directive that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{clause:?} is no log level: expected off, error, warn, info, debug, trace, or target=level, separated by commas")]
pub struct BadLevel {
    pub clause: String,
}

/// The level of one target, read at each line and changed while running.
#[derive(Debug)]
pub struct LevelOf(AtomicU8);

/// What the field's daemons are silent about by default; an operator's tools expect to read it back (spec/dataplane.md 8.2).
const QUIET: (&str, &str) = ("hickory_server::server", "off");

/// Directives longer than this are refused: nobody types them.
const LONGEST: usize = 4096;

impl Level {
    const ALL: [Level; 6] = [Level::Off, Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];

    pub fn as_str(self) -> &'static str {
        match self {
            Level::Off => "off",
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }

    pub fn parse(text: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(text))
    }
}

impl Directives {
    /// What holds when nothing was said: `info`.
    pub fn standard() -> Directives {
        Directives { targets: vec![(QUIET.0.to_owned(), QUIET.1.to_owned())], rest: Level::Info }
    }

    /// These directives after an operator added `text`; what it says about a target replaces what was said before.
    pub fn with(&self, text: &str) -> Result<Directives, BadLevel> {
        let bad = |clause: &str| BadLevel { clause: clause.chars().take(100).collect() };
        if text.len() > LONGEST {
            return Err(bad(text));
        }
        let mut next = self.clone();
        for clause in text.split(',').map(str::trim) {
            match (Level::parse(clause), clause.rsplit_once('=')) {
                (Some(level), _) => next.rest = level,
                (None, Some((target, level))) if sound_target(target) => {
                    let level = Level::parse(level).ok_or_else(|| bad(clause))?;
                    next.targets.retain(|(known, _)| known != target);
                    next.targets.push((target.to_owned(), level.as_str().to_owned()));
                }
                _ => return Err(bad(clause)),
            }
        }
        Ok(next)
    }

    /// The level of a target: the longest directive that its name begins with, else the rest's.
    pub fn level_of(&self, target: &str) -> Level {
        let matching = self.targets.iter().filter(|(name, _)| target.starts_with(name.as_str()));
        let longest = matching.max_by_key(|(name, _)| name.len());
        longest.and_then(|(_, level)| Level::parse(level)).unwrap_or(self.rest)
    }
}

/// A target is a path of names; spans and their fields are not filtered by.
fn sound_target(target: &str) -> bool {
    !target.is_empty() && target.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:-.".contains(&byte))
}

impl std::fmt::Display for Directives {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (target, level) in &self.targets {
            write!(f, "{target}={level},")?;
        }
        f.write_str(self.rest.as_str())
    }
}

impl LevelOf {
    pub fn fixed(level: Level) -> LevelOf {
        LevelOf(AtomicU8::new(level as u8))
    }

    pub fn set(&self, level: Level) {
        self.0.store(level as u8, Ordering::Relaxed);
    }

    /// Whether a line of this level is written.
    pub fn lets(&self, level: Level) -> bool {
        level as u8 <= self.0.load(Ordering::Relaxed) && level != Level::Off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Z-003
    #[test]
    fn directives_add_up_and_bad_ones_are_refused() {
        let start = Directives::standard();
        assert_eq!(start.to_string(), "hickory_server::server=off,info");
        for (added, shown) in [
            ("debug", "hickory_server::server=off,debug"),
            ("access=debug,info", "hickory_server::server=off,access=debug,info"),
            ("WARN, ztunnel::dns=trace", "hickory_server::server=off,ztunnel::dns=trace,warn"),
            ("access=debug,access=off", "hickory_server::server=off,access=off,info"),
            ("hickory_server::server=info", "hickory_server::server=info,info"),
        ] {
            assert_eq!(start.with(added).unwrap().to_string(), shown, "{added}");
        }
        for bad in [
            "",
            "loud",
            "access",
            "access=",
            "access=loud",
            "=debug",
            "debug,",
            "a b=debug",
            "a[x]=debug",
            "a=b=debug",
            &"x=info,".repeat(1000),
        ] {
            assert!(start.with(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(
            start.with("info,loud").unwrap_err().to_string(),
            "\"loud\" is no log level: expected off, error, warn, info, debug, trace, or target=level, separated by commas"
        );
    }

    #[test]
    fn the_longest_name_decides() {
        let directives = Directives::standard().with("warn,ztunnel=debug,ztunnel::dns=off").unwrap();
        for (target, level) in [
            ("ztunnel::outbound", Level::Debug),
            ("ztunnel::dns::serve", Level::Off),
            ("access", Level::Warn),
            ("h2", Level::Warn),
        ] {
            assert_eq!(directives.level_of(target), level, "{target}");
        }
    }

    #[test]
    fn a_level_lets_through_what_is_more_urgent() {
        let level = LevelOf::fixed(Level::Info);
        assert!(level.lets(Level::Error) && level.lets(Level::Info) && !level.lets(Level::Debug));
        level.set(Level::Off);
        assert!(!level.lets(Level::Error) && !level.lets(Level::Off));
    }
}
