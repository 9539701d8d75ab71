//! From what there is to what is to be done: objects to apply, objects to delete, statuses to write. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::overlay;
use super::seen::{Address, CLASS, CONTROLLER, Gateway, Made, Parameters, Place, World};
use super::status::{self, Stage};
use super::template::{self, Settings};
use crate::objects::NsName;

/// The version of what is made. A Gateway that a newer controller has taken over says a higher one, and is left alone.
const VERSION: u32 = 5;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The class is not there. One that is there is never written to.
    pub creates_class: bool,
    pub apply: Vec<(Place, Value)>,
    /// With their uid: one of the same name that came since is another one.
    pub delete: Vec<(Place, String)>,
    pub statuses: Vec<(Subject, Value)>,
    /// What Gateways name and is to be looked up.
    pub config_maps: BTreeSet<NsName>,
    pub services: BTreeSet<NsName>,
}

/// Whose status.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Class(String),
    Gateway(NsName),
}

/// All that is to be done. `revisions`: the names of ours; Gateways of others are their controllers' to deploy.
pub fn plan(world: &World, settings: &Settings, revisions: &BTreeSet<Arc<str>>, now: &str) -> Plan {
    let mut plan = Plan { creates_class: !world.classes.contains_key(CLASS), ..Plan::default() };
    for (name, class) in world.classes.iter().filter(|(_, class)| class.controller == CONTROLLER) {
        plan.say(Subject::Class(name.clone()), status::class(class, now), &class.status);
    }
    let network = world.namespaces.get(&settings.root_namespace).and_then(|labels| labels.get("topology.istio.io/network")).map_or("", String::as_str);
    for (name, gateway) in &world.gateways {
        if gateway.is_deleting || !is_of(world, gateway, revisions) || is_of_a_newer(gateway) {
            continue;
        }
        let desired = match class_of(world, gateway) {
            Whose::Unknown => continue,
            // What was made while it was of a class of ours goes.
            Whose::Others => Desired::default(),
            Whose::Ours if gateway.is_deployed_here() => desired(world, gateway, settings, network, &mut plan),
            Whose::Ours => Desired { stage: Some(deployed_by_user(world, gateway, settings, &mut plan)), ..Desired::default() },
        };
        if !desired.keeps {
            plan.delete.extend(left_over(world, gateway, &desired.objects));
        }
        plan.apply.extend(desired.objects);
        if let Some(stage) = desired.stage {
            let routes = world.attached.get(name);
            let said = status::gateway(gateway, &stage, |listener| routes.and_then(|routes| routes.get(listener)).copied().unwrap_or(0), now);
            plan.say(Subject::Gateway(name.clone()), said, &gateway.status);
        }
    }
    plan
}

impl Plan {
    fn say(&mut self, subject: Subject, said: Value, held: &Value) {
        if !status::is_shown(&said, held) {
            self.statuses.push((subject, said));
        }
    }
}

enum Whose {
    Ours,
    Others,
    Unknown,
}

fn class_of(world: &World, gateway: &Gateway) -> Whose {
    match world.classes.get(&gateway.spec.gateway_class_name) {
        Some(class) if class.controller == CONTROLLER => Whose::Ours,
        Some(_) => Whose::Others,
        // It is about to be made.
        None if gateway.spec.gateway_class_name == CLASS => Whose::Ours,
        None => Whose::Unknown,
    }
}

/// The label of the object, else that of its namespace.
fn is_of(world: &World, gateway: &Gateway, revisions: &BTreeSet<Arc<str>>) -> bool {
    const REVISION: &str = "istio.io/rev";
    let of_namespace = || world.namespaces.get(&gateway.namespace).and_then(|labels| labels.get(REVISION));
    let revision = gateway.labels.get(REVISION).or_else(of_namespace).map_or("default", String::as_str);
    revisions.contains(revision)
}

fn is_of_a_newer(gateway: &Gateway) -> bool {
    let version = gateway.annotation("gateway.istio.io/controller-version").and_then(|version| version.parse::<u32>().ok());
    version.is_some_and(|version| version > VERSION)
}

#[derive(Default)]
struct Desired {
    objects: BTreeMap<Place, Value>,
    /// What is there stays, whatever `objects` says.
    keeps: bool,
    /// `None`: nothing is said.
    stage: Option<Stage>,
}

