//! Replica programs for tests: one is correct as long as no replica fails (all requests go to one
//! replica, without consensus), and the others misbehave. They run in the test program, which is
//! started as a child process.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

/// The behaviour of a replica program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Follows the protocol. Replica 0000 is always the leader.
    Sound,
    /// Behaves like `Sound`, but exits at the third request.
    QuitsLater,
    /// Sends a hello and then broadcasts messages without end.
    Floods,
    /// Replies to every request with half a JSON object.
    SendsBrokenJson,
    /// Replies to every get with a made-up value.
    Lies,
    /// Replies to every request twice: first with a redirect, then with ok.
    AnswersTwice,
    /// Never sends a hello.
    Mute,
}

/// The transport between the replica program and the simulator.
enum Wire {
    Udp(UdpSocket, u16),
    Packet(socket2::Socket),
    Lines(BufReader<UnixStream>),
}

impl Wire {
    fn send(&mut self, message: &str) {
        // If the simulator is gone, this process is killed soon.
        let _ = match self {
            Wire::Udp(socket, port) => socket.send_to(message.as_bytes(), ("127.0.0.1", *port)),
            Wire::Packet(socket) => socket.send(message.as_bytes()),
            Wire::Lines(stream) => {
                stream.get_mut().write_all(format!("{message}\n").as_bytes()).map(|()| 0)
            }
        };
    }

    fn receive(&mut self) -> Option<Value> {
        let mut bytes = vec![0; 1 << 16];
        let length = match self {
            Wire::Udp(socket, _) => socket.recv(&mut bytes).ok()?,
            Wire::Packet(socket) => socket.read(&mut bytes).ok()?,
            Wire::Lines(stream) => {
                bytes.clear();
                stream.read_until(b'\n', &mut bytes).ok()?
            }
        };
        serde_json::from_slice(&bytes[..length]).ok()
    }
}

/// Runs the replica program until it is killed. `arguments` are those that the simulator passes to
/// a replica.
pub(crate) fn run(habit: Habit, arguments: &[String]) -> ! {
    let with_port = arguments[0].parse::<u16>().is_ok_and(|_| arguments[0].len() != 4);
    let ids = &arguments[usize::from(with_port)..];
    let me = ids[0].clone();
    let mut wire = if with_port {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        Wire::Udp(socket, arguments[0].parse().unwrap())
    } else {
        connect(&me)
    };
    if habit == Habit::Mute {
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    if with_port {
        wire.send(&hello(&me).to_string());
    }
    if habit == Habit::Floods {
        loop {
            wire.send(
                &json!({"src": me, "dst": "FFFF", "leader": "0000", "type": "x"}).to_string(),
            );
        }
    }
    serve(habit, &me, &ids[1..], &mut wire)
}

fn hello(me: &str) -> Value {
    json!({"src": me, "dst": "FFFF", "leader": "FFFF", "type": "hello"})
}

fn connect(me: &str) -> Wire {
    let packet =
        socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::SEQPACKET, None).unwrap();
    match packet.connect(&socket2::SockAddr::unix(me).unwrap()) {
        Ok(()) => Wire::Packet(packet),
        Err(_) => Wire::Lines(BufReader::new(UnixStream::connect(me).unwrap())),
    }
}

fn serve(habit: Habit, me: &str, others: &[String], wire: &mut Wire) -> ! {
    let mut store = std::collections::BTreeMap::new();
    let mut requests = 0;
    loop {
        let Some(message) = wire.receive() else { std::process::exit(0) };
        let kind = message["type"].as_str().unwrap_or_default();
        if kind != "get" && kind != "put" {
            continue;
        }
        requests += 1;
        if habit == Habit::QuitsLater && requests == 3 {
            eprintln!("the disk is full");
            std::process::exit(7);
        }
        let answer = |kind: &str, value: Option<&Value>| {
            let mut answer = json!({
                "src": me, "dst": message["src"], "leader": "0000",
                "type": kind, "MID": message["MID"],
            });
            if let Some(value) = value {
                answer["value"] = value.clone();
            }
            answer.to_string()
        };
        if habit == Habit::SendsBrokenJson {
            wire.send("{\"src\": \"0000\", ");
        } else if me != "0000" || habit == Habit::AnswersTwice {
            wire.send(&answer("redirect", None));
            if habit == Habit::AnswersTwice {
                wire.send(&answer("ok", None));
            }
        } else if kind == "get" {
            let stored = store.get(message["key"].as_str().unwrap_or_default());
            let lie = Value::from("a lie");
            wire.send(&answer("ok", if habit == Habit::Lies { Some(&lie) } else { stored }));
        } else {
            store.insert(
                message["key"].as_str().unwrap_or_default().to_owned(),
                message["value"].clone(),
            );
            for other in others {
                wire.send(&json!({"src": me, "dst": other, "leader": me, "type": "x"}).to_string());
            }
            wire.send(&answer("ok", None));
        }
    }
}
