//! Snapshots of machines whose state is small: the image is made as a whole and cut into chunks.
//!
//! Chunks carry no mark of their own here: their order and their integrity are the business of whoever
//! stores them.

use coracle_wal::AlignedBuf;

use super::{Restore, SnapshotError, SnapshotStream, StateMachine};
use crate::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use crate::snapshot::ChunkSink;

/// Bytes put into a chunk before it is looked at again: it goes beyond its target by less than this.
const PIECE_BYTES: usize = 64 << 10;

/// An image that lies in memory, as a stream of chunks.
#[derive(Debug)]
pub struct WholeImage {
    image: Vec<u8>,
    written: usize,
}

impl WholeImage {
    /// The stream of `image`. Making the image is work of one call and memory beside the state: for up to a
    /// few megabytes.
    #[must_use]
    pub fn new(image: Vec<u8>) -> Self {
        Self { image, written: 0 }
    }
}

impl SnapshotStream for WholeImage {
    fn fill(&mut self, chunk: &mut ChunkSink<'_>) -> Result<bool, SnapshotError> {
        while self.written < self.image.len() && !chunk.is_full() {
            let rest = &self.image[self.written..];
            self.written +=
                chunk.put_some(&rest[..rest.len().min(PIECE_BYTES).min(chunk.until_full())]);
        }
        Ok(self.written < self.image.len())
    }
}

/// Puts the chunks of a restoration together to one image, up to a bound.
#[derive(Debug)]
pub struct ImageBuffer {
    bytes_max: usize,
    image: Option<Vec<u8>>,
}

/// Largest image that an [`ImageBuffer`] takes unless told otherwise: beyond it, a stream is worth writing.
const IMAGE_BYTES_MAX: usize = 64 << 20;

impl Default for ImageBuffer {
    /// A buffer for images of up to 64 MiB.
    fn default() -> Self {
        Self::new(IMAGE_BYTES_MAX)
    }
}

impl ImageBuffer {
    /// A buffer for images of at most `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, image: None }
    }

    /// Takes one step of a restoration. The last one gives the image.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] if the image is larger than allowed or steps come in another order.
    pub fn take(&mut self, part: Restore<'_>) -> Result<Option<Vec<u8>>, SnapshotError> {
        let out_of_order = || SnapshotError::Damaged("its chunks come without a beginning".into());
        match part {
            Restore::Begin => self.image = Some(Vec::new()),
            Restore::Chunk(chunk) => {
                let image = self.image.as_mut().ok_or_else(out_of_order)?;
                let (bytes, max) = (image.len().saturating_add(chunk.len()), self.bytes_max);
                if bytes > max {
                    self.image = None;
                    return Err(SnapshotError::Damaged(format!(
                        "it has more than {max} bytes, which is the most for this state machine"
                    )));
                }
                image.extend_from_slice(chunk);
            }
            Restore::End => return self.image.take().ok_or_else(out_of_order).map(Some),
        }
        Ok(None)
    }
}

/// All chunks of a stream, in memory: for tests and tools. Empty ones are left out.
///
/// # Errors
/// Whatever the stream returns.
pub fn snapshot_chunks(mut stream: Box<dyn SnapshotStream>) -> Result<Vec<Vec<u8>>, SnapshotError> {
    let mut buf = AlignedBuf::zeroed(SNAPSHOT_CHUNK_BYTES_MAX);
    let mut chunks = Vec::new();
    loop {
        let mut chunk = ChunkSink::new(&mut buf);
        let more = stream.fill(&mut chunk)?;
        if !chunk.is_empty() {
            chunks.push(chunk.bytes().to_vec());
        }
        if !more {
            return Ok(chunks);
        }
    }
}

/// Restores `machine` from chunks that lie in memory: for tests and tools.
///
/// # Errors
/// Whatever the machine returns.
pub fn restore_chunks<C: AsRef<[u8]>>(
    machine: &mut dyn StateMachine,
    chunks: impl IntoIterator<Item = C>,
) -> Result<(), SnapshotError> {
    machine.restore(Restore::Begin)?;
    for chunk in chunks {
        machine.restore(Restore::Chunk(chunk.as_ref()))?;
    }
    machine.restore(Restore::End)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::limits::SNAPSHOT_CHUNK_TARGET_BYTES;

    fn chunks(image: &[u8]) -> Vec<Vec<u8>> {
        snapshot_chunks(Box::new(WholeImage::new(image.to_vec()))).unwrap()
    }

    #[test]
    fn an_image_is_cut_near_the_target_and_put_together_again() {
        let image: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let cut = chunks(&image);
        assert_eq!(cut.len(), 3);
        let target = SNAPSHOT_CHUNK_TARGET_BYTES..SNAPSHOT_CHUNK_TARGET_BYTES + PIECE_BYTES;
        assert!(cut[..2].iter().all(|chunk| target.contains(&chunk.len())));
        let mut buffer = ImageBuffer::new(image.len());
        buffer.take(Restore::Begin).unwrap();
        for chunk in &cut {
            assert_eq!(buffer.take(Restore::Chunk(chunk)).unwrap(), None);
        }
        assert_eq!(buffer.take(Restore::End).unwrap(), Some(image));
        assert!(chunks(b"").is_empty());
    }

    #[test]
    fn an_image_that_is_too_large_or_out_of_order_is_refused() {
        let mut buffer = ImageBuffer::new(10);
        assert!(buffer.take(Restore::End).is_err());
        assert!(buffer.take(Restore::Chunk(b"x")).is_err());
        buffer.take(Restore::Begin).unwrap();
        buffer.take(Restore::Chunk(&[0; 10])).unwrap();
        let refused = buffer.take(Restore::Chunk(b"x")).unwrap_err();
        assert!(refused.to_string().contains("more than 10 bytes"), "{refused}");
        assert!(buffer.take(Restore::End).is_err(), "half an image is none");
        buffer.take(Restore::Begin).unwrap();
        buffer.take(Restore::Chunk(b"old")).unwrap();
        buffer.take(Restore::Begin).unwrap();
        assert_eq!(buffer.take(Restore::End).unwrap(), Some(Vec::new()));
    }
}
