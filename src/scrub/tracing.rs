//! tracing-subscriber: logs in which no address is, whoever wrote the line.
//!
//! [`MakeScrubWriter`] stands between a `fmt` layer and where it writes to. It is the last gate: it sees each line as it will
//! be, with message, fields, spans, target and thread, in every format.
//!
//! ```
//! use ipveil::{Scrubber, scrub::tracing::MakeScrubWriter};
//! use tracing_subscriber::prelude::*;
//!
//! let scrubber = Scrubber::word("(address)")?;
//! let subscriber = tracing_subscriber::registry().with(
//!     tracing_subscriber::fmt::layer()
//!         .log_internal_errors(false)
//!         .with_writer(MakeScrubWriter::new(scrubber, std::io::stderr)),
//! );
//! # let _ = subscriber;
//! # Ok::<(), ipveil::scrub::ScrubError>(())
//! ```
//!
//! `log_internal_errors(false)`, since an event that could not be formatted is printed to standard error as it is
//! otherwise. Records of the `log` crate are covered, once they come through tracing: `SubscriberInitExt::init` sees to that.
//! With tracing-appender, scrub before its `NonBlocking`, not behind: `MakeScrubWriter::new(scrubber, non_blocking)`.
//!
//! # What does not go through it
//!
//! Every `fmt` layer needs one of its own. Panics are [another matter](super::scrub_panics), and so is what is printed
//! without tracing: give that a [`ScrubWriter`].
//!
//! A layer that is not `fmt` (OpenTelemetry, journald, tokio-console) gets each event as it is. No layer can change what
//! another one sees, and to hand it a changed event takes a function of tracing-core's that is not part of its public
//! interface. So it is done where such a layer hands on what it has:
//!
//! - **journald**: write to standard output with `fmt`, through this, and let systemd pass it on.
//! - **OpenTelemetry**: in an exporter of your own around the real one, or in a processor, bring each attribute's and
//!   body's text to [`Scrubber::scrub_str`]. Or let the collector have the `fmt` layer's JSON.
//! - **A layer of your own**: bring what its `Visit` gets to `scrub_str`.

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use super::{ScrubWriter, Scrubber};

/// Makes writers that write without addresses. See the [module](self).
#[derive(Clone, Debug)]
pub struct MakeScrubWriter<M> {
    scrubber: Scrubber,
    inner: M,
}

impl<M> MakeScrubWriter<M> {
    /// Writes to what `inner` makes.
    pub fn new(scrubber: Scrubber, inner: M) -> Self {
        Self { scrubber, inner }
    }
}

impl<'w, M: MakeWriter<'w>> MakeWriter<'w> for MakeScrubWriter<M> {
    type Writer = ScrubWriter<M::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        ScrubWriter::new(self.scrubber.clone(), self.inner.make_writer())
    }

    fn make_writer_for(&'w self, meta: &Metadata<'_>) -> Self::Writer {
        ScrubWriter::new(self.scrubber.clone(), self.inner.make_writer_for(meta))
    }
}
