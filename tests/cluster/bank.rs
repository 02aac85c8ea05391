//! A bank as a consistency test: clients transfer money concurrently, between keys by WATCH, MULTI
//! and EXEC, and within one key by SET ... IFEQ. Each transfer between keys leaves a journal entry,
//! so that the order of these transfers is known. Replayed in that order, the transfers must give
//! the balances that clients have read, and the final balances.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::{Client, command};

const ACCOUNTS: u64 = 4;
const START: i64 = 1_000;
const JOURNAL: &[u8] = b"journal";
const PURSES: &[u8] = b"purses";
const BREATH: Duration = Duration::from_millis(3);

/// The transfers that clients have attempted, and their outcomes.
#[derive(Default)]
pub(crate) struct Transfers {
    /// Logical clock, which advances at each start and end of a transfer, so that no two of them
    /// have the same time.
    moment: AtomicU64,
    /// Transfers between keys, by name: logical time of the start and, if the transfer was
    /// acknowledged, of the end.
    known: Mutex<BTreeMap<String, (u64, Option<u64>)>>,
    /// Transfers within one key: for each value that a client tried to write, the value that it
    /// replaces.
    before: Mutex<BTreeMap<String, String>>,
    /// Values written by acknowledged transfers within one key.
    swapped: Mutex<BTreeSet<String>>,
    pub(crate) conflicts: AtomicU64,
    pub(crate) uncertain: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// Outcome of an attempted transfer.
enum Fate {
    Done,
    Conflict,
    Refused,
    Unknown,
}

fn account(number: u64) -> Vec<u8> {
    format!("account{number}").into_bytes()
}

/// Creates the accounts. Must be called before any client starts.
pub(crate) fn open(address: SocketAddr) {
    let mut client = Client::connect(address).unwrap();
    for number in 0..ACCOUNTS {
        let start = START.to_string();
        assert_eq!(client.call_until_ok(&[b"SET", &account(number), start.as_bytes()]), b"+OK\r\n");
    }
    let purses = first_purses();
    assert_eq!(client.call_until_ok(&[b"SET", PURSES, purses.as_bytes()]), b"+OK\r\n");
}

fn first_purses() -> String {
    written("begin", &(0..ACCOUNTS).map(|_| START).collect::<Vec<_>>())
}

fn written(name: &str, purses: &[i64]) -> String {
    let purses: Vec<String> = purses.iter().map(i64::to_string).collect();
    format!("{name} {}", purses.join(" "))
}

fn read_purses(text: &str) -> Vec<i64> {
    text.split(' ').skip(1).map(|number| number.parse().unwrap()).collect()
}

/// Returns the text of a bulk string reply; `None` for an error or a null reply.
fn bulk(reply: &[u8]) -> Option<String> {
    if reply[0] != b'$' || reply == b"$-1\r\n" {
        return None;
    }
    let start = reply.windows(2).position(|pair| pair == b"\r\n")? + 2;
    Some(String::from_utf8(reply[start..reply.len() - 2].to_vec()).unwrap())
}

fn fate_of(reply: &[u8]) -> Fate {
    let starts = |word: &[u8]| reply.starts_with(word);
    if starts(b"*-1\r\n") || starts(b"$-1\r\n") {
        Fate::Conflict
    } else if starts(b"+OK\r\n") || starts(b"*3\r\n+OK\r\n+OK\r\n:") {
        Fate::Done
    } else if [&b"-CLUSTERDOWN "[..], b"-LOADING ", b"-TRYAGAIN ", b"-EXECABORT "]
        .iter()
        .any(|it| starts(it))
    {
        Fate::Refused
    } else {
        assert!(starts(b"-UNCERTAIN "), "{}", String::from_utf8_lossy(reply));
        Fate::Unknown
    }
}

impl Transfers {
    fn now(&self) -> u64 {
        self.moment.fetch_add(1, Ordering::SeqCst)
    }

    fn count(&self, fate: &Fate) {
        let counter = match fate {
            Fate::Done => return,
            Fate::Conflict => &self.conflicts,
            Fate::Refused => &self.refused,
            Fate::Unknown => &self.uncertain,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs one client until `stop` is set. The client reconnects when its replica is killed.
    pub(crate) fn run(&self, address: SocketAddr, name: &str, stop: &AtomicBool) {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            let connected = Client::connect(address).and_then(|mut client| {
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let name = format!("{name}.{number}");
                    match number % 4 {
                        0 => Transfers::look(&mut client)?,
                        1 => self.swap(&mut client, &name, number)?,
                        _ => self.transfer(&mut client, &name, number)?,
                    }
                    thread::sleep(BREATH);
                }
                Ok(())
            });
            if connected.is_err() {
                thread::sleep(BREATH * 5);
            }
        }
    }

