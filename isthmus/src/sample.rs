//! The sample shop's YAML, kept in this program and written out for `up` without a folder.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// Names of the files and what is in them.
pub const FILES: [(&str, &str); 5] = [
    ("00-namespaces.yaml", include_str!("../sample/00-namespaces.yaml")),
    ("10-shop.yaml", include_str!("../sample/10-shop.yaml")),
    ("20-outside.yaml", include_str!("../sample/20-outside.yaml")),
    ("30-policies.yaml", include_str!("../sample/30-policies.yaml")),
    ("40-waypoint.yaml", include_str!("../sample/40-waypoint.yaml")),
];

/// Writes the sample into an empty folder.
pub fn write(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, text) in FILES {
        fs::write(folder.join(name), text).with_context(|| format!("cannot write {name} into {}", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Objects, read};

    #[test]
    fn the_sample_has_pods_on_two_nodes_inside_and_outside_of_the_mesh() {
        let mut objects = Objects::default();
        for (name, text) in FILES {
            assert_eq!(read(Path::new(name), text, &mut objects), []);
        }
        assert!(objects.pods.len() >= 5);
        let nodes: std::collections::BTreeSet<_> = objects.pods.values().map(|found| found.object.spec.node_name.clone()).collect();
        assert_eq!(nodes.len(), 2, "every pod names one of two nodes");
        assert!(objects.services.len() >= 4);
    }
}
