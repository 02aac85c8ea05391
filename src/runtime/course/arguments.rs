//! The command line of a replica under a simulator of the university course: this replica's id, the
//! other replicas' ids, and the simulator's address.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::types::{Instant, NodeId};
use crate::wire::course;

use crate::runtime::boards::RuntimeCounters;
use crate::runtime::course::connection::Connection;
use crate::runtime::course::transport::CourseTransport;

/// Maximum number of replicas in a cluster that a simulator of the university course starts.
const REPLICAS_MAX: usize = 21;

/// Proof that this process was started by a simulator of the university course, which never
/// restarts a replica that it has killed. Only with this proof may a replica run without a durable
/// log. Created only by [`CourseArguments::connect`].
#[derive(Debug)]
pub(super) struct NeverRestarts(());

/// The parsed command line of a replica under a simulator of the university course.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CourseArguments {
    /// The id of this replica.
    pub me: NodeId,
    /// The ids of the other replicas, in the order in which the command line lists them.
    pub others: Vec<NodeId>,
    address: Address,
}

/// The address at which this replica reaches the simulator that started it.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Address {
    /// The simulator receives datagrams on this UDP port of 127.0.0.1.
    Udp(u16),
    /// The simulator listens on the UNIX socket at this path, relative to the current directory.
    Unix(PathBuf),
}

/// An error in the command line of a replica under a simulator of the university course.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CourseArgumentsError {
    /// There are too few arguments: the id of this replica is missing.
    #[error("the argument with the id of this replica is missing")]
    Missing,
    /// The first argument is neither a UDP port nor the name of a UNIX socket.
    #[error(
        "simulator address `{0}` is neither a UDP port nor the name of a socket in the current \
         directory"
    )]
    Address(String),
    /// This argument is not a replica id, which consists of four hexadecimal digits other than
    /// FFFF.
    #[error("invalid replica id `{0}`: expected four hexadecimal digits other than FFFF")]
    Id(String),
    /// This replica id is given twice on the command line.
    #[error("replica id {0} is given twice; each id must occur once")]
    Twice(NodeId),
    /// The command line has this many replica ids, more than any simulator of the university course
    /// uses.
    #[error("{0} replica ids are given, but a cluster has at most {REPLICAS_MAX} replicas")]
    TooMany(usize),
}

impl CourseArguments {
    /// Parses a command line of the form `[PORT] MY_ID OTHER_ID...`. If the first argument consists
    /// of four hexadecimal digits and is the name of a UNIX socket in the current directory, it is
    /// both this replica's id and the simulator's address. Otherwise the first argument is a UDP
    /// port.
    ///
    /// # Errors
    /// If an argument is invalid.
    pub fn from_arguments(arguments: &[String]) -> Result<CourseArguments, CourseArgumentsError> {
        let (first, rest) = arguments.split_first().ok_or(CourseArgumentsError::Missing)?;
        let (address, me, others) = if parse_id(first).is_ok() && is_socket(first) {
            (Address::Unix(PathBuf::from(first)), first, rest)
        } else {
            let port = first.parse().ok().filter(|port| *port != 0);
            let port = port.ok_or_else(|| CourseArgumentsError::Address(first.clone()))?;
            let (me, others) = rest.split_first().ok_or(CourseArgumentsError::Missing)?;
            (Address::Udp(port), me, others)
        };
        let me = parse_id(me)?;
        let others = others.iter().map(|id| parse_id(id)).collect::<Result<Vec<_>, _>>()?;
        let mut all = others.clone();
        all.push(me);
        all.sort_unstable();
        if let Some(ids) = all.windows(2).find(|ids| ids[0] == ids[1]) {
            return Err(CourseArgumentsError::Twice(ids[0]));
        }
        if all.len() > REPLICAS_MAX {
            return Err(CourseArgumentsError::TooMany(all.len()));
        }
        Ok(CourseArguments { me, others, address })
    }

    /// Connects to the simulator and, if the connection uses UDP, sends a hello (first message) to
    /// it. Returns the transport over the connection, and the proof that a simulator has started
    /// this process.
    pub(super) fn connect(
        &self,
        now: Instant,
        counters: Arc<RuntimeCounters>,
    ) -> io::Result<(CourseTransport, NeverRestarts)> {
        let connection = match &self.address {
            Address::Udp(port) => Connection::open_udp(*port)?,
            Address::Unix(path) => Connection::open_unix(path)?,
        };
        let mut transport =
            CourseTransport::new(self.me, self.others.clone(), connection, counters);
        transport.send_hello(now);
        Ok((transport, NeverRestarts(())))
    }
}

fn parse_id(text: &str) -> Result<NodeId, CourseArgumentsError> {
    let invalid = || CourseArgumentsError::Id(text.to_owned());
    if text.len() != 4 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(invalid());
    }
    let id = NodeId(u16::from_str_radix(text, 16).map_err(|_| invalid())?);
    if id == course::BROADCAST { Err(invalid()) } else { Ok(id) }
}

fn is_socket(name: &str) -> bool {
    fs::metadata(name).is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CourseArguments, CourseArgumentsError> {
        let arguments: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        CourseArguments::from_arguments(&arguments)
    }

    #[test]
    fn simulator_port_and_replica_ids_are_parsed_from_arguments() {
        let expected = CourseArguments {
            me: NodeId(0x0A),
            others: vec![NodeId(2), NodeId(0)],
            address: Address::Udp(40_000),
        };
        assert_eq!(parse("40000 000A 0002 0000"), Ok(expected));
        // The first argument has four hexadecimal digits, but the current directory has no socket
        // with that name, so it is a port.
        let parsed = parse("9000 0001 0002").unwrap();
        assert_eq!((parsed.me, parsed.address), (NodeId(1), Address::Udp(9_000)));
    }

    #[test]
    fn error_for_an_invalid_replica_argument_names_the_argument() {
        use CourseArgumentsError::{Address, Id, Missing, TooMany, Twice};
        assert_eq!(parse(""), Err(Missing));
        assert_eq!(parse("40000"), Err(Missing));
        for address in ["0", "65536", "000A", "-1", "localhost"] {
            assert_eq!(parse(&format!("{address} 0001")), Err(Address(address.to_owned())));
        }
        for id in ["1", "00001", "00G1", "+001", "FFFF", "ffff"] {
            assert_eq!(parse(&format!("40000 0001 {id}")), Err(Id(id.to_owned())));
            assert_eq!(parse(&format!("40000 {id} 0001")), Err(Id(id.to_owned())));
        }
        assert_eq!(parse("40000 0001 0002 0001"), Err(Twice(NodeId(1))));
        assert_eq!(parse("40000 0001 0002 0002"), Err(Twice(NodeId(2))));
        let many: Vec<String> = (0..22).map(|id| format!("{id:04X}")).collect();
        assert_eq!(parse(&format!("40000 {}", many.join(" "))), Err(TooMany(22)));
    }
}
