//! gRPC: calls with one message and with many, in both directions at once, and how they end.

use std::{convert::Infallible, pin::Pin, task};

use bytes::Bytes;
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{
    Code, Request, Response, Status, Streaming,
    client::Grpc,
    metadata::MetadataValue,
    server::{NamedService, StreamingService},
    transport::{Channel, Endpoint},
};

use crate::{
    codec::Plain,
    edge::{Edge, before, start},
    http2::run,
    listener::listen,
};

/// Says back what it hears until it hears of an end.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

type Said = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl StreamingService<Bytes> for Echo {
    type Response = Bytes;
    type ResponseStream = Said;
    type Future = std::future::Ready<Result<Response<Said>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let client = request.metadata().get("x-forwarded-for").map(|value| value.to_str().unwrap().to_owned());
        if request.metadata().contains_key("x-refuse") {
            return std::future::ready(Err(Status::permission_denied("not you")));
        }
        let said = request.into_inner().map(|message| match message {
            Ok(message) if message == "fail" => Err(Status::data_loss("it was told to")),
            other => other,
        });
        let mut response = Response::new(Box::pin(said) as Said);
        response.metadata_mut().insert("x-client", client.unwrap_or_default().parse().unwrap());
        std::future::ready(Ok(response))
    }
}

impl tower::Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async { Ok(tonic::server::Grpc::new(Plain).streaming(Echo, request).await) })
    }
}

fn serve() -> Edge {
    let address = run(async {
        let (socket, address) = listen().await;
        let server = tonic::transport::Server::builder().add_service(Echo);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(socket)));
        address
    });
    start(&before(address).replace("http://", "h2c://"))
}

async fn connect(edge: &Edge) -> Grpc<Channel> {
    let channel = Endpoint::from_shared(format!("http://127.0.0.1:{}", edge.port)).unwrap().connect().await.unwrap();
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    client
}

fn path() -> PathAndQuery {
    PathAndQuery::from_static("/test.Echo/Say")
}

#[test]
fn a_call_with_one_message_is_answered() {
    let edge = serve();
    run(async {
        let mut client = connect(&edge).await;
        let answer = client.unary(Request::new(Bytes::from("hello")), path(), Plain).await.unwrap();
        assert!(answer.metadata().get("x-client").unwrap().to_str().unwrap().starts_with("2001:2"));
        assert_eq!(answer.into_inner(), "hello");
        // Of any size.
        let large = Bytes::from(vec![7; 1 << 20]);
        client.ready().await.unwrap();
        assert_eq!(client.unary(Request::new(large.clone()), path(), Plain).await.unwrap().into_inner(), large);
    });
    assert!(edge.lines_when(1)[0].contains("\"POST /test.Echo/Say HTTP/2.0\" 200 "));
}

#[test]
fn a_call_goes_both_ways_at_once_and_ends_in_trailers() {
    let edge = serve();
    run(async {
        let mut client = connect(&edge).await;
        let (say, said) = mpsc::channel(1);
        let answer = client.streaming(Request::new(ReceiverStream::new(said)), path(), Plain).await.unwrap();
        let mut answer = answer.into_inner();
        for message in ["one", "two", "three"] {
            say.send(Bytes::from(message)).await.unwrap();
            assert_eq!(answer.message().await.unwrap().unwrap(), message);
        }
        drop(say);
        assert_eq!(answer.message().await.unwrap(), None);
        // The status was there, or this would be an error.
        assert!(answer.trailers().await.unwrap().is_some());
    });
}

#[test]
fn a_call_that_fails_says_why() {
    let edge = serve();
    run(async {
        // In the middle, in trailers.
        let mut client = connect(&edge).await;
        let messages = tokio_stream::iter([Bytes::from("one"), Bytes::from("fail")]);
        let mut answer = client.streaming(Request::new(messages), path(), Plain).await.unwrap().into_inner();
        assert_eq!(answer.message().await.unwrap().unwrap(), "one");
        let status = answer.message().await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::DataLoss, "it was told to"));
        // At once, in headers.
        client.ready().await.unwrap();
        let mut request = Request::new(Bytes::from("hello"));
        request.metadata_mut().insert("x-refuse", MetadataValue::from_static("1"));
        let status = client.unary(request, path(), Plain).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "not you"));
    });
}

#[test]
fn a_client_that_goes_away_ends_the_call() {
    let edge = serve();
    run(async {
        let mut client = connect(&edge).await;
        let (say, said) = mpsc::channel(1);
        let answer = client.streaming(Request::new(ReceiverStream::new(said)), path(), Plain).await.unwrap();
        let mut answer = answer.into_inner();
        say.send(Bytes::from("one")).await.unwrap();
        assert_eq!(answer.message().await.unwrap().unwrap(), "one");
    });
    // With all that it held, so with its connection.
    assert!(edge.lines_when(1)[0].contains("/test.Echo/Say"));
}
