//! RESP2 and RESP3: the request decoder, the reply writer and number parsing with Redis' rules.
//!
//! Requests are arrays of bulk strings (`*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`) or inline lines
//! (`GET k\r\n`). The decoder works on the connection's receive buffer and yields ranges of it, so
//! that an argument is never copied before the log entry is built. Replies are written in the form
//! of the protocol that the connection chose with `HELLO`.

mod decode;
mod inline;
mod number;
mod write;

#[cfg(test)]
mod tests;

pub use decode::{Args, Decoder, ProtocolError};
pub use number::{parse_f64, parse_i64, parse_u64};
pub use write::{Protocol, Writer};
