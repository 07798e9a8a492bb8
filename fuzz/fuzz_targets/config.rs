//! Any text as a configuration: it is one, or an error that says where.
#![no_main]
#![expect(dead_code, reason = "a part of the program, all of which uses it")]

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
