//! The requests of one connection that the sender has not come to yet.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::BytesMut;
use thiserror::Error;

use super::limits::REQUESTS_OUTSTANDING_MAX;
use super::message::{MessageError, REQUEST_BYTES, Request};
use super::stream::Incoming;
use crate::core::signal::Signal;
use crate::env::StreamReader;

/// How the stream of requests ended.
#[derive(Debug, Error)]
pub(super) enum RequestsEnd {
    #[error("closed by the peer")]
    Closed,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Message(#[from] MessageError),
}

/// A queue between the part that receives requests and the part that answers them.
#[derive(Debug, Default)]
pub(super) struct Requests {
    queue: RefCell<VecDeque<Request>>,
    arrived: Signal,
    taken: Signal,
}

impl Requests {
    /// Receives requests for as long as there are any; stops reading while too many wait, so that TCP
    /// holds the peer back.
    pub(super) async fn receive<R: StreamReader>(&self, incoming: &mut Incoming<R>) -> RequestsEnd {
        let mut buf = BytesMut::new();
        loop {
            while let Some(bytes) = buf.first_chunk::<REQUEST_BYTES>() {
                let request = match Request::decode(bytes) {
                    Ok(request) => request,
                    Err(error) => return error.into(),
                };
                while self.queue.borrow().len() >= REQUESTS_OUTSTANDING_MAX {
                    sometimes!(transfer_requests_full);
                    self.taken.wait().await;
                }
                drop(buf.split_to(REQUEST_BYTES));
                self.queue.borrow_mut().push_back(request);
                self.arrived.set();
            }
            buf.reserve(REQUESTS_OUTSTANDING_MAX * REQUEST_BYTES);
            match incoming.some(&mut buf).await {
                Ok(0) => return RequestsEnd::Closed,
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
    }

    /// The oldest request.
    pub(super) fn pop(&self) -> Option<Request> {
        let request = self.queue.borrow_mut().pop_front();
        self.taken.set();
        request
    }

    /// Ready when there are requests.
    pub(super) fn poll_any(&self, cx: &Context<'_>) -> Poll<()> {
        while self.queue.borrow().is_empty() {
            if self.arrived.poll_take(cx).is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}
