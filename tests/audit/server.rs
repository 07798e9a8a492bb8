//! Servers that answer as they are told to.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

/// A server that shows each request to `see`, and answers with what that makes of it.
pub(crate) fn serve(see: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    listen(move |stream| {
        let request = read_request(stream);
        let body = see(&request);
        let status = if request.starts_with(b"GET /0") { "404 Not Found" } else { "200 OK" };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _ = stream.write_all(&[head.as_bytes(), &body].concat());
    })
}

/// Does this with each connection.
pub(crate) fn listen(serve: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, serve) = (stream.unwrap(), Arc::clone(&serve));
            thread::spawn(move || serve(&mut stream));
        }
    });
    address
}

pub(crate) fn read_request(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut request = Vec::new();
    let mut part = [0; 4096];
    loop {
        let end = request.windows(4).position(|four| four == b"\r\n\r\n").map(|place| place + 4);
        let is_whole = end.is_some_and(|end| {
            let is_chunked = request[..end].to_ascii_lowercase().windows(7).any(|word| word == b"chunked");
            !is_chunked || request[end..].ends_with(b"\r\n\r\n")
        });
        if is_whole {
            return request;
        }
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return request,
            Ok(length) => request.extend_from_slice(&part[..length]),
        }
    }
}
