//! Connections for one request alone, which asks for another protocol.

use std::io;

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use rustls::AlertDescription;

use super::{Failed, http1::for_h1, http2::for_h2, in_time};
use crate::proxy::body::{Deadline, RequestBody};

/// A connection for one request, which asks for another protocol.
pub(crate) enum Apart {
    H1(http1::SendRequest<RequestBody>),
    /// And whether it is encrypted.
    H2(http2::SendRequest<RequestBody>, bool),
}

impl Apart {
    pub(crate) fn is_h2(&self) -> bool {
        matches!(self, Self::H2(..))
    }

    pub(crate) async fn send(
        self,
        mut request: Request<RequestBody>,
        deadline: &Deadline,
    ) -> Result<Response<Incoming>, Failed> {
        let sent = async {
            match self {
                Self::H1(mut sender) => {
                    for_h1(&mut request);
                    sender.send_request(request).await
                }
                Self::H2(mut sender, is_secure) => {
                    for_h2(&mut request, is_secure);
                    sender.send_request(request).await
                }
            }
        };
        match in_time(deadline, deadline.site.deadlines.first_byte, sent).await {
            Ok(response) => response.map_err(|_| Failed::Response),
            Err(()) => Err(Failed::Late),
        }
    }
}

/// Whether a server has said that it speaks none of the protocols that it was offered.
pub(super) fn agrees_to_none(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)))
}
