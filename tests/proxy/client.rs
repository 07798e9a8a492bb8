//! Clients that write bytes and read answers.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
};

use crate::edge::SOON;

/// A connection, over whatever bytes pass.
pub(crate) struct Client<S = TcpStream> {
    pub(crate) stream: S,
    read: Vec<u8>,
}

/// A message, as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// The first line.
    pub(crate) start: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

/// How the end of a body is found, where its head does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Otherwise {
    Nothing,
    UntilTheEnd,
}

pub(crate) fn connect(port: u16) -> Client {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream.set_nodelay(true).unwrap();
    Client::new(stream)
}

/// One request on a connection of its own, and its answer.
#[track_caller]
pub(crate) fn ask(port: u16, request: impl AsRef<[u8]>) -> Message {
    let mut client = connect(port);
    client.send(request);
    client.answer()
}

/// A request for a path, with more lines of headers.
pub(crate) fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: example.com\r\n{headers}\r\n")
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Writes; that nobody reads any more shows in what comes back.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
        let _ = self.stream.flush();
    }

    /// Reads an answer.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Message {
        self.answer_to("GET")
    }

    #[track_caller]
    pub(crate) fn answer_to(&mut self, method: &str) -> Message {
        let message = self.try_answer(method).unwrap();
        message.expect("the connection is closed without an answer")
    }

    /// Reads an answer; nothing if the connection ends before it begins.
    pub(crate) fn try_answer(&mut self, method: &str) -> io::Result<Option<Message>> {
        let Some(mut message) = self.head()? else { return Ok(None) };
        let status = message.status();
        if method != "HEAD" && !matches!(status, 100..=199 | 204 | 304) {
            self.body(&mut message, Otherwise::UntilTheEnd)?;
        }
        Ok(Some(message))
    }

    /// Reads a head, and nothing of the body.
    pub(crate) fn head(&mut self) -> io::Result<Option<Message>> {
        let Some(first) = self.line()? else { return Ok(None) };
        let headers = self.fields()?;
        Ok(Some(Message { start: first, headers, ..Message::default() }))
    }

    pub(crate) fn body(&mut self, message: &mut Message, otherwise: Otherwise) -> io::Result<()> {
        if message.value("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            loop {
                let line = self.line()?.ok_or(io::ErrorKind::UnexpectedEof)?;
                let size = line.split(';').next().unwrap_or_default();
                let size = usize::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
                if size == 0 {
                    break;
                }
                message.body.extend(self.exactly(size)?);
                if self.exactly(2)? != b"\r\n" {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
            message.trailers = self.fields()?;
        } else if let Some(length) = message.value("content-length") {
            let length = length.parse().map_err(|_| io::ErrorKind::InvalidData)?;
            message.body = self.exactly(length)?;
        } else if otherwise == Otherwise::UntilTheEnd {
            message.body = self.rest();
        }
        Ok(())
    }

    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(": ").or_else(|| line.split_once(':')).unwrap_or((&line, ""));
            fields.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }

    /// A line without its end; nothing if there is not one more.
    pub(crate) fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.read.windows(2).position(|two| two == b"\r\n") {
                let line = self.read.drain(..end + 2).take(end).collect::<Vec<_>>();
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            if !self.more()? {
                return if self.read.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    pub(crate) fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < count {
            if !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.read.drain(..count).collect())
    }

    /// All that comes until the connection ends, however it does.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while let Ok(true) = self.more() {}
        std::mem::take(&mut self.read)
    }

    /// Whether the connection ends, and nothing comes before that.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.more() {
            Ok(more) => !more,
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    }

    fn more(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let count = self.stream.read(&mut buffer)?;
        self.read.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }
}

impl Message {
    /// The status of an answer.
    #[track_caller]
    pub(crate) fn status(&self) -> u16 {
        let status = self.start.strip_prefix("HTTP/1.1 ").or_else(|| self.start.strip_prefix("HTTP/1.0 "));
        status.and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or_else(|| panic!("{self:?}"))
    }

    /// The one value of a header.
    #[track_caller]
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() < 2, "{self:?}");
        values.first().copied()
    }

    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| &**value).collect()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}
