//! A server of one connection without sockets and replicas: what the Redis door does, with a store
//! that applies at once. For fuzzing, and for holding replies against a real Redis.

use std::time::Duration;

use bowline::kv::{Command, Operation, Store};
use bowline::raft::{DiskState, RequestKind};
use bowline::redis::{Buffered, ClientList, Connection, Context, Node, Settings, Step};
use bowline::types::{ClientId, Instant, NodeId, RequestId, RequestKey};
use bowline::wire::resp::{Limits, Parser, Version, Writer};
use bytes::BytesMut;

/// The server.
pub(crate) struct Door {
    parser: Parser,
    connection: Connection,
    context: Context,
    settings: Settings,
    store: Store,
    unused: Vec<u8>,
    replies: BytesMut,
    closed: bool,
}

impl Door {
    /// With an empty store.
    pub(crate) fn new(limits: Limits) -> Door {
        let (id, host) = (NodeId(1), "127.0.0.1".to_owned());
        let me = Node {
            id,
            host,
            port: 7001,
            peer_port: 8001,
            connected: true,
            match_index: None,
            disk: DiskState::Well,
        };
        let mut context = Context::alone(me, 7, Instant::ZERO);
        context.leader = Some(id);
        context.wall_clock = Duration::from_micros(1_700_000_000_123_456);
        let (address, local_address) = ("127.0.0.1:50000".to_owned(), "127.0.0.1:7001".to_owned());
        Door {
            parser: Parser::new(limits),
            connection: Connection::new(3, address, local_address, Instant::ZERO),
            context,
            settings: Settings::new(&limits, "127.0.0.1", 7001, "data"),
            store: Store::default(),
            unused: Vec::new(),
            replies: BytesMut::new(),
            closed: false,
        }
    }

    /// Takes bytes as they come from a client.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.unused.extend_from_slice(bytes);
        let mut used = 0;
        while !self.closed {
            let request = match self.parser.next(&self.unused, &mut used) {
                Ok(Some(request)) => request,
                Ok(None) => break,
                Err(error) => {
                    let mut writer = Writer::new(&mut self.replies, Version::Two);
                    writer.error(error.to_string().as_bytes());
                    self.closed = true;
                    break;
                }
            };
            let index = self.store.applied_index().next();
            let key = RequestKey {
                client: ClientId(3),
                request: RequestId(u128::from(index.0).to_le_bytes()),
            };
            let (context, settings) = (&self.context, &mut self.settings);
            let (connection, out) = (&mut self.connection, &mut self.replies);
            match connection.execute(request, key, context, settings, out) {
                Step::Done | Step::Save | Step::Forget(_) | Step::Sleep(_) => {}
                Step::Listen(interests) => self.context.subscriptions.change(1, &interests),
                Step::Kill(mut killing) => {
                    self.closed |= killing.takes(connection);
                    killing.finish(out);
                }
                Step::Submit { kind: RequestKind::Write, payload, shape, .. } => {
                    let applied = self.store.apply(index, &payload);
                    assert_eq!((applied.key, applied.repeated), (key, false));
                    shape.encode(&applied.outcome, out);
                }
                Step::Submit { kind: RequestKind::Read, payload, shape, .. } => {
                    let read = self.store.read(&payload);
                    let (named, outcome) = read.expect("it was submitted as a read");
                    assert_eq!(named, key);
                    shape.encode(&outcome, out);
                }
                Step::ListClients(query) => {
                    let mut list = ClientList::new(query);
                    list.add(connection, context, Buffered::default());
                    list.finish(out);
                }
                Step::Close => self.closed = true,
            }
        }
        self.unused.drain(..used);
    }

    /// It is that time, since 1970: by the wall clock and by the log's.
    #[allow(dead_code, reason = "not everybody who has a door has clocks")]
    pub(crate) fn move_clock(&mut self, now: Duration) {
        self.context.wall_clock = now;
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let operation = Operation::Clock { millis };
        let index = self.store.applied_index().next();
        let command = Command { key: RequestKey::default(), operation };
        self.store.apply(index, &command.encode());
    }

    /// What was answered since the last call.
    pub(crate) fn replies(&mut self) -> Vec<u8> {
        self.replies.split().to_vec()
    }

    /// Whether the connection was closed by us.
    pub(crate) fn closed(&self) -> bool {
        self.closed
    }
}
