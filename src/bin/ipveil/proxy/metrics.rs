//! What is counted, and how it is shown. No label says anything that a client chose.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ipveil::{keys::Origin, resolve::Withheld};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{admin::seconds, site::Site, worker::Workers};

/// The counts of one thread, which no other one writes to.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    // By the first digit of the status.
    requests: [AtomicU64; 6],
    bytes_sent: AtomicU64,
    // How many took no longer than that, each in its place only.
    took: [AtomicU64; BUCKETS.len() + 1],
    took_micros: AtomicU64,
    ended: [AtomicU64; Ended::ALL.len()],
    accepted: AtomicU64,
    accept_errors: AtomicU64,
    waits: AtomicU64,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Well,
    Broken,
    BadRequest,
    NoRequest,
    ProxyHeader,
    Handshake,
    LateHead,
    Idle,
    Stalled,
    Drained,
    TooMany,
}

impl Ended {
    const ALL: [(Self, &str); 11] = [
        (Self::Well, "well"),
        (Self::Broken, "broken"),
        (Self::BadRequest, "bad_request"),
        (Self::NoRequest, "no_request"),
        (Self::ProxyHeader, "proxy_header"),
        (Self::Handshake, "tls_handshake"),
        (Self::LateHead, "late_head"),
        (Self::Idle, "idle"),
        (Self::Stalled, "stalled"),
        (Self::Drained, "drained"),
        (Self::TooMany, "too_many"),
    ];
}

impl Counters {
    pub(crate) fn accepted_one(&self) {
        add(&self.accepted, 1);
    }

    pub(crate) fn accept_failed(&self) {
        add(&self.accept_errors, 1);
    }

    pub(crate) fn waited(&self) {
        add(&self.waits, 1);
    }

    pub(crate) fn ended(&self, how: Ended) {
        add(&self.ended[how as usize], 1);
    }

    pub(crate) fn request(&self, status: u16, took: Duration, sent: u64) {
        add(&self.requests[usize::from(status / 100).min(5)], 1);
        add(&self.bytes_sent, sent);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|&most| micros <= most).unwrap_or(BUCKETS.len());
        add(&self.took[bucket], 1);
        add(&self.took_micros, micros);
    }
}

/// Only one thread adds, so nothing is lost without an atomic addition.
fn add(count: &AtomicU64, more: u64) {
    count.store(count.load(Relaxed).wrapping_add(more), Relaxed);
}

/// In microseconds.
const BUCKETS: [u64; 12] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 30_000_000];

/// The counts of a process, as Prometheus reads them.
pub(crate) fn render(site: Arc<Site>, workers: Arc<Workers>) -> String {
    let mut registry = Registry::with_prefix("ipveil");
    registry.register_collector(Box::new(Counts { site, workers }));
    let mut page = String::new();
    if text::encode(&mut page, &registry).is_err() {
        page.clear();
    }
    page
}

struct Counts {
    site: Arc<Site>,
    workers: Arc<Workers>,
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counts(..)")
    }
}

impl Counts {
    fn sum(&self, of: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.workers.counters().map(|counters| of(counters).load(Relaxed)).sum()
    }
}

