//! Which stores there may be, and how nodes reach them: passwords, TLS, sentinels, clusters.

use std::time::Duration;

use ipveil::keys::{
    Notice,
    fleet::{FleetError, FleetSecret, RedisSource, StoreAddress},
};

use crate::{
    node::{SOON, agreed, fleet, secret, source},
    store::{
        Server,
        port::free_port,
        until::{until, within},
    },
};

#[test]
fn a_wrong_password_is_a_clear_message_without_the_password() {
    let server = Server::start_with(&["--requirepass", "correct"]);
    let fleet = fleet();
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}", server.port);
    assert!(fleet.join(&url("correct")).key().is_some());
    let node = fleet.join(&url("battery"));
    assert!(node.keys.is_degraded());
    assert!(
        node.notices().contains(&Notice::StoreUnreachable("it refuses the user or the password")),
        "{:?}",
        node.notices()
    );
    assert!(!format!("{:?}", source(&url("battery"), &fleet.secret)).contains("battery"));
}

#[test]
fn an_acl_user_needs_no_more_than_is_documented() {
    let server = Server::start();
    let rules = ["on", ">pass", "~ipveil:{edge}:*"];
    let commands = ["+get", "+set", "+del", "+hset", "+hget", "+hgetall", "+hkeys", "+hdel", "+pexpire", "+time"];
    let mut acl = redis::cmd("ACL");
    acl.arg("SETUSER").arg("edge").arg(&rules[..]).arg(&commands[..]);
    acl.exec(&mut server.connection()).unwrap();
    let fleet = fleet();
    let url = format!("redis://edge:pass@127.0.0.1:{}", server.port);
    let nodes = [fleet.join(&url), fleet.join(&url)];
    within(SOON, "agreement", || agreed(&nodes));
    assert!(!nodes[0].notices().iter().any(|notice| matches!(notice, Notice::StoreUnreachable(_))));
}

#[test]
fn a_store_that_writes_to_disk_is_reported() {
    let server = Server::start_with(&["--appendonly", "yes"]);
    let node = fleet().join(&server.url());
    until("it is said", || node.notices().contains(&Notice::StorePersists).then_some(()));
    assert!(!fleet().join(&Server::start().url()).notices().contains(&Notice::StorePersists));
}

