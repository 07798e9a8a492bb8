//! Does one thing many times, to be counted by callgrind: see `benches/instructions.sh`.

mod scene;

use std::hint::black_box;

use tower_service::Service as _;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (Some(what), Some(times)) = (arguments.next(), arguments.next().and_then(|times| times.parse::<u32>().ok()))
    else {
        // Run by `cargo bench` or `cargo test` with the others.
        return;
    };
    let v4 = scene::request(scene::CLIENT_V4);
    let v6 = scene::request(scene::CLIENT_V6);
    let (edge, request) = match what.as_str() {
        "block" => {
            let (key, input) = ([7; 32], [9; 18]);
            return (0..times).for_each(|_| {
                black_box(scene::block(&key, &input));
            });
        }
        "clone" => return (0..times).for_each(|_| drop(black_box(scene::Nothing.call(v4.clone())))),
        "clone-v6" => return (0..times).for_each(|_| drop(black_box(scene::Nothing.call(v6.clone())))),
        "layer" => (scene::edge(scene::trusted(1), scene::unscoped()), v4),
        "layer-v6" => (scene::edge(scene::trusted(1), scene::unscoped()), v6),
        "layer-10000" => (scene::edge(scene::trusted(10_000), scene::unscoped()), v4),
        "layer-session" => (scene::edge(scene::trusted(1), scene::per_session()), v4),
        other => panic!("{other} is not known"),
    };
    let mut edge = edge;
    for _ in 0..times {
        drop(black_box(edge.call(request.clone())));
    }
}
