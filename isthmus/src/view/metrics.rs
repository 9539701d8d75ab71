//! Reads the OpenMetrics text of a daemon. Pure. Lines that are no samples, or that are not understood, are left out.

use std::collections::BTreeMap;

/// One number with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

pub fn samples(text: &str) -> Vec<Sample> {
    text.lines().filter_map(sample).collect()
}

fn sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = read_labels(inside, &mut labels)?;
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Reads `a="b",c="d"}` and gives what follows.
fn read_labels<'a>(mut text: &'a str, labels: &mut BTreeMap<String, String>) -> Option<&'a str> {
    loop {
        text = text.trim_start_matches(',');
        if let Some(rest) = text.strip_prefix('}') {
            return Some(rest);
        }
        let (key, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        loop {
            match characters.next()? {
                (at, '"') => {
                    text = &rest[at + 1..];
                    break;
                }
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        }
        labels.insert(key.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_and_the_rest_is_left_out() {
        let text = "# HELP a x\n# TYPE a counter\na_total{x=\"1\",y=\"q\\\"\\\\\\nz}\"} 3\nb 1.5\nbroken{x=\"1\nc{} 4 1234\n# EOF\n";
        let found = samples(text);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].labels["y"], "q\"\\\nz}");
        assert_eq!((found[0].value, found[1].value, found[2].value), (3.0, 1.5, 4.0));
    }
}
