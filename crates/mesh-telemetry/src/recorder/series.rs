//! One series: its value as atomics, and whether anybody still cares for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use metrics::{Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Label};

use crate::families::Kind;

/// A series as the recorder keeps it.
#[derive(Debug)]
pub(super) struct Series {
    value: Value,
    /// How far it had come when it was last looked at, and when that was new.
    seen: u64,
    moved: Option<Instant>,
}

/// What is counted. Whoever holds a handle holds a clone.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Count(Arc<Count>),
    Level(Arc<Level>),
    Spread(Arc<Spread>),
}

/// A whole number that grows.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

/// A fraction, as the bits of an `f64`.
#[derive(Debug, Default)]
pub(super) struct Level(AtomicU64);

/// How often a value fell below each bound, and the sum. No samples are kept.
#[derive(Debug)]
pub(super) struct Spread {
    pub(super) bounds: &'static [f64],
    /// One for each bound and one for what is above all of them; not cumulative.
    counts: Box<[AtomicU64]>,
    sum: Level,
}

/// The labels as they stand between the braces.
pub(super) fn series_text(labels: &[Label]) -> String {
    let mut text = String::with_capacity(labels.iter().map(|label| label.key().len() + label.value().len() + 4).sum());
    for (index, label) in labels.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(label.key());
        text.push_str("=\"");
        for c in label.value().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                _ => text.push(c),
            }
        }
        text.push('"');
    }
    text
}

impl Series {
    pub(super) fn new(value: Value) -> Series {
        Series { value, seen: 0, moved: None }
    }

    pub(super) fn value(&self) -> &Value {
        &self.value
    }

    /// Whether nobody holds it and it has not moved for `idle`.
    pub(super) fn is_idle(&mut self, now: Instant, idle: Duration) -> bool {
        let (held, progress) = match &self.value {
            Value::Count(count) => (Arc::strong_count(count) > 1, count.0.load(Ordering::Relaxed)),
            Value::Level(level) => (Arc::strong_count(level) > 1, level.0.load(Ordering::Relaxed)),
            Value::Spread(spread) => (Arc::strong_count(spread) > 1, spread.total()),
        };
        match self.moved {
            Some(moved) if !held && progress == self.seen => now.saturating_duration_since(moved) >= idle,
            _ => {
                (self.seen, self.moved) = (progress, Some(now));
                false
            }
        }
    }
}

impl Value {
    pub(super) fn of(kind: &Kind) -> Value {
        match kind {
            Kind::Counter => Value::Count(Arc::default()),
            Kind::Gauge | Kind::CounterOfFractions => Value::Level(Arc::default()),
            Kind::Histogram(bounds) => Value::Spread(Arc::new(Spread::new(bounds))),
        }
    }

    // A handle of the wrong kind counts nothing: the family's declaration is right, the caller is not, and tests see it.

    pub(super) fn counter(self) -> Counter {
        match self {
            Value::Count(count) => Counter::from_arc(count),
            other => wrong(other, Counter::noop()),
        }
    }

    pub(super) fn gauge(self) -> Gauge {
        match self {
            Value::Level(level) => Gauge::from_arc(level),
            other => wrong(other, Gauge::noop()),
        }
    }

    pub(super) fn histogram(self) -> Histogram {
        match self {
            Value::Spread(spread) => Histogram::from_arc(spread),
            other => wrong(other, Histogram::noop()),
        }
    }
}

fn wrong<T>(value: Value, noop: T) -> T {
    debug_assert!(false, "a series is used as another kind than it was declared: {value:?}");
    noop
}

impl Count {
    pub(super) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }
}

impl Level {
    pub(super) fn now(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn change(&self, by: f64) {
        let add = |bits| Some((f64::from_bits(bits) + by).to_bits());
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

impl GaugeFn for Level {
    fn increment(&self, value: f64) {
        self.change(value);
    }

    fn decrement(&self, value: f64) {
        self.change(-value);
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

impl Spread {
    fn new(bounds: &'static [f64]) -> Spread {
        Spread { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: Level::default() }
    }

    fn total(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The sum, and how many values fell at or below each bound, the last of which is infinite.
    pub(super) fn now(&self) -> (f64, Vec<u64>) {
        let mut below = 0;
        let cumulated = self.counts.iter().map(|count| {
            below += count.load(Ordering::Relaxed);
            below
        });
        (self.sum.now(), cumulated.collect())
    }
}

impl HistogramFn for Spread {
    fn record(&self, value: f64) {
        let slot = self.bounds.partition_point(|bound| *bound < value);
        self.counts[slot].fetch_add(1, Ordering::Relaxed);
        self.sum.change(value);
    }
}
