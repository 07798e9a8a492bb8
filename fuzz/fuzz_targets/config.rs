//! Any text as a configuration: it is one, or an error that says where.
#![no_main]
#![allow(dead_code, clippy::print_stdout)]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/bin/ipveil/config/mod.rs"]
mod config;

fuzz_target!(|text: &str| {
    if let Err(error) = config::Config::parse(std::path::Path::new("ipveil.toml"), text) {
        let error = format!("{error:#}");
        assert!(error.starts_with("ipveil.toml:"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
});
