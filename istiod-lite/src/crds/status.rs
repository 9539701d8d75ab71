//! The status of an object: conditions by type, of whoever writes them, and the addresses that were given to hosts.

use super::schema::{Schema, keyed_list, list, number_or_text, object, one_of, text};
use crate::objects::Kind;

pub fn of(kind: Kind) -> Schema {
    let what = "What controllers say about the object";
    match kind {
        Kind::ServiceEntry => object(what, [("conditions", conditions()), ("addresses", addresses())]),
        _ => object(what, [("conditions", conditions())]),
    }
}

fn conditions() -> Schema {
    let condition = object(
        "",
        [
            ("type", text("What is said, such as ZtunnelAccepted")),
            ("status", one_of("Whether it holds", &["True", "False", "Unknown"])),
            ("reason", text("Why, in one word")),
            ("message", text("Why, in a sentence")),
            ("observedGeneration", number_or_text("The metadata.generation of which it is said")),
            ("lastTransitionTime", Schema { format: Some("date-time".to_owned()), ..text("When status changed last") }),
        ],
    );
    keyed_list("Of each type one", "type", condition)
}

fn addresses() -> Schema {
    let address = object("", [("value", text("The address")), ("host", text("Whose it is, of spec.hosts"))]);
    list("Addresses that were given to hosts without one", address)
}
