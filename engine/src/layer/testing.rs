//! What the tests of all images need.
#![allow(clippy::unwrap_used)]

use std::fmt::Debug;

use coracle_wal::AlignedBuf;

use super::{ImageReader, ImageWriter, Parse, Records};
use crate::SnapshotError;
use crate::snapshot::ChunkSink;

/// The chunks of an image, cut near `target`. Before each but the first, `between` is called.
pub(crate) fn chunks_with(
    records: impl Records,
    target: usize,
    mut between: impl FnMut(),
) -> Vec<Vec<u8>> {
    let mut writer = ImageWriter::new(records);
    let mut buf = AlignedBuf::zeroed(4096);
    let mut chunks = Vec::new();
    loop {
        let mut chunk = ChunkSink::with_target(&mut buf, target);
        let more = writer.fill(&mut chunk).unwrap();
        chunks.push(chunk.bytes().to_vec());
        if !more {
            return chunks;
        }
        between();
    }
}

/// The chunks of an image, cut near `target`.
pub(crate) fn chunks(records: impl Records, target: usize) -> Vec<Vec<u8>> {
    chunks_with(records, target, || {})
}

/// The state of an image; `None` if it has no end.
pub(crate) fn read<P: Parse>(chunks: &[Vec<u8>]) -> Result<Option<P::State>, SnapshotError> {
    let mut reader = ImageReader::<P>::default();
    let mut state = None;
    for chunk in chunks {
        assert!(state.is_none(), "it had ended");
        state = reader.chunk(chunk)?;
    }
    Ok(state)
}

/// `state` as it comes back from chunks of several sizes: equal.
pub(crate) fn come_back<P: Parse, R: Records>(
    state: &P::State,
    records: impl Fn(&P::State) -> R,
) -> Vec<P::State>
where
    P::State: Debug,
{
    let whole = chunks(records(state), 4096);
    assert_eq!(whole.len(), 1);
    let cut_near = |target| {
        let cut = chunks(records(state), target);
        assert_eq!(cut.concat(), whole[0]);
        let back = read::<P>(&cut).unwrap().unwrap();
        assert_eq!(back, *state);
        back
    };
    [1, 2, 7, 50, 4096].map(cut_near).into()
}

/// Whatever is changed in `image`, or left out, or added, is noticed.
pub(crate) fn assert_changes_are_noticed<P: Parse>(image: &[u8])
where
    P::State: Debug,
{
    let is_noticed = |image: Vec<u8>| {
        let found = read::<P>(&[image]);
        assert!(matches!(found, Ok(None) | Err(SnapshotError::Damaged(_))), "{found:?}");
    };
    (0..image.len()).for_each(|cut| is_noticed(image[..cut].to_vec()));
    for at in 0..image.len() {
        let mut wrong = image.to_vec();
        wrong[at] ^= 0x11;
        is_noticed(wrong);
    }
    assert!(read::<P>(&[[image, b"x"].concat()]).is_err());
}
