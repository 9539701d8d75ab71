//! The snapshot that a request or a stream is judged by.

use std::sync::Arc;

use mesh_model::address::NamespacedHostname;
use mesh_telemetry::families::waypoint::SERVED_PARTING;
use mesh_telemetry::labels::fixed;

use super::Context;
use crate::proxy::now;
use crate::settings::{Binding, ServiceView, Settings};

/// For one port of a service.
pub struct Judged {
    pub settings: Arc<Settings>,
    /// None: it is not served.
    pub view: Option<Arc<ServiceView>>,
    /// It is bound to us no longer: who comes on connections that are open should open others, which go elsewhere.
    pub parted: bool,
}

impl Context {
    /// The present settings, or the last ones in which the port was bound if that is only a moment ago.
    pub fn judged(&self, host: &NamespacedHostname, port: u16) -> Judged {
        let settings = self.settings.load();
        if let Some(view) = settings.service(host, port).cloned() {
            return Judged { settings, view: Some(view), parted: false };
        }
        let before = self.world.with(|world| match settings.binding(&world.directory, host, port, now()) {
            Binding::Parting(before, view) => Some((before.clone(), view.clone())),
            Binding::Bound(_) | Binding::Expected | Binding::No => None,
        });
        match before {
            Some((settings, view)) => Judged { settings, view: Some(view), parted: true },
            None => Judged { settings, view: None, parted: true },
        }
    }
}

impl Judged {
    /// For the metrics; `what`: `request` or `stream`.
    pub fn count(&self, cx: &Context, what: &'static str) {
        if self.parted && self.view.is_some() {
            cx.books.recorder().counter(&SERVED_PARTING, &[fixed("what", what)]).increment(1);
        }
    }
}
