//! Requests that are done once however often their client sends them: sessions, and what came of
//! their latest requests.
//!
//! A session has a number, the place in the log where it was opened, which no other ever has. Its
//! requests are numbered from 1, and each is done when its number is the next one. One that was
//! done is answered from what is kept; one that can't be is refused in words of its own, and never
//! done again. Sessions expire by the replicated clock, and when there are too many the least
//! recently used one goes: after that its requests are refused, too.
//!
//! This is for clients that send again what they had no answer to, by whatever connection. What
//! replicas send one another again has names of its own (`sessions.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};

use crate::kv::command::Operation;
use crate::kv::commands::outcome::Outcome;
use crate::kv::keyspace::expiration::Millis;
use crate::kv::snapshot::{put_outcome, take_outcome};
use crate::kv::state_machine::StateMachine;
use crate::kv::values::codec::{put_bytes, take_bytes};
use crate::kv::values::digest::{Digest, fingerprint, key_hash, mix};

/// A session ends when it was not used for so long: a day.
const LIFETIME: Millis = 24 * 60 * 60 * 1_000;
/// Replies kept of each session.
const REPLIES_MAX: usize = 64;
/// Longest reply that is kept, as it is written in a snapshot.
const REPLY_BYTES_MAX: usize = 1 << 10;
/// Most sessions, and most bytes of all of them.
const SESSIONS_MAX: usize = 16_384;
const BYTES_MAX: usize = 64 << 20;
/// What a session takes beside its replies, and a reply beside its bytes, about.
const SESSION_BYTES: usize = 256;
const KEPT_BYTES: usize = 64;

/// All sessions.
///
/// Invariant: `digest` is the sum of the sessions' prints and `bytes` of what they take; `by_use`
/// has each session once, by the entry that used it last.
#[derive(Debug, Clone, Default)]
pub(super) struct ClientSessions {
    /// Shared with views of the state.
    by_number: BTreeMap<u64, Arc<ClientSession>>,
    by_use: BTreeMap<u64, u64>,
    digest: Digest,
    bytes: usize,
}

/// One session.
#[derive(Debug, Clone, Default)]
pub(super) struct ClientSession {
    /// The number of the latest request.
    last: u64,
    /// The entry that used it last, and the log's clock there.
    used: u64,
    used_at: Millis,
    /// What came of the latest requests; the newest, number `last`, is at the end.
    replies: VecDeque<Kept>,
    /// Of the replies.
    digest: Digest,
    bytes: usize,
}

/// What is kept of a request.
#[derive(Debug, Clone)]
struct Kept {
    /// Tells it from another request that comes under its number.
    print: u64,
    /// Its outcome; `None` if that is too long to be kept.
    outcome: Option<Bytes>,
}

/// What is to be done about a request.
enum Verdict {
    Run,
    Answer(Outcome),
}

impl Kept {
    fn new(print: u64, outcome: &Outcome) -> Kept {
        let mut bytes = Vec::new();
        // Not written out to be thrown away.
        let fits = outcome.value_bytes() <= 8 * REPLY_BYTES_MAX;
        if fits {
            put_outcome(outcome, &mut bytes);
        }
        let fits = fits && bytes.len() <= REPLY_BYTES_MAX;
        Kept { print, outcome: fits.then(|| Bytes::from(bytes)) }
    }

    fn bytes(&self) -> usize {
        KEPT_BYTES + self.outcome.as_ref().map_or(0, Bytes::len)
    }

    /// Its number in the digest, for the request of that number.
    fn print_at(&self, sequence: u64) -> u64 {
        let kept = self.outcome.as_ref().map_or(0, |bytes| fingerprint(self.print, bytes));
        mix(mix(sequence, self.print), kept)
    }

    fn answer(&self, print: u64) -> Outcome {
        if print != self.print {
            return Outcome::error("REUSEDSEQ another request was done under this number");
        }
        let Some(bytes) = &self.outcome else {
            return Outcome::error(format!(
                "LARGEREPLY the request was done, but its reply has more than {REPLY_BYTES_MAX} \
                 bytes and was not kept"
            ));
        };
        take_outcome(&mut &bytes[..]).expect("it was written by `put_outcome`, or read by its twin")
    }
}

impl ClientSession {
    fn memory(&self) -> usize {
        SESSION_BYTES + self.bytes
    }

    /// Its number in the digest.
    pub(super) fn print(&self, number: u64) -> u64 {
        [self.last, self.used, self.used_at, self.digest.at(0)].into_iter().fold(number, mix)
    }

