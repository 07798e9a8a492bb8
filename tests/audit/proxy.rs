//! What is found behind `ipveil proxy`: nothing.

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    process::Child,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    folder::Folder,
    port::free_port,
    program::{ipveil, text},
    report::{audit, report},
    server::serve,
};

/// A proxy in front of an upstream that writes down every byte it gets, and sends it back.
struct Deployment {
    folder: Folder,
    proxy: Child,
    address: SocketAddr,
    metrics: SocketAddr,
}

impl Deployment {
    fn start(listener: &str, client: &str) -> Self {
        let folder = Folder::new();
        let got = folder.path("upstream.got");
        let file = Mutex::new(fs::File::create(got).unwrap());
        let upstream = serve(move |request| {
            file.lock().unwrap().write_all(request).unwrap();
            request.to_vec()
        });
        let [address, metrics] = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let access = folder.path("access.log");
        let config = folder.write(
            "ipveil.toml",
            format!(
                "[[listener]]\naddress = \"{address}\"\n{listener}\n[client]\n{client}\n[upstream.app]\nservers = [\"http://{upstream}\"]\n\
                 [access_log]\nto = \"{access}\"\n[log]\nlevel = \"trace\"\n[admin]\nlisten = [\"{metrics}\"]\n"
            )
            .as_bytes(),
        );
        let own_log = fs::File::create(folder.path("own.log")).unwrap();
        let proxy = ipveil().args(["proxy", "--config", &config]).stderr(own_log).spawn().unwrap();
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{}",
                fs::read_to_string(folder.path("own.log")).unwrap()
            );
            thread::sleep(Duration::from_millis(20));
        }
        Self { folder, proxy, address, metrics }
    }

    /// Its report, and the exit code.
    fn audit(&self, more: &[&str]) -> (Value, i32) {
        let paths = ["access.log", "own.log", "upstream.got"].map(|name| self.folder.path(name));
        let [access, own, got] = paths.each_ref().map(String::as_str);
        let scheme = if more.contains(&"--ca") { "https" } else { "http" };
        let (target, metrics) =
            (format!("{scheme}://localhost:{}", self.address.port()), format!("http://{}/metrics", self.metrics));
        let arguments = ["--target", &target, "--search", access, own, got, "--fetch", &metrics];
        report(&[arguments.as_slice(), more].concat())
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

#[test]
fn nothing_is_found_behind_the_proxy() {
    for (listener, client, more) in [
        ("", "", &[][..]),
        ("", "source = \"x-forwarded-for\"\ntrusted = [\"127.0.0.1\"]", &[]),
        ("", "source = \"forwarded\"\ntrusted = [\"127.0.0.1\"]", &["-H", "Cookie: sid=1"]),
        ("proxy_protocol = \"required\"", "trusted = [\"loopback\"]", &["--proxy-protocol", "v2"]),
        ("proxy_protocol = \"required\"", "trusted = [\"loopback\"]", &["--proxy-protocol", "v1"]),
    ] {
        let deployment = Deployment::start(listener, client);
        let (found, code) = deployment.audit(more);
        assert_eq!(
            (&found["findings"], &found["trouble"], code),
            (&Value::Array(vec![]), &Value::Array(vec![]), 0),
            "{client}"
        );
        assert_eq!(found["searched"].as_array().unwrap().len(), 5, "{client}");
        let sent = found["sent"].as_array().unwrap();
        let in_http2 = |sent: &&Value| sent["path"].as_str().unwrap().ends_with(", in HTTP/2");
        assert!(sent.iter().filter(in_http2).count() > 150, "{client}");
        // It did get somewhere.
        let answers = found["answers"]["with status 200"].as_u64().unwrap();
        assert!(answers > 500, "{client}: {}", found["answers"]);
        let got = fs::metadata(deployment.folder.path("upstream.got")).unwrap().len();
        assert!(got > 30_000, "{client}: {got}");
        assert!(fs::metadata(deployment.folder.path("own.log")).unwrap().len() > 10_000);
    }
}

#[test]
fn nothing_is_found_behind_tls() {
    let folder = Folder::new();
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let chain = folder.write("chain.pem", own.cert.pem().as_bytes());
    let key = folder.write("key.pem", own.signing_key.serialize_pem().as_bytes());
    let tls = format!("[listener.tls]\ncertificates = [{{ chain = {chain:?}, key = {key:?} }}]");
    let deployment = Deployment::start(&tls, "source = \"x-forwarded-for\"\ntrusted = [\"127.0.0.1\"]");
    let process = deployment.proxy.id().to_string();
    let (found, code) = deployment.audit(&["--ca", &chain, "--pid", &process]);
    assert_eq!(found["findings"], Value::Array(vec![]));
    assert!(found["answers"]["with status 200"].as_u64().unwrap() > 500, "{}", found["answers"]);
    assert!(code == 0 || found["trouble"].to_string().contains("CAP_SYS_PTRACE"), "{}", found["trouble"]);

    // Whom nobody vouches for is not talked to.
    let output = audit(&["--target", &format!("https://{}", deployment.address), "--search", &chain]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("can't be reached"), "{}", text(&output.stderr));
}

#[test]
fn what_a_query_says_reaches_the_application_and_not_the_log() {
    let deployment = Deployment::start("", "");
    let (found, code) = deployment.audit(&["--query", "ip"]);
    assert_eq!(code, 1);
    for find in found["findings"].as_array().unwrap() {
        assert_eq!(find["canary"]["path"], "the query's ip");
        assert!(
            find["in"] == "the target's answers" || find["in"] == deployment.folder.path("upstream.got").as_str(),
            "{find}"
        );
    }
}

#[test]
fn no_address_is_left_in_the_proxys_memory() {
    for (listener, client, more) in [
        ("", "source = \"x-forwarded-for\"\ntrusted = [\"127.0.0.1\"]", &[][..]),
        ("proxy_protocol = \"required\"", "trusted = [\"loopback\"]", &["--proxy-protocol", "v2"]),
    ] {
        let deployment = Deployment::start(listener, client);
        let process = deployment.proxy.id().to_string();
        let (found, code) = deployment.audit(&[&["--pid", &process], more].concat());
        if found["trouble"].to_string().contains("CAP_SYS_PTRACE") {
            return;
        }
        // All connections are closed.
        assert_eq!((&found["findings"], &found["trouble"], code), (&Value::Array(vec![]), &Value::Array(vec![]), 0));
    }
}
