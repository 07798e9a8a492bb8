//! How fast text is scrubbed, next to copying it.
//!
//! The text is a generated access log, the same on every run: `log` says what is in it. A line inside an application is
//! measured, too. For whole files, with reading and writing, there is `benches/scrub.sh`.

mod log;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ipveil::{
    KeyRing, Policy, Scrubber,
    keys::{Epochs, MemorySource},
    policy::{Scope, View},
};

fn scrubber(view: View) -> Scrubber {
    let name = view.name().to_owned();
    let policy = Policy::new(Scope::unscoped(), [view]).expect("the policy is sound");
    let keys = KeyRing::start(MemorySource, Epochs::daily()).expect("a key can be made");
    Scrubber::new(&policy, &name, keys).expect("the view shows something")
}

fn logs(criterion: &mut Criterion) {
    let log = log::lines(16 << 20).text;
    let mut group = criterion.benchmark_group("log");
    group.throughput(Throughput::Bytes(log.len() as u64)).sample_size(20);
    let mut out = Vec::with_capacity(2 * log.len());
    group.bench_function("copied", |bencher| {
        bencher.iter(|| {
            out.clear();
            out.extend_from_slice(black_box(&log));
        });
    });
    group.bench_function("searched", |bencher| bencher.iter(|| Scrubber::word("x").expect("clean").count(&log)));
    for (name, scrubber) in [("truncated", scrubber(View::network("scrub"))), ("keyed", scrubber(View::token("scrub")))]
    {
        let mut pass = scrubber.pass();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                // As it is read from a file.
                for piece in log.chunks(128 << 10) {
                    out.clear();
                    pass.scrub_into(piece, &mut out);
                }
            });
        });
    }
    group.finish();
}

fn one_line(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("line of 200 bytes");
    let scrubber = scrubber(View::token("log"));
    let event = "2026-11-25T12:34:56.789012Z  INFO request{method=GET uri=/api/v1/items?id=70678 version=HTTP/1.1}: \
                 tower_http::trace::on_response: finished processing request latency=3 ms status=200";
    let clean = format!("{event:<199}\n");
    group.bench_function("without an address", |bencher| {
        bencher.iter(|| scrubber.scrub(black_box(clean.as_bytes())).len())
    });
    let line = clean.replace("latency=3 ms", "203.0.113.7 ");
    group.bench_function("with one", |bencher| bencher.iter(|| scrubber.scrub(black_box(line.as_bytes())).len()));
    group.finish();
}

criterion_group!(benches, logs, one_line);
criterion_main!(benches);
