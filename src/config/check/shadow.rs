//! Routes that no request can reach, as earlier ones take all that they match.

use std::collections::HashMap;

use crate::route::{HostPattern, PathPattern, RouteKind};

/// What selects a route.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) hosts: Vec<HostPattern>,
    pub(super) paths: Vec<PathPattern>,
    pub(super) subprotocol: Option<String>,
    pub(super) kind: RouteKind,
}

/// For each route, an earlier one that takes part of its requests, if none are left to it.
pub(super) fn shadowed<'s>(selections: impl Iterator<Item = &'s Selection>) -> Vec<Option<usize>> {
    let mut earlier = Earlier::default();
    selections
        .enumerate()
        .map(|(route, selection)| {
            let by = earlier.covering(selection);
            earlier.add(route, selection);
            by
        })
        .collect()
}

/// The earlier routes' paths by host pattern as written, so that thousands of hosts are not compared pairwise.
#[derive(Default)]
struct Earlier<'s> {
    paths: HashMap<String, Vec<(&'s PathPattern, &'s Selection, usize)>>,
}

impl<'s> Earlier<'s> {
    fn add(&mut self, route: usize, selection: &'s Selection) {
        for host in &selection.hosts {
            let paths = self.paths.entry(written(host)).or_default();
            paths.extend(selection.paths.iter().map(|path| (path, selection, route)));
        }
    }

    /// The last route that it takes to cover every host and path of `selection`; `None` if one stays.
    fn covering(&self, selection: &Selection) -> Option<usize> {
        let combinations =
            selection.hosts.iter().flat_map(|host| selection.paths.iter().map(move |path| (host, path)));
        let by: Option<Vec<_>> =
            combinations.map(|(host, path)| self.covers(host, path, selection)).collect();
        by?.into_iter().max()
    }

    /// One earlier route for both kinds, or one for each.
    fn covers(&self, host: &HostPattern, path: &PathPattern, later: &Selection) -> Option<usize> {
        let wider = wider(host);
        let first = |kind: RouteKind| {
            let candidates = wider.iter().filter_map(|host| self.paths.get(host)).flatten();
            candidates
                .filter(|(of_path, earlier, _)| {
                    covers_path(of_path, path)
                        && covers_kind(earlier.kind, kind)
                        && covers_subprotocol(earlier, later)
                })
                .map(|(.., route)| *route)
                .min()
        };
        first(later.kind).or_else(|| match later.kind {
            RouteKind::Any => Some(first(RouteKind::Websocket)?.max(first(RouteKind::Http)?)),
            RouteKind::Websocket | RouteKind::Http => None,
        })
    }
}

/// The host patterns, as written, that take in all of this one: itself, those above it, `*`.
fn wider(host: &HostPattern) -> Vec<String> {
    let name = match host {
        HostPattern::Any => "",
        HostPattern::Exact(name) | HostPattern::Suffix(name) => name,
    };
    let parents = name.match_indices('.').map(|(dot, _)| format!("*{}", &name[dot..]));
    let mut wider: Vec<_> = parents.collect();
    wider.push(written(host));
    if *host != HostPattern::Any {
        wider.push(written(&HostPattern::Any));
    }
    wider
}

fn written(host: &HostPattern) -> String {
    match host {
        HostPattern::Any => "*".to_owned(),
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Suffix(name) => format!("*.{name}"),
    }
}

fn covers_path(earlier: &PathPattern, path: &PathPattern) -> bool {
    match (earlier, path) {
        (PathPattern::Exact(earlier), PathPattern::Exact(path)) => earlier == path,
        (PathPattern::Exact(_), PathPattern::Prefix(_)) => false,
        (PathPattern::Prefix(earlier), PathPattern::Exact(path) | PathPattern::Prefix(path)) => {
            path.strip_prefix(&**earlier).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    }
}

fn covers_kind(earlier: RouteKind, kind: RouteKind) -> bool {
    earlier == RouteKind::Any || earlier == kind
}

fn covers_subprotocol(earlier: &Selection, later: &Selection) -> bool {
    earlier.subprotocol.is_none() || earlier.subprotocol == later.subprotocol
}