fn desired(world: &World, gateway: &Gateway, settings: &Settings, network: &str, plan: &mut Plan) -> Desired {
    let overlays = match overlays(world, gateway, plan) {
        Ok(overlays) => overlays,
        Err(why) => return Desired { keeps: true, stage: Some(Stage::WrongParameters(why)), ..Desired::default() },
    };
    let mut objects = BTreeMap::new();
    for made in Made::ALL {
        let is_optional = matches!(made, Made::HorizontalPodAutoscaler | Made::PodDisruptionBudget);
        let over: Vec<&Value> = overlays.iter().filter(|(of, _)| *of == made).map(|(_, over)| over).collect();
        if is_optional && over.is_empty() {
            continue;
        }
        let base = template::object(made, gateway, settings, network);
        let mut object = base.clone();
        over.into_iter().for_each(|over| overlay::merge(&mut object, over.clone()));
        stays_itself(&mut object, &base, made, gateway);
        objects.insert(gateway.place(made), object);
    }
    // Two would set it.
    if objects.contains_key(&gateway.place(Made::HorizontalPodAutoscaler))
        && let Some(spec) = objects.get_mut(&gateway.place(Made::Deployment)).and_then(|object| object["spec"].as_object_mut())
    {
        spec.remove("replicas");
    }
    // An account of the user's own is used as it is.
    objects.retain(|place, _| !(place.kind == Made::ServiceAccount && world.taken.contains(place)));
    let in_the_way = objects.keys().find_map(|place| Some((place.clone(), whose(world, gateway, place)?)));
    let stage = match in_the_way {
        Some((place, whose)) => {
            objects.remove(&place);
            Stage::NotMade(format!("{place} {whose}; name the Gateway otherwise, or set its annotation gateway.istio.io/name-override"))
        }
        None => stage(world, gateway, settings),
    };
    Desired { objects, keeps: false, stage: Some(stage) }
}

/// Whose a name is that something would be made under, if not this Gateway's.
fn whose(world: &World, gateway: &Gateway, place: &Place) -> Option<String> {
    if world.taken.contains(place) {
        return Some("is there and was not made for a Gateway".to_owned());
    }
    let held = world.made.get(place)?;
    (!is_owned(held, gateway)).then(|| {
        let owner = owners(held).next().and_then(|owner| owner["name"].as_str()).unwrap_or("another");
        format!("was made for Gateway {owner}")
    })
}

fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["ownerReferences"].as_array().into_iter().flatten()
}

fn is_owned(object: &Value, gateway: &Gateway) -> bool {
    owners(object).any(|owner| owner["kind"] == "Gateway" && owner["uid"] == gateway.uid.as_str())
}

/// What was made for this Gateway and is not wanted any more.
fn left_over(world: &World, gateway: &Gateway, wanted: &BTreeMap<Place, Value>) -> Vec<(Place, String)> {
    let ours = world.made.iter().filter(|(place, held)| *place.name.namespace == *gateway.namespace && is_owned(held, gateway));
    let unwanted = ours.filter(|(place, held)| !wanted.contains_key(place) && held["metadata"]["deletionTimestamp"].is_null());
    unwanted.map(|(place, held)| (place.clone(), held["metadata"]["uid"].as_str().unwrap_or_default().to_owned())).collect()
}

/// What is laid over the objects: of the class first, then of the Gateway itself.
fn overlays(world: &World, gateway: &Gateway, plan: &mut Plan) -> Result<Vec<(Made, Value)>, String> {
    let mut all: Vec<&Parameters> = world.defaults.get(&gateway.spec.gateway_class_name).into_iter().flatten().collect();
    let reference = gateway.spec.infrastructure.as_ref().and_then(|infrastructure| infrastructure.parameters_ref.as_ref());
    if let Some(reference) = reference {
        if reference.kind != "ConfigMap" || !reference.group.is_empty() {
            return Err(format!("spec.infrastructure.parametersRef: {} of group {:?} is not read; name a ConfigMap", reference.kind, reference.group));
        }
        let name = NsName::new(&gateway.namespace, &reference.name);
        plan.config_maps.insert(name.clone());
        match world.parameters.get(&name) {
            Some(Some(parameters)) => all.push(parameters),
            Some(None) => return Err(format!("spec.infrastructure.parametersRef: there is no ConfigMap {name}")),
            None => return Err(format!("spec.infrastructure.parametersRef: ConfigMap {name} is being read")),
        }
    }
    // As the API server's clients read YAML: `y` is a text.
    let options = serde_saphyr::options! { strict_booleans: true };
    let mut overlays = Vec::new();
    for parameters in all {
        for (key, text) in &parameters.data {
            let made = Made::ALL.into_iter().find(|made| made.overlay() == key);
            let made = made.ok_or_else(|| format!("ConfigMap {}: {key} is none of {}", parameters.name, Made::ALL.map(Made::overlay).join(", ")))?;
            match serde_saphyr::from_str_with_options(text, options.clone()) {
                Ok(over @ Value::Object(_)) => overlays.push((made, over)),
                Ok(_) => return Err(format!("ConfigMap {}: {key} is no object", parameters.name)),
                Err(error) => return Err(format!("ConfigMap {}: {key}: {}", parameters.name, error.to_string().lines().next().unwrap_or_default())),
            }
        }
    }
    Ok(overlays)
}

