//! What has to be true of a configuration as a whole.

use super::{Address, Config, ProxyProtocol, Route, ScopeKind, ViewShape, defaults};

impl Config {
    /// Fills in what follows from the rest, and refuses what contradicts itself.
    pub(super) fn check(&mut self) -> Result<(), Wrong> {
        if self.listener.is_empty() {
            return wrong(&["listener"], "there is none (expected [[listener]] with an address)");
        }
        for (index, listener) in self.listener.iter().enumerate() {
            let is_first = self.listener[..index].iter().all(|other| other.address != listener.address);
            let index = index.to_string();
            if !is_first {
                return wrong(&["listener", &index, "address"], "another listener has it, too");
            }
            if listener.mode.is_some() && !matches!(listener.address.0, Address::Unix(_)) {
                return wrong(&["listener", &index, "mode"], "there is no file (expected an address unix:PATH)");
            }
            if listener.proxy_protocol == ProxyProtocol::Required && self.client.trusted.is_empty() {
                return wrong(
                    &["listener", &index, "proxy_protocol"],
                    "whoever connects could claim any address (expected client.trusted with the load balancer's networks)",
                );
            }
            if listener.tls.as_ref().is_some_and(|tls| tls.certificates.is_empty()) {
                return wrong(&["listener", &index, "tls"], "there is no certificate (expected chain and key)");
            }
        }
        if self.client.source.is_some() && self.client.trusted.is_empty() {
            return wrong(
                &["client", "source"],
                "any client could write that header (expected client.trusted with the proxies' networks)",
            );
        }
        if self.view.is_empty() {
            self.view = defaults::views();
        }
        let needs_hosts = self.privacy.anonymous_per_host
            || self.view.values().any(|view| view.scope.unwrap_or(self.privacy.scope) == ScopeKind::Host);
        if needs_hosts && self.privacy.hosts.is_empty() {
            return wrong(&["privacy", "hosts"], "there is none (expected the names of your sites)");
        }
        if self.keys.file.is_some() && self.keys.redis.is_some() {
            return wrong(&["keys"], "keys come from one source (expected file, or redis, or neither)");
        }
        if let Some(fleet) = &self.keys.redis
            && (fleet.urls.is_empty() || fleet.urls.len() > 1 && fleet.master.is_none() && !fleet.cluster)
        {
            return wrong(
                &["keys", "redis", "urls"],
                "expected one URL, or several of sentinels with their master, or of a cluster with cluster = true",
            );
        }
        if self.client.hops.is_some() && self.client.source.is_none() {
            return wrong(&["client", "hops"], "there is nothing to count in (expected client.source)");
        }
        if self.access_log.to.as_os_str() == "stderr" {
            return wrong(
                &["access_log", "to"],
                "standard error is for the program's own log (expected stdout, off, or a file)",
            );
        }
        if self.access_log.is_on() && !self.view.contains_key("log") {
            return wrong(
                &["access_log"],
                "it is on, and there is no view \"log\" for it (expected [view.log], or access_log.to = \"off\")",
            );
        }
        if let Some(log) = self.view.get("log")
            && matches!(log.shape, ViewShape::Network | ViewShape::Country)
            && self.bans.enabled
        {
            return wrong(
                &["view", "log", "shape"],
                "nobody can be banned by that (expected token, or bans.enabled = false)",
            );
        }
        let has_sessions =
            self.view.values().any(|view| view.scope.unwrap_or(self.privacy.scope) == ScopeKind::Session);
        if has_sessions && self.privacy.cookies.is_empty() && !self.privacy.authorization {
            return wrong(
                &["privacy", "cookies"],
                "nothing tells sessions apart (expected a cookie, or authorization)",
            );
        }
        for (name, view) in &self.view {
            if view.shape == ViewShape::Country && self.geo.is_none() {
                return wrong(
                    &["view", name, "shape"],
                    "there is nothing to look countries up in (expected geo.database)",
                );
            }
        }
        if self.upstream.is_empty() {
            return wrong(&["upstream"], "there is none (expected [upstream.NAME] with servers)");
        }
        for (name, upstream) in &self.upstream {
            if upstream.servers.is_empty() {
                return wrong(&["upstream", name, "servers"], "there is none");
            }
            if upstream.health.as_ref().is_some_and(|health| !health.path.starts_with('/')) {
                return wrong(&["upstream", name, "health", "path"], "expected a path that starts with /");
            }
            let is_clear = upstream.servers.iter().all(|server| !server.0.tls);
            for (key, is_there) in [("ca", upstream.ca.is_some()), ("server_name", upstream.server_name.is_some())] {
                if is_there && is_clear {
                    return wrong(&["upstream", name, key], "there is nothing to check (expected a server with https)");
                }
            }
            if upstream.proxy_protocol.is_some_and(|version| version.get() > 2) {
                return wrong(&["upstream", name, "proxy_protocol"], "there is no such version (expected 1 or 2)");
            }
            if upstream.proxy_protocol.is_some()
                && !self.view.get("app").is_some_and(|view| view.shape == ViewShape::Address)
            {
                return wrong(
                    &["upstream", name, "proxy_protocol"],
                    "there is nothing to send (expected a view \"app\" of shape address)",
                );
            }
        }
        if self.route.is_empty() {
            let mut names = self.upstream.keys();
            if let (Some(name), None) = (names.next(), names.next()) {
                self.route.push(Route { host: None, path: defaults::slash(), upstream: name.clone() });
            } else {
                return wrong(&["route"], "there is none, and several upstreams (expected [[route]] for each)");
            }
        }
        for (place, route) in self.route.iter().enumerate() {
            let index = place.to_string();
            if !self.upstream.contains_key(&route.upstream) {
                return wrong(&["route", &index, "upstream"], "there is no upstream of that name");
            }
            if !route.path.starts_with('/') {
                return wrong(&["route", &index, "path"], "expected a path that starts with /");
            }
            let is_taken = |other: &Route| other.host == route.host && other.path == route.path;
            if self.route[..place].iter().any(is_taken) {
                return wrong(&["route", &index], "another route is for the same host and path");
            }
        }
        if self.threads > 1024 {
            return wrong(&["threads"], "expected at most 1024");
        }
        if self.bans.tokens > 10_000_000 {
            return wrong(&["bans", "tokens"], "expected at most 10000000");
        }
        for (is_none, key) in [
            (self.bans.enabled && self.bans.tokens == 0, ["bans", "tokens"]),
            (self.limits.connections == 0, ["limits", "connections"]),
            (self.limits.streams == 0, ["limits", "streams"]),
            (self.limits.headers == 0, ["limits", "headers"]),
            (self.limits.header_bytes == 0, ["limits", "header_bytes"]),
        ] {
            if is_none {
                return wrong(&key, "expected at least 1");
            }
        }
        Ok(())
    }
}

/// What is wrong, and where: the keys from the top of the file down.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) key: Vec<String>,
    pub(super) what: &'static str,
}

fn wrong<T>(key: &[&str], what: &'static str) -> Result<T, Wrong> {
    Err(Wrong { key: key.iter().map(|&part| part.to_owned()).collect(), what })
}
