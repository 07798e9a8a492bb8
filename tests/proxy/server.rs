//! Servers that say what they are told to say, and remember what they were asked.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use crate::{
    client::{Client, Message, Otherwise},
    edge::{SOON, until},
};

/// A server of raw connections.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    requests: Arc<Mutex<Vec<Message>>>,
}

/// A connection whose bytes are remembered.
pub(crate) struct Recorded {
    pub(crate) stream: TcpStream,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    index: usize,
}

impl Read for Recorded {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.heard.lock().unwrap()[self.index].extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

impl Write for Recorded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// A server that does that with each connection, of which it is told the number.
pub(crate) fn serve(each: impl Fn(usize, Client<Recorded>) + Send + Sync + 'static) -> Server {
    serve_and_note(move |number, client, _| each(number, client))
}

fn serve_and_note(each: impl Fn(usize, Client<Recorded>, &Mutex<Vec<Message>>) + Send + Sync + 'static) -> Server {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let heard = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let requests = Arc::<Mutex<Vec<Message>>>::default();
    let server = Server { address, heard: Arc::clone(&heard), requests: Arc::clone(&requests) };
    let each = Arc::new(each);
    thread::spawn(move || {
        for (index, stream) in socket.incoming().enumerate() {
            let Ok(stream) = stream else { continue };
            stream.set_read_timeout(Some(3 * SOON)).unwrap();
            stream.set_nodelay(true).unwrap();
            heard.lock().unwrap().push(Vec::new());
            let client = Client::new(Recorded { stream, heard: Arc::clone(&heard), index });
            let (each, requests) = (Arc::clone(&each), Arc::clone(&requests));
            thread::spawn(move || each(index, client, &requests));
        }
    });
    server
}

/// A server that answers every request of HTTP/1.1 like that.
pub(crate) fn answer(answer: impl Into<Vec<u8>>) -> Server {
    let answer = answer.into();
    reply(move |_| answer.clone())
}

/// A server that answers every request of HTTP/1.1.
pub(crate) fn reply(answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Server {
    serve_and_note(move |_, mut client, requests| {
        while let Ok(Some(mut request)) = client.head() {
            if client.body(&mut request, Otherwise::Nothing).is_err() {
                request.start.push_str(BROKEN);
                requests.lock().unwrap().push(request);
                return;
            }
            requests.lock().unwrap().push(request.clone());
            client.send(answer(&request));
        }
    })
}

/// Stands behind the first line of a request that did not come to its end.
pub(crate) const BROKEN: &str = " (broken)";

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes";

/// A server that says yes.
pub(crate) fn yes() -> Server {
    answer(OK)
}

impl Server {
    /// All requests that were read.
    pub(crate) fn requests(&self) -> Vec<Message> {
        self.requests.lock().unwrap().clone()
    }

    /// The last request that was read.
    #[track_caller]
    pub(crate) fn last(&self) -> Message {
        until(|| self.requests().pop())
    }

    /// The bytes of all connections, in the order in which these began.
    pub(crate) fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap().clone()
    }
}
