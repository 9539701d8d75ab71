//! Which waypoints serve a service, ready or not: what they serve they must know before anybody is sent to them.

use std::sync::Arc;

use mesh_model::service::Visibility;

use super::{Lens, Meta, NsName, Traffic, USE, USE_NAMESPACE, canary_name, described, wanted};
use crate::objects::gateway::{CLASS, CONTROLLER, GATEWAY_NAME};
use crate::objects::{Kind, Labels};
use crate::translate::Read;

/// Whether a Gateway is a waypoint that is told what to do by us: of our class, or of a class of this controller.
pub fn is_waypoint(lens: &Lens<'_>, name: &NsName) -> bool {
    lens.note_object(Kind::Gateway, name);
    let Some(gateway) = lens.cluster.gateways.get(name) else { return false };
    &*gateway.class == CLASS || is_class(lens, &gateway.class)
}

/// Whether a GatewayClass is one of waypoints.
pub fn is_class(lens: &Lens<'_>, class: &Arc<str>) -> bool {
    let name = NsName { namespace: "".into(), name: class.clone() };
    lens.note_object(Kind::GatewayClass, &name);
    lens.cluster.gateway_classes.get(&name).map_or(&**class == CLASS, |class| &*class.controller == CONTROLLER)
}

/// The waypoints that a Service or ServiceEntry asks for and that may serve it, the canary last.
pub fn serving(lens: &Lens<'_>, meta: &Meta, visibility: Visibility) -> Vec<NsName> {
    if super::is_managed(meta) {
        return Vec::new();
    }
    let Some((name, _)) = wanted(lens, &meta.namespace, &meta.labels, USE, USE_NAMESPACE) else { return Vec::new() };
    let names = [Some(name), canary_name(lens, meta)];
    names.into_iter().flatten().filter(|name| may_serve(lens, name, meta, visibility)).collect()
}

fn may_serve(lens: &Lens<'_>, name: &NsName, meta: &Meta, visibility: Visibility) -> bool {
    let is_hidden = visibility == Visibility::Namespace && name.namespace != meta.namespace;
    !is_hidden && described(lens, name).is_some_and(|waypoint| waypoint.allows(lens, &meta.namespace) && waypoint.traffic.takes(Traffic::Service))
}

/// How many pods of a Gateway are ready.
pub fn ready_instances(lens: &Lens<'_>, name: &NsName) -> u32 {
    lens.note(Read::Instances(name.clone()));
    let labels = Labels::from_iter([(GATEWAY_NAME.into(), name.name.clone())]);
    let pods = lens.cluster.selected(Kind::Pod, Some(&name.namespace), &labels);
    let ready = pods.iter().filter(|key| lens.cluster.pods.get(&key.name).and_then(|pod| pod.status.as_ref()).is_some_and(|status| status.is_ready));
    u32::try_from(ready.count()).unwrap_or(u32::MAX)
}
