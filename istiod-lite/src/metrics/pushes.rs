//! What is measured of every message that discovery sends (spec/controlplane.md 10.1).

use mesh_telemetry::{Family, Recorder};
use mesh_xds::messages::{ADDRESS, AUTHORIZATION, WORKLOAD};
use mesh_xds::{Measure, Sent};
use metrics::{Counter, Histogram, Label};

/// From a translated change to a connection is a millisecond on an idle machine; the field's dashboards draw up to 30 s.
const SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 30.0];
/// One pod is some hundred bytes, a push at most a mebibyte, the first answer of a large mesh tens of them.
const BYTES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 4e6, 1e7, 4e7];

const PUSHES: Family = Family::counter("pilot_xds_pushes", "Discovery answers and pushes sent, by type");
const PUSH_TIME: Family = Family::histogram("pilot_xds_push_time", SECONDS, "From a request or a change to the connection that takes the message, seconds");
const SIZE: Family = Family::histogram("pilot_xds_config_size_bytes", BYTES, "Sizes of messages");
const CONVERGENCE: Family = Family::histogram("pilot_proxy_convergence_time", SECONDS, "From the publication of a change to the connection of a client that takes it, seconds");

/// The types in the field's words.
const TYPES: [(&str, &str); 3] = [(ADDRESS, "wds"), (WORKLOAD, "wds"), (AUTHORIZATION, "wads")];
/// Other types are asked for by nobody that we know, and answered with nothing.
const OTHER: &str = "unknown";

pub struct Pushes {
    wds: OfType,
    wads: OfType,
    other: OfType,
    convergence: Histogram,
}

struct OfType {
    pushes: Counter,
    time: Histogram,
    bytes: Histogram,
}

impl Pushes {
    pub fn new(recorder: &Recorder) -> Pushes {
        let of = |name: &'static str| {
            let labels = [Label::from_static_parts("type", name)];
            OfType { pushes: recorder.counter(&PUSHES, &labels), time: recorder.histogram(&PUSH_TIME, &labels), bytes: recorder.histogram(&SIZE, &labels) }
        };
        Pushes { wds: of("wds"), wads: of("wads"), other: of(OTHER), convergence: recorder.histogram(&CONVERGENCE, &[]) }
    }
}

impl Measure for Pushes {
    fn sent(&self, sent: Sent<'_>) {
        let of = match TYPES.iter().find(|(url, _)| *url == sent.type_url) {
            Some((_, "wds")) => &self.wds,
            Some(_) => &self.wads,
            None => &self.other,
        };
        of.pushes.increment(1);
        of.time.record(sent.took.as_secs_f64());
        of.bytes.record(sent.bytes as f64);
        if let Some(behind) = sent.behind {
            self.convergence.record(behind.as_secs_f64());
        }
    }
}