/// Whatever is laid over it, an object keeps its name, its owner and the labels by which it is found.
fn stays_itself(object: &mut Value, base: &Value, made: Made, gateway: &Gateway) {
    for field in ["apiVersion", "kind"] {
        object[field] = base[field].clone();
    }
    for field in ["name", "namespace", "ownerReferences"] {
        object["metadata"][field] = base["metadata"][field].clone();
    }
    let put = |labels: &mut Value, own: BTreeMap<String, String>| {
        if !labels.is_object() {
            *labels = json!({});
        }
        own.into_iter().for_each(|(key, value)| labels[key] = json!(value));
    };
    put(&mut object["metadata"]["labels"], template::identity(gateway));
    if made == Made::Deployment {
        object["spec"]["selector"] = base["spec"]["selector"].clone();
        put(&mut object["spec"]["template"]["metadata"]["labels"], template::pod_identity(gateway));
        template::tell_grace(&mut object["spec"]["template"]["spec"]);
    }
}

fn stage(world: &World, gateway: &Gateway, settings: &Settings) -> Stage {
    for made in Made::ALL {
        if let Some(why) = world.refused.get(&gateway.place(made)) {
            return Stage::NotMade(format!("{} cannot be applied: {why}", gateway.place(made)));
        }
    }
    let held = |made| world.made.get(&gateway.place(made));
    let (Some(deployment), Some(service)) = (held(Made::Deployment), held(Made::Service)) else {
        return Stage::NotReady("its Deployment and Service are being made".to_owned());
    };
    let count = |field: &str| deployment["status"][field].as_u64().unwrap_or(0);
    if count("readyReplicas") == 0 {
        let trouble = deployment["status"]["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == "ReplicaFailure" && condition["status"] == "True");
        let why = trouble.and_then(|trouble| trouble["message"].as_str()).map(|why| format!(": {why}")).unwrap_or_default();
        return Stage::NotReady(format!("no instance of Deployment {} is ready, {} are there{why}", gateway.made_name(), count("replicas")));
    }
    let hostname = format!("{}.{}.svc.{}", gateway.made_name(), gateway.namespace, settings.cluster_domain);
    let given = |kind: &str, value: &str| Address { kind: Some(kind.to_owned()), value: value.to_owned() };
    let ip = service["spec"]["clusterIP"].as_str().filter(|ip| ip.parse::<std::net::IpAddr>().is_ok()).map(|ip| given("IPAddress", ip));
    let wanted = gateway.annotation("networking.istio.io/address-type");
    let addresses: Vec<Address> = ip.into_iter().chain([given("Hostname", &hostname)]).filter(|address| wanted.is_none_or(|wanted| address.kind.as_deref() == Some(wanted))).collect();
    if addresses.is_empty() {
        return Stage::NotReady(format!("Service {} has no address of the type that annotation networking.istio.io/address-type asks for", gateway.made_name()));
    }
    Stage::Serving { addresses, service: hostname }
}

/// A Gateway with addresses of its own: somebody else deploys its program, and its Service has to be there.
fn deployed_by_user(world: &World, gateway: &Gateway, settings: &Settings, plan: &mut Plan) -> Stage {
    let mut missing = Vec::new();
    for address in &gateway.spec.addresses {
        if address.kind.as_deref() != Some("Hostname") {
            return Stage::WrongAddress("spec.addresses: only addresses of type Hostname say where a program is that others deploy".to_owned());
        }
        let mut parts = address.value.split('.');
        let name = NsName::new(parts.next().unwrap_or_default(), "");
        let service = NsName::new(parts.next().unwrap_or(&gateway.namespace), &name.namespace);
        plan.services.insert(service.clone());
        if !world.made.contains_key(&Place { kind: Made::Service, name: service.clone() }) && !world.taken.contains(&Place { kind: Made::Service, name: service.clone() }) {
            missing.push(service.to_string());
        }
    }
    if !missing.is_empty() {
        return Stage::NotMade(format!("spec.addresses: there is no Service {}", missing.join(", ")));
    }
    let host = |address: &Address| if address.value.contains('.') { address.value.clone() } else { format!("{}.{}.svc.{}", address.value, gateway.namespace, settings.cluster_domain) };
    let addresses: Vec<Address> = gateway.spec.addresses.iter().map(|address| Address { value: host(address), ..address.clone() }).collect();
    let service = addresses.iter().map(|address| address.value.as_str()).collect::<Vec<_>>().join(", ");
    Stage::Serving { addresses, service }
}
