//! What is to be said about the mesh's configuration: settings that are not honoured, and those that need a restart.

use super::{Derived, Lens, Report};
use crate::objects::{Kind, NsName, ObjectKey};

pub fn report(lens: &Lens<'_>, name: &NsName) -> Derived {
    let Some(mesh) = lens.cluster.config_maps.get(name).and_then(|map| map.mesh.as_ref()) else { return Derived::default() };
    let key = ObjectKey { kind: Kind::ConfigMap, name: name.clone() };
    let mut report = Report::default();
    if key != *lens.cluster.config_key() {
        report.note(format!("is not the mesh's configuration: that is {}", lens.cluster.config_key()));
    } else {
        let settings = lens.settings;
        // Identities and the scope of policies would change under connections that are open; so they are decided at start.
        for (field, wanted, in_force, flag) in [
            ("trustDomain", &mesh.trust_domain, &settings.trust_domain, "--trust-domain"),
            ("rootNamespace", &mesh.root_namespace, &settings.root_namespace, "--namespace"),
        ] {
            if let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != in_force) {
                report.note(format!("data.mesh.{field}: {wanted} is not in force, {in_force} is: restart the controller with {flag}={wanted}"));
            }
        }
        report.notes.extend(mesh.unhonoured());
    }
    let reports = if report.is_empty() { Vec::new() } else { vec![(key, report)] };
    Derived { reports, ..Derived::default() }
}
