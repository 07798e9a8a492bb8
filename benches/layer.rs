//! What the layer costs per request, next to one keyed BLAKE3 block and to the same service without it.
//!
//! Each request is cloned right before it is sent, and so is in the cache, as in a server that has just parsed it. **The
//! layer's cost is a row's difference to the row without it**, which has the clone, too.

mod scene;

use std::{
    hint::black_box,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use tower_service::Service as _;

fn layer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    let (key, input) = ([7; 32], [9; 18]);
    group.bench_function("one keyed BLAKE3 block", |bencher| bencher.iter(|| scene::block(&key, &input)));

    let v4 = scene::request(scene::CLIENT_V4);
    let v6 = scene::request(scene::CLIENT_V6);
    let mut bare = scene::Nothing;
    group.bench_function("without the layer", |bencher| bencher.iter(|| bare.call(v4.clone())));
    for (name, trusted, scope, request) in [
        ("with the layer, IPv4 client", 1, scene::unscoped(), &v4),
        ("with the layer, IPv6 client", 1, scene::unscoped(), &v6),
        ("with the layer, 10,000 trusted networks", 10_000, scene::unscoped(), &v4),
        ("with the layer, scope per session", 1, scene::per_session(), &v4),
    ] {
        let mut edge = scene::edge(scene::trusted(trusted), scope);
        group.bench_function(name, |bencher| bencher.iter(|| edge.call(request.clone())));
    }
    group.finish();
}

/// Requests on one thread, and on each of two at once under one key ring.
fn threads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("threads");
    let edge = scene::edge(scene::trusted(1), scene::unscoped());
    let request = scene::request(scene::CLIENT_V4);
    for threads in [1, 2] {
        group.bench_function(format!("{threads}, time per request and thread"), |bencher| {
            bencher.iter_custom(|times| {
                let barrier = Barrier::new(threads);
                let run = || {
                    let mut edge = edge.clone();
                    barrier.wait();
                    let start = Instant::now();
                    for _ in 0..times {
                        drop(black_box(edge.call(request.clone())));
                    }
                    start.elapsed()
                };
                thread::scope(|scope| {
                    let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
                    let total: Duration = running.into_iter().map(|thread| thread.join().expect("it runs")).sum();
                    total / u32::try_from(threads).expect("few")
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, layer, threads);
criterion_main!(benches);
