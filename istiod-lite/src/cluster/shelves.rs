//! The objects by kind and name.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::objects::*;

pub type Shelf<T> = BTreeMap<NsName, Arc<T>>;

macro_rules! shelves {
    ($($kind:ident $name:literal $plural:literal $group:literal [$($version:literal),+] $shelf:ident;)+) => {
        #[derive(Debug, Default)]
        pub struct Shelves { $(pub $shelf: Shelf<$kind>),+ }

        impl Shelves {
            pub fn object(&self, key: &ObjectKey) -> Option<Object> {
                match key.kind { $(Kind::$kind => self.$shelf.get(&key.name).cloned().map(Object::$kind)),+ }
            }

            /// Names of one kind, of all namespaces or of one.
            pub fn names(&self, kind: Kind, namespace: Option<&Arc<str>>) -> Box<dyn Iterator<Item = &NsName> + '_> {
                match kind { $(Kind::$kind => keys(&self.$shelf, namespace)),+ }
            }

            pub(super) fn hold(&mut self, name: &NsName, object: &Object) {
                let name = name.clone();
                match object.clone() { $(Object::$kind(object) => drop(self.$shelf.insert(name, object))),+ }
            }

            pub(super) fn remove(&mut self, key: &ObjectKey) {
                match key.kind { $(Kind::$kind => drop(self.$shelf.remove(&key.name))),+ }
            }
        }
    };
}
with_kinds!(shelves);

fn keys<'a, T>(shelf: &'a Shelf<T>, namespace: Option<&Arc<str>>) -> Box<dyn Iterator<Item = &'a NsName> + 'a> {
    let Some(namespace) = namespace.cloned() else { return Box::new(shelf.keys()) };
    let from = NsName { namespace: namespace.clone(), name: "".into() };
    Box::new(shelf.range(from..).map(|(name, _)| name).take_while(move |name| name.namespace == namespace))
}
