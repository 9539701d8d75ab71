//! The `baggage` header: what a peer says about its workload. Pure; emitted and parsed exactly as spec/dataplane.md 1.3.
//!
//! It is what the peer *says*: good for telemetry where nothing better is known, never for authorization.

use http::{HeaderMap, HeaderValue};

/// The header's name.
pub const BAGGAGE: &str = "baggage";

/// The facts of a workload; an empty value on the wire is an absent one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    pub cluster: Option<String>,
    pub namespace: Option<String>,
    pub workload_kind: Option<WorkloadKind>,
    pub workload_name: Option<String>,
    /// `service.name`: the canonical name.
    pub service: Option<String>,
    /// `service.version`: the canonical revision.
    pub revision: Option<String>,
    pub region: Option<String>,
    pub zone: Option<String>,
}

/// The kind of object that owns the pod; it is part of the key on the wire (`k8s.deployment.name`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    Deployment,
    CronJob,
    Pod,
    Job,
}

impl WorkloadKind {
    fn key(self) -> &'static str {
        match self {
            WorkloadKind::Deployment => "k8s.deployment.name",
            WorkloadKind::CronJob => "k8s.cronjob.name",
            WorkloadKind::Pod => "k8s.pod.name",
            WorkloadKind::Job => "k8s.job.name",
        }
    }

    fn from_key(key: &str) -> Option<Self> {
        [WorkloadKind::Deployment, WorkloadKind::CronJob, WorkloadKind::Pod, WorkloadKind::Job]
            .into_iter()
            .find(|kind| kind.key() == key)
    }
}

impl Baggage {
    /// The header's value; empty when nothing is known.
    ///
    /// The format has no escaping, so a value that would break it (`,`, `=`, anything but visible ASCII) is left out.
    pub fn emit(&self) -> HeaderValue {
        let workload_key = self.workload_kind.unwrap_or(WorkloadKind::Pod).key();
        let fields = [
            ("k8s.cluster.name", &self.cluster),
            ("k8s.namespace.name", &self.namespace),
            (workload_key, &self.workload_name),
            ("service.name", &self.service),
            ("service.version", &self.revision),
            ("cloud.region", &self.region),
            ("cloud.availability_zone", &self.zone),
        ];
        let mut text = String::with_capacity(192);
        for (key, value) in fields {
            let Some(value) = value.as_deref().filter(|value| is_plain(value)) else { continue };
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(key);
            text.push('=');
            text.push_str(value);
        }
        HeaderValue::try_from(text).expect("keys and plain values are visible ASCII")
    }

    /// All `baggage` lines in turn; a later value of a key wins, and one line that is not visible ASCII voids it all.
    pub fn parse(headers: &HeaderMap) -> Baggage {
        let mut baggage = Baggage::default();
        for line in headers.get_all(BAGGAGE) {
            let Ok(line) = line.to_str() else { return Baggage::default() };
            for member in line.split(',') {
                baggage.read(member);
            }
        }
        baggage
    }

    /// One `key=value`; what follows a second `=` is not part of the value.
    fn read(&mut self, member: &str) {
        let mut pieces = member.split('=');
        let key = pieces.next().unwrap_or_default();
        let value = pieces.next().filter(|value| !value.is_empty()).map(str::to_owned);
        match key {
            "k8s.cluster.name" => self.cluster = value,
            "k8s.namespace.name" => self.namespace = value,
            "service.name" => self.service = value,
            "service.version" => self.revision = value,
            "cloud.region" => self.region = value,
            "cloud.availability_zone" => self.zone = value,
            _ => {
                if let Some(kind) = WorkloadKind::from_key(key) {
                    self.workload_kind = value.is_some().then_some(kind);
                    self.workload_name = value;
                }
            }
        }
    }
}

fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && b != b',' && b != b'=')
}

#[cfg(test)]
mod tests;
