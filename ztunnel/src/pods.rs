//! The pods that this daemon serves now: started and stopped by enrolment, shown by the admin endpoints.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_net::linux::PodNet;
use mesh_net::netns::Netns;
use mesh_net::sockopt::Options;
use mesh_runtime::{Drain, Drained};
use mesh_telemetry::families;
use metrics::{Counter, Gauge};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::dns::answer::Naming;
use crate::dns::serve::{Limits, Server, Settings};
use crate::dump::OlderDump;
use crate::enroll::zds::Place;
use crate::enroll::{Enrolled, PodInfo, PodUid, Stop};
use crate::older::{Captured, Older};
use crate::pod::{Mesh, Pod};

/// The mark that the field's rules know, for an agent that gives none (spec/dataplane.md 2.2).
const FIELD_MARK: u32 = 0x539;

/// The pods of a node.
pub struct Pods {
    mesh: Arc<Mesh>,
    /// The namespace of this process, to come back to.
    home: Netns,
    options: Options,
    dns: Option<Dns>,
    /// Where connections run; enrolment itself runs elsewhere.
    workers: Handle,
    drain: Drain,
    running: Mutex<HashMap<PodUid, Running>>,
    waiting: Mutex<Vec<(PodUid, PodInfo)>>,
    counts: Counts,
}

/// How names are answered in each pod.
#[derive(Clone)]
pub struct Dns {
    pub naming: Naming,
    pub servers: Vec<SocketAddr>,
    pub limits: Limits,
    pub addresses: Vec<SocketAddr>,
}

/// A pod that is served.
struct Running {
    pod: Arc<Pod<PodNet>>,
    older: Older,
}

struct Counts {
    active: Gauge,
    pending: Gauge,
    started: Counter,
    stopped: Counter,
}

impl Pods {
    /// # Errors
    /// When the process's own network namespace cannot be opened.
    pub fn new(mesh: Arc<Mesh>, options: Options, dns: Option<Dns>, workers: Handle, drain: Drain) -> io::Result<Pods> {
        let recorder = mesh.accounts.traffic().recorder().clone();
        let counts = Counts {
            active: recorder.gauge(&families::ACTIVE_PROXIES, &[]),
            pending: recorder.gauge(&families::PENDING_PROXIES, &[]),
            started: recorder.counter(&families::PROXIES_STARTED, &[]),
            stopped: recorder.counter(&families::PROXIES_STOPPED, &[]),
        };
        Ok(Pods { mesh, home: Netns::current()?, options, dns, workers, drain, running: Mutex::default(), waiting: Mutex::default(), counts })
    }

    /// Serves a pod from now on.
    ///
    /// # Errors
    /// The namespace cannot be entered or a port in it is taken; it may work later.
    pub async fn start(&self, pod: &Enrolled<Place>) -> io::Result<()> {
        let mark = Some(pod.mark.or(self.options.mark).unwrap_or(FIELD_MARK));
        let net = PodNet::new(pod.netns.0.clone(), self.home.clone(), Options { mark, ..self.options.clone() })?;
        let drain = self.drain.child();
        let (uid, info, mesh, dns) = (pod.uid.clone(), pod.info.clone(), self.mesh.clone(), self.dns.clone());
        let starting = async move {
            let started = Pod::start(uid, info, net.clone(), mesh, drain.clone()).await?;
            if let Some(dns) = dns
                && let Err(error) = dns.serve(&started, net).await
            {
                let _ = started.stop(Stop::Immediate).await;
                return Err(error);
            }
            Ok::<_, io::Error>(started)
        };
        let started = self.workers.spawn(starting).await.map_err(io::Error::other)??;
        tracing::info!(pod = %pod.info.name, namespace = %pod.info.namespace, uid = %pod.uid.0, "serving a pod");
        self.counts.started.increment(1);
        self.have_certificate_ready(&started);
        let _workers = self.workers.enter();
        let older = Older::watch(started.clone(), pod.captured.clone());
        self.running.lock().insert(pod.uid.clone(), Running { pod: started, older });
        Ok(())
    }

    /// The certificate is there before the first connection asks for it.
    fn have_certificate_ready(&self, pod: &Arc<Pod<PodNet>>) {
        let pod = pod.clone();
        self.workers.spawn(async move {
            let known = tokio::select! { known = pod.me() => known, () = pod.drain.soft() => return };
            if let Ok(me) = known {
                pod.mesh.credentials.prefetch(&me.identity());
            }
        });
    }

    /// The last pod of an identity is gone: its key need not be kept.
    fn forget_certificate(&self, pod: &Pod<PodNet>) {
        let same = |other: &Running| {
            let other = &other.pod.info;
            other.namespace == pod.info.namespace && other.service_account == pod.info.service_account
        };
        if self.running.lock().values().any(same) {
            return;
        }
        let held = pod.mesh.credentials.identities();
        for identity in held {
            if identity.namespace == pod.info.namespace && identity.service_account == pod.info.service_account {
                pod.mesh.credentials.forget(&identity);
            }
        }
    }

    /// What of a pod is captured, as the agent says now.
    pub fn captured(&self, uid: &PodUid, captured: Captured) {
        if let Some(running) = self.running.lock().get(uid) {
            running.older.captured(captured);
        }
    }

    /// Stops serving a pod; what is open is cut or drained in the background.
    pub fn stop(&self, uid: &PodUid, how: Stop) {
        let Some(Running { pod, .. }) = self.running.lock().remove(uid) else { return };
        self.counts.stopped.increment(1);
        self.forget_certificate(&pod);
        tracing::info!(pod = %pod.info.name, namespace = %pod.info.namespace, ?how, "no longer serving a pod");
        self.workers.spawn(async move {
            if let Drained::Forced { left } = pod.stop(how).await {
                tracing::info!(pod = %pod.info.name, left, "connections of a pod were cut at the end of its drain time");
            }
        });
    }

    /// Writes down how many pods are served and how many wait.
    pub fn count(&self, pending: Vec<(PodUid, PodInfo)>) {
        self.counts.active.set(self.running.lock().len() as f64);
        self.counts.pending.set(pending.len() as f64);
        *self.waiting.lock() = pending;
    }

    /// Pods that could not be started yet.
    pub fn waiting(&self) -> Vec<(PodUid, PodInfo)> {
        self.waiting.lock().clone()
    }

    /// All that run, in the order of their uids, with what is known of their older connections.
    pub fn list(&self) -> Vec<(Arc<Pod<PodNet>>, OlderDump)> {
        let mut pods: Vec<_> = self.running.lock().values().map(|one| (one.pod.clone(), one.older.seen())).collect();
        pods.sort_by(|(a, _), (b, _)| a.uid.cmp(&b.uid));
        pods
    }
}

impl Dns {
    async fn serve(&self, pod: &Pod<PodNet>, net: PodNet) -> io::Result<()> {
        let settings = Settings {
            net,
            own: pod.own.clone(),
            naming: self.naming.clone(),
            world: pod.mesh.world.clone(),
            servers: self.servers.clone(),
            recorder: pod.mesh.accounts.traffic().recorder().clone(),
            limits: self.limits,
        };
        Server::bind(settings, &self.addresses).await?.start(&pod.drain);
        Ok(())
    }
}