    /// Returns the two accounts and the amount of the transfer with this number.
    fn draw(number: u64) -> (u64, u64, i64) {
        let drawn = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        let (from, amount) = (drawn % ACCOUNTS, i64::try_from(drawn / 64 % 9).unwrap() + 1);
        (from, (from + 1 + drawn / 8 % (ACCOUNTS - 1)) % ACCOUNTS, amount)
    }

    /// Attempts a transfer between two keys. Commands that do not depend on a reply are sent
    /// together.
    fn transfer(&self, client: &mut Client, name: &str, number: u64) -> io::Result<()> {
        let (from, to, amount) = Transfers::draw(number);
        let (from_key, to_key) = (account(from), account(to));
        let mut ask = command(&[b"WATCH", &from_key, &to_key]);
        ask.extend(command(&[b"MGET", &from_key, &to_key]));
        client.send(&ask)?;
        let watching = client.reply()? == b"+OK\r\n";
        let reply = String::from_utf8(client.reply()?).unwrap();
        if !watching || !reply.starts_with('*') {
            client.call(&[b"UNWATCH"])?;
            self.count(&Fate::Refused);
            return Ok(());
        }
        let held: Vec<i64> =
            reply.lines().skip(2).step_by(2).map(|it| it.parse().unwrap()).collect();
        let entry = format!("{name} {from} {} {to} {} {amount};", held[0], held[1]);
        let mut ask = command(&[b"MULTI"]);
        ask.extend(command(&[b"SET", &from_key, (held[0] - amount).to_string().as_bytes()]));
        ask.extend(command(&[b"SET", &to_key, (held[1] + amount).to_string().as_bytes()]));
        ask.extend(command(&[b"APPEND", JOURNAL, entry.as_bytes()]));
        ask.extend(command(&[b"EXEC"]));
        self.known.lock().unwrap().insert(name.to_owned(), (self.now(), None));
        let reply = client.send(&ask).and_then(|()| {
            for _ in 0..4 {
                client.reply()?;
            }
            client.reply()
        });
        let fate = reply.as_ref().map_or(Fate::Unknown, |reply| fate_of(reply));
        self.count(&fate);
        let mut known = self.known.lock().unwrap();
        match fate {
            Fate::Done => known.get_mut(name).unwrap().1 = Some(self.now()),
            // Not applied, and never will be.
            Fate::Conflict | Fate::Refused => drop(known.remove(name)),
            Fate::Unknown => {}
        }
        reply.map(drop)
    }

    /// Attempts a transfer within one key.
    fn swap(&self, client: &mut Client, name: &str, number: u64) -> io::Result<()> {
        let Some(old) = bulk(&client.call(&[b"GET", PURSES])?) else {
            self.count(&Fate::Refused);
            return Ok(());
        };
        let (from, to, amount) = Transfers::draw(number);
        let mut purses = read_purses(&old);
        purses[usize::try_from(from).unwrap()] -= amount;
        purses[usize::try_from(to).unwrap()] += amount;
        let new = written(name, &purses);
        self.before.lock().unwrap().insert(new.clone(), old.clone());
        let reply = client.call(&[b"SET", PURSES, new.as_bytes(), b"IFEQ", old.as_bytes()]);
        let fate = reply.as_ref().map_or(Fate::Unknown, |reply| fate_of(reply));
        self.count(&fate);
        if let Fate::Done = fate {
            self.swapped.lock().unwrap().insert(new);
        }
        reply.map(drop)
    }

    /// Reads all accounts at one moment, in two ways (MGET and a transaction), and checks that the
    /// sum is constant.
    fn look(client: &mut Client) -> io::Result<()> {
        let keys: Vec<Vec<u8>> = (0..ACCOUNTS).map(account).collect();
        let mut arguments: Vec<&[u8]> = vec![b"MGET"];
        arguments.extend(keys.iter().map(Vec::as_slice));
        let mut ask = command(&arguments);
        ask.extend(command(&[b"MULTI"]));
        for key in &keys {
            ask.extend(command(&[b"GET", key]));
        }
        ask.extend(command(&[b"EXEC"]));
        client.send(&ask)?;
        let first = client.reply()?;
        for _ in 0..=ACCOUNTS {
            client.reply()?;
        }
        for reply in [first, client.reply()?] {
            let reply = String::from_utf8(reply).unwrap();
            if reply.starts_with('*') {
                let held = reply.lines().skip(2).step_by(2);
                let sum: i64 = held.map(|number| number.parse::<i64>().unwrap()).sum();
                assert_eq!(sum, START * i64::try_from(ACCOUNTS).unwrap(), "{reply}");
            }
        }
        Ok(())
    }

