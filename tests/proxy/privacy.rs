//! What a server sees of a client: what is equal for whom, and nothing that a client can forge.

use std::os::unix::net::UnixStream;

use crate::{
    client::{Client, ask, connect, get},
    edge::{before, free_port, start},
    server::yes,
};

const BEHIND: &str = "[client]\ntrusted = [\"loopback\", \"unix\"]\nsource = \"x-forwarded-for\"\n";

#[test]
fn a_session_at_an_address_is_one_client_and_nothing_else_is() {
    let server = yes();
    let edge = start(&(before(server.address) + BEHIND));
    let seen = |address: &str, headers: &str| {
        let headers = format!("x-forwarded-for: {address}\r\nconnection: close\r\n{headers}");
        ask(edge.port, get("/", &headers));
        server.last().value("x-forwarded-for").unwrap().to_owned()
    };
    let one = seen("203.0.113.7", "cookie: a=b; sid=1\r\n");
    assert_eq!(seen("203.0.113.7", "cookie: sid=1; c=d\r\n"), one);
    // The proxy in front may write it in another way, and may itself be named.
    assert_eq!(seen("198.51.100.1, ::ffff:203.0.113.7, 127.0.0.1", "cookie: sid=1\r\n"), one);
    let other = seen("203.0.113.8", "cookie: sid=1\r\n");
    let session = seen("203.0.113.7", "cookie: sid=2\r\n");
    let token = seen("203.0.113.7", "authorization: Bearer x\r\n");
    let none = seen("203.0.113.7", "");
    let again = seen("203.0.113.7", "");
    let all = std::collections::BTreeSet::from([one, other, session, token, none, again]);
    assert_eq!(all.len(), 6);
    assert!(all.iter().all(|pseudonym| pseudonym.starts_with("2001:2")));
    // A subscriber has a whole network.
    assert_eq!(seen("2001:db8:1:2::1", "cookie: sid=1\r\n"), seen("2001:db8:1:2:3:4:5:6", "cookie: sid=1\r\n"));
    assert_ne!(seen("2001:db8:1:2::1", "cookie: sid=1\r\n"), seen("2001:db8:1:3::1", "cookie: sid=1\r\n"));
}

#[test]
fn nobody_forges_what_a_view_says() {
    let server = yes();
    let views = "[view.app]\nshape = \"address\"\nheader = \"x-forwarded-for\"\n[view.analytics]\nshape = \"token\"\n\
                 header = \"x-analytics\"\n[view.log]\nshape = \"token\"\n";
    let edge = start(&(before(server.address) + BEHIND + views));
    let forged = "x-analytics: _forged\r\nX_Analytics: _forged\r\n";
    ask(edge.port, get("/", &format!("x-forwarded-for: 203.0.113.7\r\n{forged}")));
    let known = server.last();
    assert!(known.value("x-analytics").unwrap().len() == 27, "{known:?}");
    // Also if nothing is known of the client.
    ask(edge.port, get("/", &format!("x-forwarded-for: nonsense\r\n{forged}")));
    let withheld = server.last();
    assert!(withheld.value("x-analytics").is_none_or(|value| value == "unknown"), "{withheld:?}");
    assert_eq!(withheld.value("x-forwarded-for"), None);
    // And behind a body, where some servers put them together.
    ask(
        edge.port,
        "POST / HTTP/1.1\r\nhost: example.com\r\nx-forwarded-for: 203.0.113.7\r\ntrailer: x-analytics, x-sum\r\n\
         transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-analytics: _forged\r\nX_Analytics: _forged\r\nx-sum: 1\r\n\r\n",
    );
    assert_eq!(server.last().trailers, [("x-sum".to_owned(), "1".to_owned())]);
    // And by saying that it is for the proxy only.
    ask(edge.port, get("/", "x-forwarded-for: 203.0.113.7\r\nconnection: x-analytics, x-forwarded-for\r\n"));
    let named = server.last();
    assert!(named.value("x-analytics").is_some() && named.value("x-forwarded-for").is_some());
    let all = format!("{:?}", server.requests()).to_ascii_lowercase();
    assert!(!all.contains("_forged"), "{all}");
}

