//! Spans of time as objects write them: `1h30m`, `250ms`, `1.5s` (GEP-2257, and Go's for the Istio kinds).

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    pub fn ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// # Errors
    /// What is written is no span of time.
    pub fn parse(text: &str) -> Result<Span, String> {
        let bad = || format!("{text:?} is no duration: numbers with a unit each, such as 1h30m, 10s or 250ms");
        let mut rest = text;
        let mut seconds = 0.0_f64;
        if rest == "0" {
            return Ok(Span::default());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
            let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let unit = match &rest[..letters] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(bad()),
            };
            seconds += number * unit;
            rest = &rest[letters..];
        }
        if text.is_empty() {
            return Err(bad());
        }
        // Rounded, because 0.1 is no binary fraction.
        Duration::try_from_secs_f64((seconds * 1e9).round() / 1e9).map(Span).map_err(|_| bad())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Span, D::Error> {
        Span::parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_added_up() {
        let table = [("1h30m", Some(5_400_000)), ("250ms", Some(250)), ("1.5s", Some(1500)), ("0s", Some(0)), ("0", Some(0)), ("0.1s", Some(100)), ("1m0.25s", Some(60_250)), ("100us", Some(0)), ("", None), ("5", None), ("s", None), ("1d", None), ("-1s", None), ("1..5s", None), ("99999999999999999999h", None)];
        for (text, ms) in table {
            assert_eq!(Span::parse(text).ok().map(Span::ms), ms, "{text}");
        }
    }
}