    /// The number of the oldest reply that is kept.
    fn oldest(&self) -> u64 {
        self.last + 1 - self.replies.len() as u64
    }

    fn judge(&self, sequence: u64, print: u64) -> Verdict {
        if sequence == self.last.wrapping_add(1) {
            return Verdict::Run;
        }
        Verdict::Answer(if sequence > self.last {
            let next = self.last.wrapping_add(1);
            Outcome::error(format!("SEQGAP the session's next number is {next}; nothing was done"))
        } else if sequence < self.oldest() || sequence == 0 {
            Outcome::error(format!(
                "STALESEQ of this session the replies from number {} on are kept",
                self.oldest()
            ))
        } else {
            let at = usize::try_from(sequence - self.oldest()).expect("there are few");
            self.replies[at].answer(print)
        })
    }

    fn keep(&mut self, kept: Kept) {
        self.last += 1;
        self.digest.add(kept.print_at(self.last));
        self.bytes += kept.bytes();
        self.replies.push_back(kept);
        if self.replies.len() > REPLIES_MAX {
            let oldest = self.last - REPLIES_MAX as u64;
            let gone = self.replies.pop_front().expect("there are more than one");
            self.digest.remove(gone.print_at(oldest));
            self.bytes -= gone.bytes();
        }
    }

    /// Writes it, for a snapshot.
    pub(super) fn write(&self, number: u64, out: &mut Vec<u8>) {
        for word in [number, self.last, self.used, self.used_at] {
            out.put_u64_le(word);
        }
        out.put_u8(u8::try_from(self.replies.len()).expect("few are kept"));
        for kept in &self.replies {
            out.put_u64_le(kept.print);
            out.put_u8(u8::from(kept.outcome.is_some()));
            if let Some(outcome) = &kept.outcome {
                put_bytes(outcome, out);
            }
        }
    }

    /// Reads what [`ClientSession::write`] wrote, with the session's number.
    pub(super) fn read(from: &mut &[u8]) -> Option<(u64, ClientSession)> {
        let mut word = || from.try_get_u64_le().ok();
        let (number, last, used, used_at) = (word()?, word()?, word()?, word()?);
        let count = from.try_get_u8().ok()?;
        let before = last.checked_sub(u64::from(count))?;
        if usize::from(count) > REPLIES_MAX {
            return None;
        }
        let mut session = ClientSession { last: before, used, used_at, ..ClientSession::default() };
        for _ in 0..count {
            let print = from.try_get_u64_le().ok()?;
            let outcome = match from.try_get_u8().ok()? {
                0 => None,
                1 => {
                    let bytes = take_bytes(from)?;
                    let mut rest = bytes;
                    take_outcome(&mut rest).filter(|_| rest.is_empty())?;
                    Some(Bytes::copy_from_slice(bytes))
                }
                _ => return None,
            };
            session.keep(Kept { print, outcome });
        }
        Some((number, session))
    }
}

impl ClientSessions {
    /// The sum of the sessions' numbers.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Bytes of memory that all take, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All of them with their numbers, to be kept.
    pub(super) fn share(&self) -> Vec<(u64, Arc<ClientSession>)> {
        self.by_number.iter().map(|(number, session)| (*number, Arc::clone(session))).collect()
    }

    /// Puts a session in; false if its number, or the entry that used it, is taken.
    pub(super) fn insert(&mut self, number: u64, session: ClientSession) -> bool {
        if self.by_number.contains_key(&number) || self.by_use.contains_key(&session.used) {
            return false;
        }
        self.digest.add(session.print(number));
        self.bytes += session.memory();
        self.by_use.insert(session.used, number);
        self.by_number.insert(number, Arc::new(session));
        true
    }

    /// Takes a session out.
    fn remove(&mut self, number: u64) {
        let session = self.by_number.remove(&number).expect("called for one that is there");
        self.digest.remove(session.print(number));
        self.bytes -= session.memory();
        self.by_use.remove(&session.used);
    }

    /// The session that was used longest ago.
    fn oldest(&self) -> Option<(u64, &ClientSession)> {
        let (_, number) = self.by_use.first_key_value()?;
        Some((*number, &self.by_number[number]))
    }

    /// Lets those go whose time is over, and of the others as many as are too many.
    fn shrink(&mut self, clock: Millis) {
        while let Some((number, session)) = self.oldest()
            && (session.used_at.saturating_add(LIFETIME) <= clock
                || self.by_number.len() > SESSIONS_MAX
                || self.bytes > BYTES_MAX)
        {
            self.remove(number);
        }
    }

