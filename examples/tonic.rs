//! A gRPC server behind ipveil, and a client that asks it whom it sees.
//!
//! ```text
//! $ cargo run --example tonic --features tonic
//! Bearer one
//!   remote_addr()    Some([2001:22:5be7:a4c8:fa31:a465:d2c9:74b7]:0)
//!   x-forwarded-for  Some("2001:22:5be7:a4c8:fa31:a465:d2c9:74b7")
//!   for the log      _mtiu5nbsoo64hy4njylu4mllhy
//! Bearer two
//!   remote_addr()    Some([2001:21:b16f:4c1:4873:557b:2311:6ed9]:0)
//!   x-forwarded-for  Some("2001:21:b16f:4c1:4873:557b:2311:6ed9")
//!   for the log      _zpkd6k4gupvdvxfbykfywkohvq
//! Bearer one
//!   remote_addr()    Some([2001:22:5be7:a4c8:fa31:a465:d2c9:74b7]:0)
//!   x-forwarded-for  Some("2001:22:5be7:a4c8:fa31:a465:d2c9:74b7")
//!   for the log      _mtiu5nbsoo64hy4njylu4mllhy
//! ```
#![expect(clippy::print_stdout, reason = "a program shows what it got")]

use std::{
    convert::Infallible,
    error::Error,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, BufMut as _};
use ipveil::{
    AnonymizeLayer, Client, KeyRing, Policy, Resolver, TrustedProxies,
    keys::{Epochs, MemorySource},
    policy::{Scope, Session, View},
    resolve::Source,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    server::NamedService,
    transport::{Endpoint, Server},
};
use tower::{Service, service_fn};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let resolver = Resolver::behind(TrustedProxies::parse(["loopback"])?, Source::x_forwarded_for());
    let policy = Policy::new(
        Scope::per_session(Session::authorization()),
        [View::address("app").header(http::HeaderName::from_static("x-forwarded-for")), View::token("log")],
    )?;
    let keys = KeyRing::start(MemorySource, Epochs::hourly())?;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = Server::builder().layer(AnonymizeLayer::new(resolver, policy, keys)).add_service(Who);
    tokio::spawn(server.serve_with_incoming(ipveil::tonic::Incoming::new(TcpListenerStream::new(listener))));

    // As a proxy on this machine would for a client at 203.0.113.7.
    let mut client = tonic::client::Grpc::new(Endpoint::try_from(format!("http://{address}"))?.connect().await?);
    for session in ["Bearer one", "Bearer two", "Bearer one"] {
        let mut request = Request::new("who am I?".to_owned());
        request.metadata_mut().insert("authorization", session.parse()?);
        request.metadata_mut().insert("x-forwarded-for", "203.0.113.7".parse()?);
        client.ready().await?;
        let path = http::uri::PathAndQuery::from_static("/example.Who/AmI");
        println!("{session}\n{}", client.unary(request, path, Text).await?.into_inner());
    }
    Ok(())
}

async fn am_i(request: Request<String>) -> Result<Response<String>, Status> {
    let client: &Client = request.extensions().get().ok_or_else(|| Status::internal("no layer"))?;
    Ok(Response::new(format!(
        "  remote_addr()    {:?}\n  x-forwarded-for  {:?}\n  for the log      {}",
        request.remote_addr(),
        request.metadata().get("x-forwarded-for"),
        client.pseudonym("log"),
    )))
}

/// What tonic-build makes of a service with one method.
#[derive(Clone)]
struct Who;

impl NamedService for Who {
    const NAME: &'static str = "example.Who";
}

impl Service<http::Request<Body>> for Who {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async { Ok(tonic::server::Grpc::new(Text).unary(service_fn(am_i), request).await) })
    }
}

/// Messages that are text, so that nothing has to be generated.
#[derive(Clone, Copy)]
struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, text: String, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(text.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        String::from_utf8(bytes.into()).map(Some).map_err(|_| Status::invalid_argument("not UTF-8"))
    }
}
