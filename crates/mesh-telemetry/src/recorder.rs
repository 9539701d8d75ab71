//! The recorder: series in memory, and the OpenMetrics text that a scrape gets (spec/dataplane.md 8.1).
//!
//! A series' text is made once, when it is made; adding is one atomic addition; a scrape copies. A series that nobody
//! holds and that does not move goes away, and there is a cap, so that neither dead pods nor a clever one can fill the
//! node. It is passed to whoever needs it and is never process-wide: ten simulated nodes have ten of them.

mod exposition;
mod series;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Metadata, SharedString, Unit};
use parking_lot::{Mutex, RwLock};

pub use self::exposition::Exposition;
use self::series::{Series, Value, series_text};
use crate::families::{self, Family, Kind};

/// Bounds of the recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Series there may be, overflow series not counted.
    pub series: usize,
    /// How long a series that nobody holds stays after it last moved.
    pub idle: Duration,
}

/// Keeps the series of one node. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Recorder {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    shelves: RwLock<BTreeMap<String, Arc<Shelf>>>,
    /// Series on all shelves; a little above the cap when threads race, which does no harm.
    count: AtomicU64,
    dropped: Counter,
}

/// Labels as they stand between the braces, made once. Families that count the same thing share it: with long names of
/// workloads the text is the greater part of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelText(Arc<str>);

/// The series of one family.
#[derive(Debug)]
struct Shelf {
    family: Family,
    series: Mutex<BTreeMap<Arc<str>, Series>>,
}

impl LabelText {
    pub fn of(labels: &[Label]) -> LabelText {
        LabelText(series_text(labels).into())
    }
}

impl Limits {
    /// 20,000 series are 4,000 pairs of talking workloads and 20 MB of text; ten minutes are longer than any scrape interval,
    /// so the last value of a series is always scraped before it goes.
    pub const DEFAULT: Limits = Limits { series: 20_000, idle: Duration::from_secs(600) };
}

impl Recorder {
    /// A recorder with the families of the data plane.
    pub fn new(limits: Limits) -> Recorder {
        Recorder::with_families(limits, families::ALL)
    }

    /// A recorder with these families (and the one that counts what did not fit).
    pub fn with_families(limits: Limits, families: &[Family]) -> Recorder {
        let dropped = Value::of(&families::SERIES_DROPPED.kind);
        let shelf = Shelf::new(families::SERIES_DROPPED);
        shelf.series.lock().insert("".into(), Series::new(dropped.clone()));
        let mut shelves = BTreeMap::from([(families::SERIES_DROPPED.name.to_string(), Arc::new(shelf))]);
        for family in families {
            shelves.entry(family.name.to_string()).or_insert_with(|| Arc::new(Shelf::new(family.clone())));
        }
        let state = State { limits, shelves: RwLock::new(shelves), count: AtomicU64::new(0), dropped: dropped.counter() };
        Recorder { state: Arc::new(state) }
    }

    /// The counter of this family with these labels, which are printed in this order.
    pub fn counter(&self, family: &Family, labels: &[Label]) -> Counter {
        self.value(family, Cow::Owned(LabelText::of(labels))).counter()
    }

    /// As `counter`, with a text that several families share.
    pub fn counter_at(&self, family: &Family, labels: &LabelText) -> Counter {
        self.value(family, Cow::Borrowed(labels)).counter()
    }

    /// As `histogram`, with a text that several families share.
    pub fn histogram_at(&self, family: &Family, labels: &LabelText) -> Histogram {
        self.value(family, Cow::Borrowed(labels)).histogram()
    }

    /// The gauge of this family with these labels; also a counter of fractions, which only ever grows.
    pub fn gauge(&self, family: &Family, labels: &[Label]) -> Gauge {
        self.value(family, Cow::Owned(LabelText::of(labels))).gauge()
    }

    pub fn histogram(&self, family: &Family, labels: &[Label]) -> Histogram {
        self.value(family, Cow::Owned(LabelText::of(labels))).histogram()
    }

    /// How many series there are.
    pub fn series(&self) -> usize {
        self.state.count.load(Ordering::Relaxed) as usize
    }

