//! Decoded replies, and rules to compare them.

/// A decoded reply: its first byte, the text after that, and its elements.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reply {
    kind: u8,
    text: Vec<u8>,
    items: Vec<Reply>,
}

/// How to compare two replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agreement {
    /// The replies must be equal in every byte.
    Exact,
    /// The elements of the replies must be equal, in any order.
    AnyOrder,
    /// The pairs of elements (fields and their values) must be equal, in any order.
    Pairs,
    /// The type and the length of the replies must be equal, because the elements are random.
    TypeAndLength,
    /// The replies must be numbers that differ by at most this. Numbers below 0 must be equal.
    Near(i64),
    /// The replies must be equal, except that times may differ by at most this: the number before
    /// the last one of a list of three or four elements, and the number after the name of a time.
    /// So may the sizes of Redis's radix trees, which keep nodes without entries for a while.
    Times(i64),
}

impl Reply {
    /// Decodes the first reply in `bytes`, and returns it with its length in bytes; `None` if the
    /// reply is incomplete.
    ///
    /// # Panics
    /// If the bytes are not a reply.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Reply, usize)> {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let (kind, text) = (bytes[0], &bytes[1..end]);
        let mut reply = Reply { kind, text: text.to_vec(), items: Vec::new() };
        let mut used = end + 2;
        let length = || -> i64 {
            let text = str::from_utf8(text).expect("a length is text");
            text.parse().unwrap_or_else(|_| panic!("no length: {:?}", bytes.escape_ascii()))
        };
        match kind {
            b'+' | b'-' | b':' | b',' | b'_' | b'#' | b'(' => {}
            b'$' | b'=' => {
                if let Ok(length) = usize::try_from(length()) {
                    reply.text = bytes.get(used..used + length)?.to_vec();
                    bytes.get(used + length..used + length + 2)?;
                    used += length + 2;
                } else {
                    // Null differs from a text that reads "-1".
                    reply.kind = b'_';
                }
            }
            b'*' | b'~' | b'%' | b'>' => {
                let length = if kind == b'%' { 2 * length() } else { length() };
                for _ in 0..length {
                    let (item, length) = Reply::parse(&bytes[used..])?;
                    reply.items.push(item);
                    used += length;
                }
            }
            _ => panic!("no reply: {:?}", bytes.escape_ascii().to_string()),
        }
        Some((reply, used))
    }

    /// Returns whether two replies agree, according to `agreement`. Errors must be equal in every
    /// byte.
    pub(crate) fn agrees(&self, other: &Reply, agreement: Agreement) -> bool {
        // Errors must be equal in every byte.
        if self.kind == b'-' || other.kind == b'-' {
            return self == other;
        }
        match agreement {
            Agreement::Exact => self == other,
            Agreement::AnyOrder => self.sorted() == other.sorted(),
            Agreement::Pairs => self.paired() == other.paired(),
            Agreement::TypeAndLength => {
                self.kind == other.kind && self.items.len() == other.items.len()
            }
            Agreement::Near(distance) => match (self.number(), other.number()) {
                (Some(one), Some(other)) if one >= 0 && other >= 0 => {
                    one.abs_diff(other) <= distance.unsigned_abs()
                }
                _ => self == other,
            },
            Agreement::Times(distance) => self.agrees_but_for_times(other, distance),
        }
    }

    fn agrees_but_for_times(&self, other: &Reply, distance: i64) -> bool {
        let head = |reply: &Reply| (reply.kind, reply.text.clone(), reply.items.len());
        let is_row = matches!(self.items.len(), 3..=4);
        head(self) == head(other)
            && self.items.iter().zip(&other.items).enumerate().all(|(at, (one, other))| {
                let before = at.checked_sub(1).map(|before| &self.items[before].text[..]);
                let is_time = is_row && at + 2 == self.items.len()
                    || matches!(
                        before,
                        Some(b"idle" | b"seen-time" | b"radix-tree-keys" | b"radix-tree-nodes")
                    );
                let agreement = Agreement::Near(distance);
                is_time && one.number().is_some() && one.agrees(other, agreement)
                    || one.agrees_but_for_times(other, distance)
            })
    }

    /// Returns whether this is the reply to a command that was queued for a transaction.
    pub(crate) fn is_queued(&self) -> bool {
        self.kind == b'+' && self.text == b"QUEUED"
    }

    /// Returns the elements of the reply.
    /// Returns the bytes of a bulk string; `None` for any other reply.
    pub(crate) fn bulk(&self) -> Option<&[u8]> {
        (self.kind == b'$').then_some(&self.text)
    }

    pub(crate) fn items(&self) -> &[Reply] {
        &self.items
    }

    fn number(&self) -> Option<i64> {
        str::from_utf8(&self.text).ok()?.parse().ok().filter(|_| self.kind == b':')
    }

    fn sorted(&self) -> Reply {
        let mut items: Vec<Reply> = self.items.iter().map(Reply::sorted).collect();
        items.sort_unstable();
        Reply { kind: self.kind, text: self.text.clone(), items }
    }

    fn paired(&self) -> Reply {
        if self.items.iter().any(|item| !item.items.is_empty()) {
            let items = self.items.iter().map(Reply::paired).collect();
            return Reply { kind: self.kind, text: self.text.clone(), items };
        }
        let mut pairs: Vec<&[Reply]> = self.items.chunks(2).collect();
        pairs.sort_unstable();
        let items = pairs.concat();
        Reply { kind: self.kind, text: self.text.clone(), items }
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", char::from(self.kind), self.text.escape_ascii())?;
        for (at, item) in self.items.iter().enumerate() {
            write!(f, "{}{item}", if at == 0 { " [" } else { ", " })?;
        }
        write!(f, "{}", if self.items.is_empty() { "" } else { "]" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(bytes: &[u8]) -> Reply {
        let (reply, used) = Reply::parse(bytes).unwrap();
        assert_eq!(used, bytes.len());
        for length in 0..bytes.len() {
            assert_eq!(Reply::parse(&bytes[..length]), None);
        }
        reply
    }

    #[test]
    fn redis_reply_comparison_obeys_the_selected_mode() {
        use Agreement::{AnyOrder, Exact, Near, Pairs, TypeAndLength};
        let one = reply(b"*4\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n");
        let other = reply(b"*4\r\n$1\r\nc\r\n$1\r\nd\r\n$1\r\na\r\n$1\r\nb\r\n");
        let third = reply(b"*4\r\n$1\r\nd\r\n$1\r\nc\r\n$1\r\na\r\n$1\r\nb\r\n");
        let agree = |agreement| [one.agrees(&other, agreement), one.agrees(&third, agreement)];
        assert_eq!(agree(Exact), [false, false]);
        assert_eq!(agree(Pairs), [true, false]);
        assert_eq!(agree(AnyOrder), [true, true]);
        assert!(reply(b":5\r\n").agrees(&reply(b":7\r\n"), Near(2)));
        assert!(!reply(b":5\r\n").agrees(&reply(b":7\r\n"), Near(1)));
        assert!(!reply(b":-1\r\n").agrees(&reply(b":-2\r\n"), Near(2)));
        assert!(!reply(b"-a\r\n").agrees(&reply(b"-b\r\n"), TypeAndLength));
        assert!(reply(b"$1\r\na\r\n").agrees(&reply(b"$1\r\nb\r\n"), TypeAndLength));
        assert_ne!(reply(b"$-1\r\n"), reply(b"$2\r\n-1\r\n"));
    }
}