    /// Changes a session, which was used by the entry at `used`.
    fn change(
        &mut self,
        number: u64,
        used: u64,
        clock: Millis,
        change: impl FnOnce(&mut ClientSession),
    ) {
        let session = self.by_number.get_mut(&number).expect("called for one that is there");
        self.digest.remove(session.print(number));
        self.bytes -= session.memory();
        self.by_use.remove(&session.used);
        let session = Arc::make_mut(session);
        change(session);
        (session.used, session.used_at) = (used, clock);
        self.digest.add(session.print(number));
        self.bytes += session.memory();
        self.by_use.insert(used, number);
    }
}

impl StateMachine {
    /// Opens a session; its number.
    pub(super) fn open_session(&mut self) -> Outcome {
        let (number, clock) = (self.applied_index().0, self.clock());
        let session = ClientSession { used: number, used_at: clock, ..ClientSession::default() };
        self.client_sessions.insert(number, session);
        self.client_sessions.shrink(clock);
        Outcome::Integer(i64::try_from(number).expect("no log has so many entries"))
    }

    /// Does an operation, if the session's next request is this one.
    pub(super) fn do_once(
        &mut self,
        session: u64,
        sequence: u64,
        bytes: &[u8],
        seed: u64,
    ) -> Outcome {
        let (used, clock) = (self.applied_index().0, self.clock());
        self.client_sessions.shrink(clock);
        let print = fingerprint(key_hash(&[]), bytes);
        let verdict =
            self.client_sessions.by_number.get(&session).map(|there| there.judge(sequence, print));
        let Some(verdict) = verdict else {
            return Outcome::error(
                "NOSESSION there is no such session, or it has ended; nothing was done now",
            );
        };
        let kept = match verdict {
            Verdict::Answer(outcome) => {
                self.client_sessions.change(session, used, clock, |_| ());
                return outcome;
            }
            Verdict::Run => {
                let operation = Operation::decode(bytes).expect("it was looked at as a whole");
                let answer = self.answer(&operation, seed);
                answer.unwrap_or_else(|| self.perform(&operation, seed))
            }
        };
        self.client_sessions
            .change(session, used, clock, |there| there.keep(Kept::new(print, &kept)));
        self.client_sessions.shrink(clock);
        kept
    }