impl Collector for Counts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out { encoder: &mut encoder };
        let requests = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().enumerate();
        out.counts(
            "requests",
            "Requests that are over, by the class of their status",
            "status",
            requests.map(|(class, name)| (name, self.sum(|counters| &counters.requests[class]))),
        )?;
        out.counts(
            "connections_ended",
            "Connections that are over, by how they ended",
            "how",
            Ended::ALL.map(|(how, name)| (name, self.sum(|counters| &counters.ended[how as usize]))),
        )?;
        out.counts(
            "withheld",
            "Requests of whose client nothing is known, by why",
            "why",
            self.site.all_withheld().map(|(why, count)| (reason(why), count)),
        )?;
        out.count("connections", "Connections that were accepted", self.sum(|counters| &counters.accepted))?;
        out.count(
            "accept_errors",
            "Connections that could not be accepted",
            self.sum(|counters| &counters.accept_errors),
        )?;
        out.count(
            "sent_bytes",
            "Bytes of bodies that were sent to clients",
            self.sum(|counters| &counters.bytes_sent),
        )?;
        out.count(
            "accept_waits",
            "How often there was no room for one more connection",
            self.sum(|counters| &counters.waits),
        )?;
        out.took(self)?;
        let log = self.site.log.as_ref();
        out.count(
            "access_log_lost_lines",
            "Lines that could not be written, or not as fast as requests came",
            log.map_or(0, |log| log.lost()),
        )?;
        let journal = self.site.journal.as_ref();
        out.count(
            "key_journal_lost",
            "Events of keys that could not be written to the journal",
            journal.map_or(0, |journal| journal.lost()),
        )?;
        out.count("reloads", "Configurations that were put in place since the start", self.workers.reloads())?;
        out.count("reload_errors", "Configurations that were refused since the start", self.workers.reload_errors())?;
        out.gauge("open_connections", "Connections that are open", self.workers.open() as u64)?;
        let key = self.site.keys.status();
        out.gauge("key_valid", "Whether there is a key", key.is_some().into())?;
        out.gauge(
            "key_degraded",
            "Whether the key is this node's own, because the source had none",
            key.is_some_and(|key| key.origin == Origin::Local).into(),
        )?;
        let end = key.map_or(0, |key| seconds(key.until));
        out.gauge("key_end_timestamp_seconds", "When the key is destroyed, in seconds since 1970", end)?;
        out.gauge(
            "rotation_untold",
            "Whether this node has rotated, and has not been able to tell its fleet",
            self.site.spread.as_ref().is_some_and(|spread| !spread.is_told()).into(),
        )?;
        let bans = self.site.bans.as_ref().map_or(0, |bans| bans.list().len());
        out.gauge("bans", "Pseudonyms that are banned", bans as u64)?;
        out.servers(&self.site)
    }
}

struct Out<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
}

impl Out<'_, '_> {
    fn count(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let value = ConstCounter::new(value);
        value.encode(self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let value = ConstGauge::new(value);
        value.encode(self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn counts(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (which, value) in values {
            ConstCounter::new(value).encode(family.encode_family(&[(label, which)])?)?;
        }
        Ok(())
    }

    /// By where they stand in the configuration, as in the log.
    fn servers(&mut self, site: &Site) -> fmt::Result {
        let servers = || site.upstreams().iter().flat_map(|upstream| upstream.servers());
        let help = "Whether requests go to a server";
        let mut well = self.encoder.encode_descriptor("upstream_server_well", help, None, MetricType::Gauge)?;
        for server in servers() {
            let value = ConstGauge::new(u64::from(server.is_well()));
            value.encode(well.encode_family(&[("server", server.place.as_str())])?)?;
        }
        let help = "Requests that a server did not answer as it should, by how";
        let mut failures = self.encoder.encode_descriptor("upstream_failures", help, None, MetricType::Counter)?;
        for server in servers() {
            for (how, count) in server.failures() {
                let labels = [("server", server.place.as_str()), ("how", how)];
                ConstCounter::new(count).encode(failures.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn took(&mut self, counts: &Counts) -> fmt::Result {
        let most = BUCKETS.iter().map(|&micros| micros as f64 / 1e6).chain([f64::INFINITY]);
        let values = (0..=BUCKETS.len()).map(|bucket| counts.sum(|counters| &counters.took[bucket]));
        let buckets: Vec<_> = most.zip(values).collect();
        let sum = counts.sum(|counters| &counters.took_micros) as f64 / 1e6;
        let count = buckets.iter().map(|(_, count)| count).sum();
        let help = "How long requests took, until the last byte";
        let mut histogram = self.encoder.encode_descriptor("request_seconds", help, None, MetricType::Histogram)?;
        histogram.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)
    }
}

fn reason(why: Withheld) -> &'static str {
    match why {
        Withheld::NoPeerAddress => "no_peer_address",
        Withheld::NoHeader => "no_header",
        Withheld::Malformed => "malformed",
        Withheld::Hidden => "hidden",
        Withheld::AllTrusted => "all_trusted",
        Withheld::TooFewHops => "too_few_hops",
        Withheld::TooManyHops => "too_many_hops",
        Withheld::SeveralLines => "several_lines",
        Withheld::ForeignPseudonym => "foreign_pseudonym",
        Withheld::NoKey => "no_key",
        _ => "other",
    }
}