    /// Lets go of series that nobody holds and that did not move for the idle time. Gauges stay: their value is a fact
    /// about now, whoever set it. Called before each scrape.
    pub fn sweep(&self, now: Instant) {
        for shelf in self.shelves() {
            if matches!(shelf.family.kind, Kind::Gauge) {
                continue;
            }
            let mut series = shelf.series.lock();
            let before = series.len();
            series.retain(|labels, one| stays(labels) || !one.is_idle(now, self.state.limits.idle));
            self.state.count.fetch_sub((before - series.len()) as u64, Ordering::Relaxed);
        }
    }

    /// The text of all families, of which series that idled are gone.
    pub fn render(&self, now: Instant) -> Vec<u8> {
        self.sweep(now);
        let mut body = Vec::new();
        for shelf in self.shelves() {
            // The lock is held while pointers are copied, not while text is made: who registers a series never waits for a scrape.
            let snapshot: Vec<(Arc<str>, Value)> =
                shelf.series.lock().iter().map(|(labels, series)| (labels.clone(), series.value().clone())).collect();
            exposition::family(&mut body, &shelf.family, &snapshot);
        }
        body.extend_from_slice(b"# EOF\n");
        body
    }

    /// What a scrape with these request headers is answered.
    pub fn expose(&self, accept: Option<&str>, accept_encoding: Option<&str>, now: Instant) -> Exposition {
        exposition::expose(self.render(now), accept, accept_encoding)
    }

    fn shelves(&self) -> Vec<Arc<Shelf>> {
        self.state.shelves.read().values().cloned().collect()
    }

    fn value(&self, family: &Family, labels: Cow<'_, LabelText>) -> Value {
        let shelf = self.state.shelves.read().get(&*family.name).cloned();
        let shelf = shelf.unwrap_or_else(|| {
            self.state
                .shelves
                .write()
                .entry(family.name.to_string())
                .or_insert_with(|| Arc::new(Shelf::new(family.clone())))
                .clone()
        });
        let mut series = shelf.series.lock();
        if let Some(known) = series.get(&*labels.0) {
            return known.value().clone();
        }
        let full = !labels.0.is_empty() && self.state.count.load(Ordering::Relaxed) >= self.state.limits.series as u64;
        if full {
            self.state.dropped.increment(1);
            // One series for all that did not fit keeps the family's sum right.
            let overflow = || Series::new(Value::of(&shelf.family.kind));
            return series.entry(OVERFLOW.into()).or_insert_with(overflow).value().clone();
        }
        self.state.count.fetch_add(1, Ordering::Relaxed);
        let value = Value::of(&shelf.family.kind);
        series.insert(labels.into_owned().0, Series::new(value.clone()));
        value
    }

    fn family_of(&self, name: &str, kind: Kind) -> Family {
        match self.state.shelves.read().get(name) {
            Some(shelf) => shelf.family.clone(),
            None => Family { name: name.to_owned().into(), kind, help: "".into() },
        }
    }

    fn describe(&self, name: &str, kind: Kind, help: String) {
        let mut shelves = self.state.shelves.write();
        shelves
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Shelf::new(Family { name: name.to_owned().into(), kind, help: help.into() })));
    }
}

/// The labels of the series that stands for all that did not fit.
const OVERFLOW: &str = "overflow=\"true\"";

/// A series without labels, or for the overflow, is one per family: it costs nothing to keep and says something at zero.
fn stays(labels: &str) -> bool {
    labels.is_empty() || labels == OVERFLOW
}

impl Shelf {
    fn new(family: Family) -> Shelf {
        Shelf { family, series: Mutex::new(BTreeMap::new()) }
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(key.as_str(), Kind::Counter, description.into_owned());
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(key.as_str(), Kind::Gauge, description.into_owned());
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(key.as_str(), Kind::Histogram(families::SECONDS), description.into_owned());
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels: Vec<Label> = key.labels().cloned().collect();
        self.counter(&self.family_of(key.name(), Kind::Counter), &labels)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let labels: Vec<Label> = key.labels().cloned().collect();
        self.gauge(&self.family_of(key.name(), Kind::Gauge), &labels)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let labels: Vec<Label> = key.labels().cloned().collect();
        self.histogram(&self.family_of(key.name(), Kind::Histogram(families::SECONDS)), &labels)
    }
}

#[cfg(test)]
mod tests;