#[test]
fn a_proxy_on_a_unix_socket_is_believed_if_it_may_be() {
    let server = yes();
    let edge = start(&(before(server.address) + BEHIND + "[[listener]]\naddress = \"unix:$FOLDER/listen\"\n"));
    let request = get("/", "x-forwarded-for: 203.0.113.7\r\ncookie: sid=1\r\nconnection: close\r\n");
    ask(edge.port, &request);
    let mut client = Client::new(UnixStream::connect(edge.path("listen")).unwrap());
    client.send(&request);
    assert_eq!(client.answer().text(), "yes");
    let seen: Vec<_> =
        server.requests().iter().map(|request| request.value("x-forwarded-for").map(str::to_owned)).collect();
    assert!(seen[0].is_some() && seen[0] == seen[1], "{seen:?}");
}

#[test]
fn a_server_that_changes_the_protocol_unasked_is_not_followed() {
    let server = crate::server::answer("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n");
    let edge = start(&before(server.address));
    assert_eq!(ask(edge.port, get("/", "")).status(), 502);
}

#[test]
fn a_chain_of_two_proxies_hands_a_pseudonym_through() {
    let server = yes();
    let inner = start(&(before(server.address) + BEHIND));
    let outer = start(&before(([127, 0, 0, 1], inner.port).into()));
    let seen = |cookie: &str| {
        ask(outer.port, get("/", &format!("cookie: sid={cookie}\r\n")));
        server.last().value("x-forwarded-for").unwrap().to_owned()
    };
    assert_eq!(seen("1"), seen("1"));
    assert_ne!(seen("1"), seen("2"));
    let request = server.last();
    assert_eq!(request.values("via").len(), 1, "{request:?}");
}

#[test]
fn what_clients_are_read_from_stands_behind_no_body_either() {
    let server = yes();
    let edge = start(&(before(server.address) + &BEHIND.replace("x-forwarded-for", "x-edge-client")));
    ask(
        edge.port,
        "POST / HTTP/1.1\r\nhost: example.com\r\nx-edge-client: 203.0.113.7\r\ntrailer: x-edge-client, x_edge_client, x-sum\r\ntransfer-encoding: chunked\r\n\r\n\
         1\r\nx\r\n0\r\nx-edge-client: 203.0.113.7\r\nX_Edge_Client: 203.0.113.7\r\nx-sum: 1\r\n\r\n",
    );
    assert_eq!(server.last().trailers, [("x-sum".to_owned(), "1".to_owned())]);
}

#[test]
fn no_spelling_of_what_the_proxy_says_of_itself_is_forged() {
    let server = yes();
    let headers =
        "X_Forwarded_Host: evil\r\nx.forwarded.host: evil\r\nX_Forwarded-Proto: https\r\nx-forwarded-prefix: /a\r\n";
    let edge = start(&before(server.address));
    ask(edge.port, get("/", headers));
    let heard = format!("{:?}", server.last());
    assert!(!heard.contains("evil") && !heard.contains("https") && heard.contains("x-forwarded-prefix"), "{heard}");
    // A trusted proxy may say so, in the usual spelling.
    let edge = start(&(before(server.address) + BEHIND));
    ask(edge.port, get("/", "x-forwarded-host: example.org\r\nx-forwarded-proto: https\r\n"));
    let request = server.last();
    assert_eq!(request.value("x-forwarded-host"), Some("example.org"));
    assert_eq!(request.value("x-forwarded-proto"), Some("https"));
}

#[test]
fn nobody_is_shown_what_stands_for_him() {
    let server = yes();
    let edge = start(&before(server.address));
    assert_eq!(ask(edge.port, get("/", "").replace("GET", "TRACE")).status(), 405);
    assert!(server.requests().is_empty());
}

#[test]
fn who_is_not_trusted_says_nothing_about_a_client() {
    let server = yes();
    let proxied = free_port();
    let edge = start(&format!(
        "{}[[listener]]\naddress = \"127.0.0.1:{proxied}\"\nproxy_protocol = \"required\"\n\
         [client]\ntrusted = [\"192.0.2.1\"]\nsource = \"x-real-ip\"\n",
        before(server.address)
    ));
    let mut client = connect(proxied);
    client.send(format!("PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\n{}", get("/", "")));
    assert_eq!(client.rest(), b"");
    // Its headers are not believed, so all of them are one client.
    let mut seen = Vec::new();
    for address in ["203.0.113.7", "203.0.113.8", "2001:20::1"] {
        ask(edge.port, get("/", &format!("x-real-ip: {address}\r\nx-forwarded-for: {address}\r\ncookie: sid=1\r\n")));
        seen.push(server.last().value("x-forwarded-for").unwrap().to_owned());
        assert_eq!(server.last().value("x-real-ip"), None);
    }
    assert!(seen.iter().all(|one| *one == seen[0] && one != "2001:20::1"), "{seen:?}");
}
