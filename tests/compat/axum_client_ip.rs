//! What axum-client-ip reads.

use axum::{Router, routing::get};
use axum_client_ip::{ClientIp, ClientIpSource};
use http::HeaderName;
use ipveil::policy::{Scope, View};

use crate::edge::{ANN, BOB, ask, ask_here, edge, plain, serve_plainly};

#[tokio::test]
async fn axum_client_ip_reads_the_pseudonym_from_the_header_that_a_view_writes() {
    for (header, source) in [
        ("x-forwarded-for", ClientIpSource::RightmostXForwardedFor),
        ("forwarded", ClientIpSource::RightmostForwarded),
        ("x-real-ip", ClientIpSource::XRealIp),
        ("cf-connecting-ip", ClientIpSource::CfConnectingIp),
        ("cloudfront-viewer-address", ClientIpSource::CloudFrontViewerAddress),
        ("fly-client-ip", ClientIpSource::FlyClientIp),
        ("true-client-ip", ClientIpSource::TrueClientIp),
        ("x-envoy-external-address", ClientIpSource::XEnvoyExternalAddress),
    ] {
        for view in [View::address("app"), View::address_v4("app")] {
            let edge = edge(Scope::unscoped(), [view.header(HeaderName::from_static(header))]);
            let app = Router::new()
                .route("/", get(async |ClientIp(address): ClientIp| address.to_string()))
                .layer(source.clone().into_extension())
                .layer(edge.proxied());
            for client in [ANN, BOB] {
                let mut headers = vec![("x-forwarded-for", client)];
                // What the client itself writes there, twice.
                if header != "x-forwarded-for" {
                    headers.extend([(header, "192.0.2.1"), (header, "for=192.0.2.2")]);
                }
                let seen = ask_here(&app, &headers).await.into_body();
                assert_eq!(seen, edge.pseudonym(client).to_string(), "{header}");
            }
        }
    }
}

#[tokio::test]
async fn axum_client_ip_reads_the_pseudonym_from_connect_info() {
    let edge = plain();
    let app = Router::new()
        .route("/", get(async |ClientIp(address): ClientIp| address.to_string()))
        .layer(ClientIpSource::ConnectInfo.into_extension())
        .layer(edge.proxied());
    let seen = ask(serve_plainly(app).await, &[("x-forwarded-for", ANN)]).await.into_body();
    assert_eq!(seen, edge.pseudonym(ANN).to_string());
}