#[test]
fn addresses_that_are_none_are_refused_without_quoting_them() {
    for url in ["", "localhost", "http://user:hunter2@example.com", "redis://user:hunter2@[::bad", "redis://h:hunter2"]
    {
        let error = StoreAddress::single(url).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let secret = || secret(&FleetSecret::generate().unwrap());
    for name in ["", "a b", "{x}", &"x".repeat(65)] {
        let source = RedisSource::new(StoreAddress::single("redis://127.0.0.1").unwrap(), secret());
        assert_eq!(source.namespace(name).unwrap_err(), FleetError::Name, "{name:?}");
    }
}

#[test]
fn a_store_is_reached_through_tls_and_only_if_its_certificate_is_good() {
    // The roots are read from where a variable of the process says, so this is played in one of its own.
    const TEST: &str = "connection::a_store_is_reached_through_tls_and_only_if_its_certificate_is_good";
    if let Ok(url) = std::env::var("IPVEIL_TEST_URL") {
        assert_eq!(StoreAddress::single(&url).unwrap_err(), FleetError::NoTls);
        rustls::crypto::ring::default_provider().install_default().unwrap();
        let node = fleet().join(&url);
        println!("degraded: {}, {:?}", node.keys.is_degraded(), node.notices());
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    // A certificate, in a file, and a store that has it.
    let make = |name: &str, end: i32| {
        let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(end, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let (certificate, key_file) = (path(name), path("key.pem"));
        std::fs::write(&certificate, parameters.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let port = free_port();
        let files = ["--tls-cert-file", &certificate, "--tls-key-file", &key_file, "--tls-ca-cert-file", &certificate];
        let tls = ["--save", "", "--tls-auth-clients", "no", "--tls-port", &port.to_string()];
        (Server::start_with(&[&tls[..], &files].concat()), port, certificate)
    };
    let (_server, port, certificate) = make("cert.pem", 4096);
    let (_expired, expired_port, expired) = make("expired.pem", 2020);
    let (_other, _, stranger) = make("stranger.pem", 4096);
    let play = |host: &str, port: u16, roots: &str| {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture"])
            .env("IPVEIL_TEST_URL", format!("rediss://{host}:{port}"))
            .env("SSL_CERT_FILE", roots)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let good = play("localhost", port, &certificate);
    assert!(good.contains("degraded: false"), "{good}");
    for (host, port, roots, why) in [
        ("localhost", port, &stranger, "nobody whom this machine trusts has signed its certificate"),
        ("127.0.0.1", port, &certificate, "its certificate is for another name"),
        ("localhost", expired_port, &expired, "its certificate has expired"),
        ("localhost", port, &path("nothing"), "this machine's roots of trust are missing or can't be read"),
    ] {
        let bad = play(host, port, roots);
        assert!(bad.contains("degraded: true") && bad.contains(why), "{bad}");
    }
}

#[test]
fn after_a_failover_that_sentinels_decide_on_the_fleet_goes_on() {
    let replica_port = free_port();
    let mut master = Server::start();
    let port = master.port.to_string();
    let replica = Server::start_at(replica_port, &["--save", "", "--replicaof", "127.0.0.1", &port]);
    let directory = tempfile::tempdir().unwrap();
    let sentinels: Vec<_> = (0..3)
        .map(|place| {
            let path = directory.path().join(format!("{place}.conf"));
            let settings = format!(
                "sentinel monitor edge 127.0.0.1 {port} 2\nsentinel down-after-milliseconds edge 500\n\
                 sentinel failover-timeout edge 3000\n"
            );
            std::fs::write(&path, settings).unwrap();
            // It writes to its settings.
            Server::start_with(&[path.to_str().unwrap(), "--sentinel"])
        })
        .collect();
    let mut connection = master.connection();
    until("the replica is in step", || {
        let about: String = redis::cmd("INFO").arg("replication").query(&mut connection).unwrap();
        about.contains("state=online").then_some(())
    });
    for sentinel in &sentinels {
        until("sentinels know each other", || {
            let mut connection = sentinel.connection();
            let about: String = redis::cmd("INFO").arg("sentinel").query(&mut connection).unwrap();
            about.contains("slaves=1,sentinels=3").then_some(())
        });
    }
    let urls: Vec<_> = sentinels.iter().map(Server::url).collect();
    let fleet = fleet();
    let join = || {
        let store = StoreAddress::sentinels("edge", urls.iter().map(String::as_str)).unwrap();
        fleet.join_as(RedisSource::new(store, secret(&fleet.secret)).namespace("edge").unwrap())
    };
    let nodes = [join(), join()];
    let key = within(SOON, "agreement", || agreed(&nodes));
    master.end();
    let late = within(Duration::from_secs(60), "a failover", || {
        let node = join();
        (!node.keys.is_degraded()).then_some(node)
    });
    let after = within(Duration::from_secs(10), "agreement", || agreed([&nodes[0], &nodes[1], &late]));
    assert_eq!(after, key, "those that have it still have it");
    let role: Vec<redis::Value> = redis::cmd("ROLE").query(&mut replica.connection()).unwrap();
    assert!(format!("{role:?}").contains("master"));
}

#[test]
fn a_cluster_is_a_store_too() {
    let nodes: Vec<_> =
        (0..3).map(|_| Server::start_with(&["--save", "", "--appendonly", "no", "--cluster-enabled", "yes"])).collect();
    let places = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
    let created = std::process::Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(places)
        .args(["--cluster-replicas", "0", "--cluster-yes"])
        .output()
        .unwrap();
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
    until("the cluster is there", || {
        let about: String = redis::cmd("CLUSTER").arg("INFO").query(&mut nodes[0].connection()).unwrap();
        about.contains("cluster_state:ok").then_some(())
    });
    let fleet = fleet();
    let urls: Vec<_> = nodes.iter().map(Server::url).collect();
    let join = |namespace: &str| {
        let store = StoreAddress::cluster(urls.iter().map(String::as_str)).unwrap();
        fleet.join_as(RedisSource::new(store, secret(&fleet.secret)).namespace(namespace).unwrap())
    };
    // In more than one place of the cluster.
    for namespace in ["edge", "two", "three", "four"] {
        let members = [join(namespace), join(namespace), join(namespace)];
        within(SOON, "agreement", || agreed(&members));
        members[0].keys.rotate().unwrap();
        within(SOON, "agreement", || agreed(&members));
    }
}
