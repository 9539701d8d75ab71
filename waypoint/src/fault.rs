//! Pure: delays and aborts on purpose (spec/waypoint.md 5.9). Not on retries, and never because a client's header says so.

use std::time::Duration;

use mesh_xds::messages::waypoint::{Fault, Fraction};
use rand::Rng;

/// What chance drew for a request: the delay comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drawn {
    /// Flag `DI`.
    pub delay: Option<Duration>,
    /// Flag `FI`.
    pub abort: Option<Abort>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    Http(u16),
    Grpc(u32),
}

/// Each of the two by itself.
pub fn draw(fault: &Fault, chance: &mut impl Rng) -> Drawn {
    let delay = (fault.delay_ms > 0).then(|| Duration::from_millis(fault.delay_ms));
    let abort = match (u16::try_from(fault.abort_status), fault.abort_grpc) {
        (Ok(status @ 200..=599), _) => Some(Abort::Http(status)),
        (_, Some(status)) => Some(Abort::Grpc(status)),
        _ => None,
    };
    Drawn {
        delay: delay.filter(|_| falls(fault.delay_fraction, chance)),
        abort: abort.filter(|_| falls(fault.abort_fraction, chance)),
    }
}

/// Whether one of the fraction's requests was drawn. No fraction at all: every request.
pub fn falls(fraction: Option<Fraction>, chance: &mut impl Rng) -> bool {
    let Some(Fraction { numerator, denominator }) = fraction else { return true };
    chance.random_range(0..if denominator == 0 { 100 } else { denominator }) < numerator
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn count(fault: &Fault, what: impl Fn(Drawn) -> bool) -> usize {
        let mut chance = SmallRng::seed_from_u64(7);
        (0..10_000).filter(|_| what(draw(fault, &mut chance))).count()
    }

    #[test]
    fn each_is_drawn_by_itself() {
        let fraction = |numerator, denominator| Some(Fraction { numerator, denominator });
        let fault = Fault {
            delay_ms: 5,
            delay_fraction: fraction(50, 0),
            abort_status: 418,
            abort_grpc: Some(3),
            abort_fraction: fraction(1_000, 10_000),
        };
        let near = |count: usize, expected: usize| count.abs_diff(expected) < 200;
        assert!(near(count(&fault, |drawn| drawn.delay == Some(Duration::from_millis(5))), 5_000));
        assert!(near(count(&fault, |drawn| drawn.abort == Some(Abort::Http(418))), 1_000), "HTTP has the say");
        assert!(near(count(&fault, |drawn| drawn.delay.is_some() && drawn.abort.is_some()), 500));
    }

    #[test]
    fn all_none_and_what_says_nothing() {
        let grpc = Fault { abort_grpc: Some(14), ..Fault::default() };
        assert_eq!(count(&grpc, |drawn| drawn == Drawn { delay: None, abort: Some(Abort::Grpc(14)) }), 10_000, "no fraction: all");
        let never = Fault { abort_status: 500, abort_fraction: Some(Fraction { numerator: 0, denominator: 100 }), ..Fault::default() };
        assert_eq!(count(&never, |drawn| drawn != Drawn::default()), 0);
        let all = Fault { abort_status: 500, abort_fraction: Some(Fraction { numerator: 100, denominator: 0 }), ..Fault::default() };
        assert_eq!(count(&all, |drawn| drawn.abort.is_some()), 10_000);
        assert_eq!(count(&Fault::default(), |drawn| drawn != Drawn::default()), 0);
    }
}
