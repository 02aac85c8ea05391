//! The Redis protocol: requests from bytes that arrive piece by piece, and replies to bytes, in
//! both versions. No sockets and no commands here; what a request means is `redis/`'s business.
//!
//! A connection has one [`Parser`] and one buffer of bytes that were read and not yet used:
//!
//! ```
//! use bowline::wire::resp::{Limits, Parser};
//!
//! let mut parser = Parser::new(Limits::default());
//! let mut buffer = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n\r\nPI".to_vec();
//! let mut used = 0;
//! while let Some(request) = parser.next(&buffer, &mut used).expect("well formed") {
//!     assert_eq!(request.iter().collect::<Vec<_>>(), [&b"GET"[..], b"k"]);
//! }
//! buffer.drain(..used);
//! assert_eq!(buffer, b"PI"); // The parser remembers how far it has looked.
//! ```

mod inline;
mod parser;
mod writer;

pub use parser::{Limits, Parser, ProtocolError, Request};
pub use writer::{Version, Writer};
