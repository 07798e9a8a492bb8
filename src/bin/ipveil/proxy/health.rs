//! Whether servers are well: asked now and then, if the configuration says how.

use std::{sync::Arc, time::Duration};

use http::{Request, StatusCode, header::HOST};
use ipveil::proxy_protocol::Announcement;
use tokio::task::JoinSet;

use super::{site::Site, upstream::Endpoint};
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
                // Such a server expects to be told who is there: nobody but us.
                let local = upstream.announces().map(Announcement::local);
                for server in upstream.servers() {
                    tasks.spawn(check(Arc::clone(server), health.clone(), local));
                }
            }
        }
        Self { _tasks: tasks }
    }
}

async fn check(server: Arc<Endpoint>, health: config::Health, local: Option<Announcement>) {
    let mut interval = tokio::time::interval(health.every);
    loop {
        interval.tick().await;
        let time = health.every.min(MOST);
        let answer = tokio::time::timeout(time, ask(&server, &health.path, local.as_ref(), time)).await;
        let (is_well, answer) = match answer {
            Ok(Ok(status)) => (status.is_success(), status.to_string()),
            Ok(Err(error)) => (false, format!("{error:#}")),
            Err(_) => (false, "none in time".to_owned()),
        };
        if server.set_healthy(is_well) {
            tracing::warn!(server = server.place, is_well, answer, "a server's health changed");
        }
    }
}

async fn ask(
    server: &Endpoint,
    path: &str,
    local: Option<&Announcement>,
    time: Duration,
) -> anyhow::Result<StatusCode> {
    let request = Request::get(path).header(HOST, server.server.authority()).header("user-agent", "ipveil-health");
    server.ask(request.body(http_body_util::Empty::new())?, local, time).await
}

/// No check takes longer.
const MOST: Duration = Duration::from_secs(5);