    /// How many sessions are open.
    pub fn session_count(&self) -> usize {
        self.client_sessions.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::state_machine::tests::Feeder;

    fn open(feeder: &mut Feeder) -> u64 {
        match feeder.apply(Operation::OpenSession) {
            Outcome::Integer(number) => number.cast_unsigned(),
            other => panic!("{other:?}"),
        }
    }

    fn add(feeder: &mut Feeder, session: u64, sequence: u64, amount: i64) -> Outcome {
        let operation = Operation::Add { key: b"n", amount }.encode();
        feeder.apply(Operation::Once { session, sequence, operation: &operation })
    }

    /// The first word of an error.
    fn code(outcome: &Outcome) -> &str {
        let Outcome::Error(text) = outcome else { panic!("{outcome:?} is no error") };
        std::str::from_utf8(text).unwrap().split(' ').next().unwrap()
    }

    #[test]
    fn each_request_is_done_once_and_answered_as_often_as_it_comes() {
        let mut feeder = Feeder::new();
        let (one, two) = (open(&mut feeder), open(&mut feeder));
        assert_eq!((one, two), (1, 2), "their places in the log");
        for sequence in 1..=3 {
            let sum = i64::try_from(sequence).unwrap() * 10;
            for _ in 0..3 {
                assert_eq!(add(&mut feeder, one, sequence, 10), Outcome::Integer(sum));
            }
        }
        assert_eq!(add(&mut feeder, one, 1, 10), Outcome::Integer(10));
        assert_eq!(code(&add(&mut feeder, one, 5, 10)), "SEQGAP");
        assert_eq!(code(&add(&mut feeder, one, 2, 11)), "REUSEDSEQ");
        assert_eq!(code(&add(&mut feeder, one, 0, 10)), "STALESEQ");
        assert_eq!(code(&add(&mut feeder, 3, 1, 10)), "NOSESSION");
        assert_eq!(add(&mut feeder, two, 1, 10), Outcome::Integer(40));
        assert_eq!(feeder.get(b"n").as_deref(), Some(&b"40"[..]));
    }

    #[test]
    fn what_is_refused_has_its_number_too() {
        let mut feeder = Feeder::new();
        let session = open(&mut feeder);
        feeder.apply(Operation::Put { key: b"n", value: b"text" });
        let refused = add(&mut feeder, session, 1, 1);
        assert!(matches!(refused, Outcome::Refused(_)));
        feeder.apply(Operation::Put { key: b"n", value: b"1" });
        assert_eq!(add(&mut feeder, session, 1, 1), refused);
        assert_eq!(add(&mut feeder, session, 2, 1), Outcome::Integer(2));
    }

    #[test]
    fn old_and_large_replies_are_not_kept_and_their_requests_not_done_again() {
        let mut feeder = Feeder::new();
        let session = open(&mut feeder);
        for sequence in 1..=100 {
            add(&mut feeder, session, sequence, 1);
        }
        assert_eq!(code(&add(&mut feeder, session, 36, 1)), "STALESEQ");
        assert_eq!(add(&mut feeder, session, 37, 1), Outcome::Integer(37));
        feeder.apply(Operation::Put { key: b"large", value: &[b'x'; 2_000] });
        let take = Operation::Take { key: b"large" }.encode();
        let once = Operation::Once { session, sequence: 101, operation: &take };
        assert!(matches!(feeder.apply(once), Outcome::Value(Some(_))));
        feeder.apply(Operation::Put { key: b"large", value: b"another" });
        assert_eq!(code(&feeder.apply(once)), "LARGEREPLY");
        assert_eq!(feeder.get(b"large").as_deref(), Some(&b"another"[..]));
        assert_eq!(add(&mut feeder, session, 102, 1), Outcome::Integer(101));
    }

    #[test]
    fn sessions_end_by_the_logs_clock_and_the_least_used_gives_way() {
        let mut feeder = Feeder::new();
        feeder.apply(Operation::Clock { millis: 1_000, resets: 0 });
        let (one, two) = (open(&mut feeder), open(&mut feeder));
        feeder.apply(Operation::Clock { millis: LIFETIME, resets: 0 });
        add(&mut feeder, two, 1, 1);
        feeder.apply(Operation::Clock { millis: LIFETIME + 1_000, resets: 0 });
        assert_eq!(code(&add(&mut feeder, one, 1, 1)), "NOSESSION");
        assert_eq!(add(&mut feeder, two, 2, 1), Outcome::Integer(2));
        let mut last = 0;
        for _ in 0..SESSIONS_MAX - 1 {
            last = open(&mut feeder);
        }
        assert_eq!(feeder.store.session_count(), SESSIONS_MAX);
        add(&mut feeder, two, 3, 1);
        open(&mut feeder);
        assert_eq!(feeder.store.session_count(), SESSIONS_MAX);
        assert_eq!(add(&mut feeder, two, 4, 1), Outcome::Integer(4), "just used");
        assert_eq!(add(&mut feeder, last, 1, 1), Outcome::Integer(5));
    }

    #[test]
    fn bytes_are_bounded() {
        let mut feeder = Feeder::new();
        let value = [b'x'; 900];
        feeder.apply(Operation::Put { key: b"k", value: &value });
        let condition = crate::kv::command::Condition::Always;
        let set = Operation::Set { key: b"k", value: &value, condition, tell_old: true }.encode();
        let mut sessions = Vec::new();
        for _ in 0..1_200 {
            let session = open(&mut feeder);
            sessions.push(session);
            for sequence in 1..=REPLIES_MAX as u64 {
                feeder.apply(Operation::Once { session, sequence, operation: &set });
            }
            assert!(feeder.store.client_sessions.bytes() <= BYTES_MAX);
        }
        assert!(feeder.store.session_count() < 1_200);
        let operation = &set;
        let first = Operation::Once { session: sessions[0], sequence: 1, operation };
        assert_eq!(code(&feeder.apply(first)), "NOSESSION");
        let last = Operation::Once { session: sessions[1_199], sequence: 1, operation };
        assert!(matches!(feeder.apply(last), Outcome::Value(Some(_))));
    }

    #[test]
    fn sessions_are_part_of_the_digest_and_stay_when_all_keys_go() {
        let mut feeder = Feeder::new();
        let before = feeder.store.digest();
        let session = open(&mut feeder);
        add(&mut feeder, session, 1, 1);
        feeder.apply(Operation::Clear);
        let mut other = Feeder::new();
        for _ in 0..3 {
            other.apply(Operation::Clear);
        }
        assert_ne!(feeder.store.digest(), other.store.digest());
        assert_ne!(feeder.store.digest(), before);
        assert_eq!(add(&mut feeder, session, 1, 1), Outcome::Integer(1));
    }
}
