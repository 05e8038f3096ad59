//! What both ends of a transfer need of streams and time.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use coracle_wal::AlignedBuf;
use futures_util::future::{Either, select};
use futures_util::stream::{Stream, StreamExt};

use crate::env::{Env, StreamReader, no_such_place, place_in};

/// A receiving half, and what was read of it before it was ours.
pub(super) struct Incoming<R> {
    reader: R,
    early: BytesMut,
}

impl<R: StreamReader> Incoming<R> {
    /// `early` came along with the greeting.
    pub(super) fn new(reader: R, early: BytesMut) -> Self {
        Self { reader, early }
    }

    /// As [`StreamReader::read_aligned`].
    pub(super) async fn exactly(
        &mut self,
        mut buf: AlignedBuf,
        at: usize,
        len: usize,
    ) -> (io::Result<()>, AlignedBuf) {
        let early = len.min(self.early.len());
        if early > 0 {
            let Some(place) = place_in(&mut buf, at, early) else {
                return (Err(no_such_place(&buf, at, len)), buf);
            };
            place.copy_from_slice(&self.early[..early]);
            self.early.advance(early);
            if early == len {
                return (Ok(()), buf);
            }
        }
        self.reader.read_aligned(buf, at + early, len - early).await
    }

    /// Appends to `buf` what is there, at most its spare capacity. 0 is the end of the stream.
    pub(super) async fn some(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        let early = self.early.len().min(buf.capacity() - buf.len());
        if early > 0 {
            buf.extend_from_slice(&self.early[..early]);
            self.early.advance(early);
            return Ok(early);
        }
        self.reader.read(buf).await
    }
}

/// What `future` gives within `time`.
pub(super) async fn within<E: Env, F: Future>(
    env: &E,
    time: Duration,
    future: F,
) -> Option<F::Output> {
    match select(pin!(future), pin!(env.sleep(time))).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}

/// What `future` gives, while `others` go on; what they yield meanwhile goes to the end of `yielded`.
pub(super) async fn beside<S: Stream + Unpin, F: Future>(
    others: &mut S,
    yielded: &mut VecDeque<S::Item>,
    future: F,
) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        while let Poll::Ready(Some(item)) = others.poll_next_unpin(cx) {
            yielded.push_back(item);
        }
        future.as_mut().poll(cx)
    })
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use coracle_wal::mem::run_to_end;

    use super::*;

    /// Gives its bytes a few at a time.
    struct Trickle(Vec<u8>, usize);

    impl StreamReader for Trickle {
        async fn read(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
            let most = self.1.min(buf.capacity() - buf.len()).min(self.0.len());
            buf.extend_from_slice(&self.0[..most]);
            self.0.drain(..most);
            Ok(most)
        }
    }

    #[test]
    fn what_came_early_comes_first_and_nothing_beyond_what_is_asked_for_is_taken() {
        let all: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
        for early in [0, 1, 39, 40, 41, 5000] {
            for step in [1, 7, 100_000] {
                let trickle = Trickle(all[early..].to_vec(), step);
                let mut incoming = Incoming::new(trickle, BytesMut::from(&all[..early]));
                let found = run_to_end(async {
                    let mut found = Vec::new();
                    for (at, len) in [(0, 40), (3, 4000), (4095, 1), (0, 0), (8, 5000)] {
                        let buf = AlignedBuf::zeroed(at + len);
                        let (result, buf) = incoming.exactly(buf, at, len).await;
                        result.unwrap();
                        found.extend_from_slice(&buf[at..at + len]);
                    }
                    let mut rest = BytesMut::with_capacity(10_000);
                    while incoming.some(&mut rest).await.unwrap() > 0 {}
                    found.extend_from_slice(&rest);
                    let (ended, buf) = incoming.exactly(AlignedBuf::zeroed(1), 0, 1).await;
                    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
                    let (refused, _) = incoming.exactly(buf, 4096, 1).await;
                    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
                    found
                });
                assert!(found == all, "{early} early, steps of {step}");
            }
        }
    }
}