    /// Returns the numbers of acknowledged transfers: between keys, and within one key.
    pub(crate) fn acknowledged(&self) -> [usize; 2] {
        let known = self.known.lock().unwrap();
        let transfers = known.values().filter(|(_, end)| end.is_some()).count();
        [transfers, self.swapped.lock().unwrap().len()]
    }

    /// Compares the final state on each replica with the acknowledged transfers. All accounts are
    /// read at one moment, because a transfer with an unknown outcome may still be applied.
    pub(crate) fn judge(&self, addresses: &[SocketAddr]) {
        let accounts: Vec<Vec<u8>> = (0..ACCOUNTS).map(account).collect();
        let mut arguments: Vec<&[u8]> = vec![b"MGET", JOURNAL, PURSES];
        arguments.extend(accounts.iter().map(Vec::as_slice));
        for address in addresses {
            let reply = Client::connect(*address).unwrap().call_until_ok(&arguments);
            let reply = String::from_utf8(reply).unwrap();
            let all = reply.strip_prefix(&format!("*{}\r\n", arguments.len() - 1)).expect(&reply);
            // Each value is its length and its bytes, or null.
            let mut lines = all.lines();
            let mut next = || match lines.next().expect("one for each key") {
                "$-1" => None,
                _ => Some(lines.next().expect("it has a length")),
            };
            let (journal, purses) = (next().unwrap_or_default(), next().expect("it was opened"));
            let held = self.judge_journal(journal);
            self.judge_purses(purses);
            for held in held {
                assert_eq!(next(), Some(&*held.to_string()), "at {address}");
            }
        }
    }

    /// Replays the transfers in the journal, checks them, and returns the resulting balances of all
    /// accounts.
    fn judge_journal(&self, journal: &str) -> Vec<i64> {
        let known = self.known.lock().unwrap();
        let mut held = vec![START; usize::try_from(ACCOUNTS).unwrap()];
        let (mut seen, mut latest_begin) = (BTreeSet::new(), 0);
        for entry in journal.split_terminator(';') {
            let words: Vec<&str> = entry.split(' ').collect();
            let numbers: Vec<i64> =
                words[1..].iter().map(|number| number.parse().unwrap()).collect();
            let [from, from_held, to, to_held, amount] = numbers[..] else { panic!("{entry}") };
            let (from, to) = (usize::try_from(from).unwrap(), usize::try_from(to).unwrap());
            // The transfer has read the state that the previous transfer left: no update was lost.
            assert_eq!((held[from], held[to]), (from_held, to_held), "{entry} in {journal}");
            (held[from], held[to]) = (from_held - amount, to_held + amount);
            assert!(seen.insert(words[0]), "{entry} is there twice");
            let (begin, end) = known.get(words[0]).unwrap_or_else(|| panic!("refused: {entry}"));
            // No transfer ended before an earlier one in the journal started.
            assert!(end.is_none_or(|end| end > latest_begin), "{entry} is out of order");
            latest_begin = latest_begin.max(*begin);
        }
        for (name, (_, end)) in known.iter() {
            let lost = end.is_some() && !seen.contains(name.as_str());
            assert!(!lost, "{name} was acknowledged and is lost");
        }
        held
    }

    fn judge_purses(&self, purses: &str) {
        let swapped = self.swapped.lock().unwrap();
        let before = self.before.lock().unwrap();
        let sum: i64 = read_purses(purses).iter().sum();
        assert_eq!(sum, START * i64::try_from(ACCOUNTS).unwrap());
        let mut there = purses.to_owned();
        let mut chain = BTreeSet::new();
        while there != first_purses() {
            let old = before.get(&there).unwrap_or_else(|| panic!("no client wrote {there}"));
            assert!(chain.insert(there.clone()), "a circle");
            there.clone_from(old);
        }
        for new in swapped.iter() {
            assert!(chain.contains(new), "{new} was acknowledged and is lost");
        }
    }
}
