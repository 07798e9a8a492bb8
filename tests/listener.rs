//! Where servers of tokio listen.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;

pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}
