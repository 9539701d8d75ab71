//! The rules for HTTP of one port of a service and one group of clients, so laid out that a look-up does not depend on how
//! many there are: exact paths in a map, prefixes in a tree of elements, the rest in a list.
//!
//! Every match has a rank, which is its place in `entries`; each part of the layout offers its candidates in that order,
//! and the least rank wins. So the order of precedence is written once, in `Rule::rank`, for both orders that there are.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::matcher::{Matcher, Path};
use super::{Matched, Rule};
use crate::facts::Head;

#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The first that matches is the one.
    entries: Vec<Entry>,
    exact: ByPath<Vec<Rank>>,
    /// The first is the root, whose prefix is empty.
    nodes: Vec<Node>,
    /// Patterns, prefixes of text, paths in whichever case: asked one by one.
    others: Vec<Rank>,
}

#[derive(Clone, Debug)]
struct Entry {
    rule: Arc<Rule>,
    by: usize,
}

type Rank = u32;

/// By texts of the configuration: what a peer asks for is only looked up.
type ByPath<T> = HashMap<Box<str>, T, RandomState>;

/// A prefix of whole elements.
#[derive(Clone, Debug, Default)]
struct Node {
    above: usize,
    below: ByPath<usize>,
    candidates: Vec<Rank>,
}

impl Table {
    pub fn new(rules: impl IntoIterator<Item = Arc<Rule>>) -> Table {
        let mut entries: Vec<Entry> = Vec::new();
        for rule in rules {
            entries.extend((0..rule.matches.len()).map(|by| Entry { rule: rule.clone(), by }));
        }
        entries.sort_by_cached_key(|entry| entry.rule.rank(entry.by));
        let mut table = Table { nodes: vec![Node::default()], ..Table::default() };
        for (rank, entry) in (0..).zip(&entries) {
            table.lay_out(rank, &entry.rule.matches[entry.by]);
        }
        table.entries = entries;
        table
    }

    fn lay_out(&mut self, rank: Rank, matcher: &Matcher) {
        match &matcher.path {
            Path::Exact { path, ignore_case: false } => self.exact.entry(path.clone()).or_default().push(rank),
            Path::Elements { prefix, ignore_case: false } => {
                let node = self.node(prefix);
                self.nodes[node].candidates.push(rank);
            }
            Path::Any => match matcher.grpc.as_ref().and_then(|grpc| grpc.service.as_ref()).and_then(|service| service.exact()) {
                // The path begins with the service, so only these requests need be asked.
                Some(service) if !service.contains('/') => {
                    let node = self.node(&format!("/{service}"));
                    self.nodes[node].candidates.push(rank);
                }
                _ => self.others.push(rank),
            },
            Path::Exact { .. } | Path::Elements { .. } | Path::Text { .. } | Path::Pattern { .. } => self.others.push(rank),
        }
    }

    fn node(&mut self, prefix: &str) -> usize {
        let mut at = 0;
        for element in prefix.split('/').skip(1) {
            at = match self.nodes[at].below.get(element) {
                Some(below) => *below,
                None => {
                    self.nodes.push(Node { above: at, ..Node::default() });
                    let new = self.nodes.len() - 1;
                    self.nodes[at].below.insert(element.into(), new);
                    new
                }
            };
        }
        at
    }

    /// The rule for this request. Allocates nothing, but where a header has several lines or a parameter is escaped.
    pub fn find(&self, head: &Head<'_>) -> Option<Matched> {
        let mut best = Rank::MAX;
        if let Some(candidates) = self.exact.get(head.path) {
            self.try_known(candidates, head, &mut best);
        }
        if head.path.starts_with('/') {
            let mut at = self.deepest(head.path);
            loop {
                self.try_known(&self.nodes[at].candidates, head, &mut best);
                if at == 0 {
                    break;
                }
                at = self.nodes[at].above;
            }
        }
        for rank in &self.others {
            if *rank >= best {
                break;
            }
            if self.matcher(*rank).matches(head) {
                best = *rank;
            }
        }
        let entry = self.entries.get(usize::try_from(best).ok()?)?;
        Some(Matched { rule: entry.rule.clone(), by: entry.by })
    }

    /// Of candidates whose path is known to match.
    fn try_known(&self, candidates: &[Rank], head: &Head<'_>, best: &mut Rank) {
        let better = candidates.iter().take_while(|rank| **rank < *best);
        if let Some(found) = better.copied().find(|rank| self.matcher(*rank).matches_beside_path(head)) {
            *best = found;
        }
    }

    /// The longest prefix in the tree that the path begins with.
    fn deepest(&self, path: &str) -> usize {
        let mut at = 0;
        for element in path.split('/').skip(1) {
            match self.nodes[at].below.get(element) {
                Some(below) => at = *below,
                None => break,
            }
        }
        at
    }

    fn matcher(&self, rank: Rank) -> &Matcher {
        let entry = &self.entries[rank as usize];
        &entry.rule.matches[entry.by]
    }

    /// In the order of precedence: a rule, and the number of its match.
    pub fn matches(&self) -> impl Iterator<Item = (&Arc<Rule>, usize)> {
        self.entries.iter().map(|entry| (&entry.rule, entry.by))
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
