//! Text, gzip and zstd, told apart by how they begin.

use std::io::{self, Read, Write};

/// How a text is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Plain,
    Gzip,
    Zstd,
}

/// So many bytes tell in which format a text is.
pub(crate) const START: usize = 4;

impl Format {
    /// That of what begins so.
    pub(crate) fn of(start: &[u8]) -> io::Result<Self> {
        match start {
            // RFC 1952, 2.3.1, with the only method that there is.
            [0x1f, 0x8b, 8, ..] => Ok(Self::Gzip),
            // RFC 8878, 3.1.1.
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            // Nothing would be found in there, whatever is in there: xz, bzip2, lz4, zip, 7z, lzma, compress, zlib.
            [0xfd, b'7', b'z', b'X', ..]
            | [b'B', b'Z', b'h', b'1'..=b'9']
            | [4, 0x22, 0x4d, 0x18]
            | [b'P', b'K', 3, 4]
            | [b'7', b'z', 0xbc, 0xaf]
            | [0x5d, 0, 0, _]
            | [0x1f, 0x9d, ..]
            | [b'x', 1 | 0x9c | 0xda, ..] => {
                let text = "is compressed in a way that can't be read (expected text, gzip or zstd)";
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
            _ => Ok(Self::Plain),
        }
    }

    /// Writes in this format.
    pub(crate) fn encode<W: Write>(self, writer: W) -> io::Result<Encoder<W>> {
        Ok(match self {
            Self::Plain => Encoder::Plain(writer),
            Self::Gzip => Encoder::Gzip(flate2::write::GzEncoder::new(writer, flate2::Compression::default())),
            Self::Zstd => Encoder::Zstd(zstd::Encoder::new(writer, zstd::DEFAULT_COMPRESSION_LEVEL)?),
        })
    }
}

/// Reads whatever it is as text. An archive that ends too early is an error, not an end.
pub(crate) fn decode(mut reader: impl Read + Send + 'static) -> io::Result<(Format, Box<dyn Read + Send>)> {
    let mut start = Vec::new();
    (&mut reader).take(START as u64).read_to_end(&mut start)?;
    let format = Format::of(&start)?;
    let reader = io::Cursor::new(start).chain(reader);
    let reader: Box<dyn Read + Send> = match format {
        Format::Plain => Box::new(reader),
        Format::Gzip => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        Format::Zstd => Box::new(zstd::Decoder::new(reader)?),
    };
    Ok((format, reader))
}

/// What tells text from what is none, piece by piece: there are NUL bytes in it. In UTF-16 no address would be found, and in an
/// archive or a record of fixed size the lengths would no longer fit.
///
/// Not those of holes: where a log was emptied while somebody wrote to it, at its beginning, or the system went down.
pub(crate) struct OnlyText {
    // How many NULs came last.
    nuls: usize,
}

/// As long is no run of NULs in UTF-16 or in a field; some are in an archive, but there are shorter ones, too.
const HOLE: usize = 512;

impl OnlyText {
    pub(crate) fn new() -> Self {
        // A hole at the beginning may have any length.
        Self { nuls: HOLE }
    }

    /// Looks at the next piece.
    pub(crate) fn look(&mut self, mut piece: &[u8]) -> io::Result<()> {
        loop {
            let text = piece.iter().position(|&byte| byte != 0).unwrap_or(piece.len());
            self.nuls = self.nuls.saturating_add(text);
            piece = &piece[text..];
            if piece.is_empty() {
                return Ok(());
            }
            self.end()?;
            self.nuls = 0;
            piece = &piece[memchr::memchr(0, piece).unwrap_or(piece.len())..];
        }
    }

    /// There is no more.
    pub(crate) fn end(&self) -> io::Result<()> {
        if self.nuls == 0 || self.nuls >= HOLE {
            return Ok(());
        }
        let text = "is no text: there are NUL bytes in it (expected text, gzip or zstd; convert UTF-16, unpack archives, or say \
                    --binary to have the bytes scrubbed as they are)";
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

/// The same, as long as it is text.
pub(crate) fn only_text(reader: impl Read) -> impl Read {
    struct Reader<R> {
        inner: R,
        text: OnlyText,
    }

    impl<R: Read> Read for Reader<R> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.inner.read(buffer)?;
            match length {
                0 if !buffer.is_empty() => self.text.end()?,
                _ => self.text.look(&buffer[..length])?,
            }
            Ok(length)
        }
    }

    Reader { inner: reader, text: OnlyText::new() }
}

/// Writes a text in some format.
pub(crate) enum Encoder<W: Write> {
    Plain(W),
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Writes what is left, and the end.
    pub(crate) fn finish(self) -> io::Result<()> {
        let mut writer = match self {
            Self::Plain(writer) => writer,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
        };
        writer.flush()
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(writer) => writer.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            // A flush of compressed data costs size, and its end comes with `finish`.
            Self::Plain(writer) => writer.flush(),
            Self::Gzip(_) | Self::Zstd(_) => Ok(()),
        }
    }
}
