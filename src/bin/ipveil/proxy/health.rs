//! Whether servers are well: asked now and then, if the configuration says how.

use std::{sync::Arc, time::Duration};

use http::{Request, StatusCode, header::HOST};
use tokio::task::JoinSet;

use super::{
    site::Site,
    upstream::{Endpoint, Upstream},
};
use crate::config;

/// The checks of one configuration. They end when it is dropped.
pub(crate) struct Checks {
    _tasks: JoinSet<()>,
}

impl Checks {
    pub(crate) fn start(site: &Arc<Site>) -> Self {
        let mut tasks = JoinSet::new();
        for upstream in site.upstreams() {
            if let Some(health) = &upstream.settings.health {
                for server in upstream.servers() {
                    tasks.spawn(check(Arc::clone(upstream), Arc::clone(server), health.clone()));
                }
            }
        }
        Self { _tasks: tasks }
    }
}

async fn check(upstream: Arc<Upstream>, server: Arc<Endpoint>, health: config::Health) {
    let mut interval = tokio::time::interval(health.every);
    loop {
        interval.tick().await;
        let answer = tokio::time::timeout(health.every.min(MOST), ask(&server, &health.path)).await;
        let is_well = matches!(answer, Ok(Ok(status)) if status.is_success());
        if server.set_healthy(is_well) {
            tracing::warn!(server = %server.server, is_well, "a server's health changed");
        }
        let _ = &upstream;
    }
}

async fn ask(server: &Endpoint, path: &str) -> anyhow::Result<StatusCode> {
    let request = Request::get(path).header(HOST, server.server.to_string()).header("user-agent", "ipveil-health");
    server.ask(request.body(http_body_util::Empty::new())?).await
}

/// No check takes longer.
const MOST: Duration = Duration::from_secs(5);
