//! What the agent counts, by name (spec/controlplane.md 10.1, and our own).

use std::time::Instant;

use mesh_telemetry::families::Family;
use mesh_telemetry::labels::fixed;
use mesh_telemetry::recorder::{Limits, Recorder};
use metrics::{Counter, Gauge};

const DAEMONS: Family = Family::gauge("ztunnel_connected", "Node daemons that are connected");
const PODS: Family = Family::gauge("isthmus_cni_pods", "Pods that node daemons are told of");
const ENROLLED: Family = Family::counter("isthmus_cni_enrolments_total", "Pods whose enrolment was completed");
const RELEASED: Family = Family::counter("isthmus_cni_releases_total", "Pods that left the mesh or ended");
const RETRIES: Family = Family::counter("isthmus_cni_retries_total", "Times that a pod could not be brought to where it should be");
/// Label: place = pod | node.
const REPAIRS: Family = Family::counter("isthmus_cni_repairs_total", "Times that rules which somebody else changed were put back");
const REPAIRS_FAILED: Family =
    Family::counter("isthmus_cni_repairs_failed_total", "Times that changed rules could not be put back");
const STRAYS: Family = Family::counter(
    "isthmus_cni_strays_cut_total",
    "Connections that were cut because they came about while somebody had removed a pod's rules",
);

const INSTALLS: Family = Family::counter("istio_cni_installs_total", "Times that the plugin was put into place");
const INSTALL_READY: Family = Family::gauge("istio_cni_install_ready", "Whether the plugin is installed as it should be");

/// The agent's counters. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    recorder: Recorder,
    pub daemons: Gauge,
    pub pods: Gauge,
    pub enrolled: Counter,
    pub released: Counter,
    pub retries: Counter,
    pub repairs_in_pods: Counter,
    pub repairs_of_node: Counter,
    pub repairs_failed: Counter,
    pub strays: Counter,
    pub installs: Counter,
    pub install_ready: Gauge,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let families = [DAEMONS, PODS, ENROLLED, RELEASED, RETRIES, REPAIRS, REPAIRS_FAILED, STRAYS, INSTALLS, INSTALL_READY];
        let recorder = Recorder::with_families(Limits::DEFAULT, &families);
        Metrics {
            daemons: recorder.gauge(&DAEMONS, &[]),
            pods: recorder.gauge(&PODS, &[]),
            enrolled: recorder.counter(&ENROLLED, &[]),
            released: recorder.counter(&RELEASED, &[]),
            retries: recorder.counter(&RETRIES, &[]),
            repairs_in_pods: recorder.counter(&REPAIRS, &[fixed("place", "pod")]),
            repairs_of_node: recorder.counter(&REPAIRS, &[fixed("place", "node")]),
            repairs_failed: recorder.counter(&REPAIRS_FAILED, &[]),
            strays: recorder.counter(&STRAYS, &[]),
            installs: recorder.counter(&INSTALLS, &[]),
            install_ready: recorder.gauge(&INSTALL_READY, &[]),
            recorder,
        }
    }
}

impl Metrics {
    /// What a scrape gets.
    pub fn exposed(&self, accept: Option<&str>, encoding: Option<&str>) -> mesh_telemetry::recorder::Exposition {
        self.recorder.expose(accept, encoding, Instant::now())
    }
}
