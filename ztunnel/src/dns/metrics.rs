//! The metrics of the DNS proxy (spec/dataplane.md 7), with their handles kept at hand for each kind of question.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::workload::Workload;
use mesh_telemetry::{Recorder, families, labels};
use metrics::{Counter, Histogram};
use parking_lot::Mutex;

use super::message::Transport;

/// The metrics of one pod's questions.
#[derive(Debug)]
pub struct DnsMetrics {
    recorder: Recorder,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Whose labels the handles carry.
    client: Option<Arc<Workload>>,
    handles: HashMap<(&'static str, Transport), Arc<Handles>>,
}

/// The handles of one kind of question: type and transport. There are some fifty types.
#[derive(Debug)]
pub struct Handles {
    requests: Counter,
    upstream_requests: Counter,
    upstream_failures: Counter,
    upstream_duration: Histogram,
}

impl DnsMetrics {
    pub fn new(recorder: Recorder) -> DnsMetrics {
        DnsMetrics { recorder, kept: Mutex::default() }
    }

    pub fn handles(&self, type_name: &'static str, transport: Transport, client: Option<&Arc<Workload>>) -> Arc<Handles> {
        let mut kept = self.kept.lock();
        let same = match (&kept.client, client) {
            (Some(kept), Some(client)) => Arc::ptr_eq(kept, client),
            (None, None) => true,
            _ => false,
        };
        if !same {
            *kept = Kept { client: client.cloned(), handles: HashMap::new() };
        }
        let make = || Arc::new(Handles::new(&self.recorder, type_name, transport, client.map(|client| &**client)));
        kept.handles.entry((type_name, transport)).or_insert_with(make).clone()
    }
}

impl Handles {
    fn new(recorder: &Recorder, type_name: &str, transport: Transport, client: Option<&Workload>) -> Handles {
        let protocol = match transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        let labels = labels::dns(type_name, protocol, client);
        Handles {
            requests: recorder.counter(&families::DNS_REQUESTS, &labels),
            upstream_requests: recorder.counter(&families::DNS_UPSTREAM_REQUESTS, &labels),
            upstream_failures: recorder.counter(&families::DNS_UPSTREAM_FAILURES, &labels),
            upstream_duration: recorder.histogram(&families::DNS_UPSTREAM_DURATION, &labels),
        }
    }

    pub fn asked(&self) {
        self.requests.increment(1);
    }

    pub fn forwarded(&self, took: Duration, answered: bool) {
        self.upstream_requests.increment(1);
        self.upstream_duration.record(took.as_secs_f64());
        if !answered {
            self.upstream_failures.increment(1);
        }
    }
}
